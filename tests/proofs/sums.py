"""What a workspace was given by the upstream, got, and was charged: one number."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Final

from tests.proofs.check import Check, until
from tests.proofs.deployment import Deployment

SETTLED_WITHIN_S: Final = 5.0


async def sum_checks(
    deployment: Deployment,
    plan: str,
    tally: dict[str, Any],
    *,
    requests: int,
    tokens: int,
) -> list[Check]:
    """Held against each other to the unit; requests and tokens are the clients'."""
    # No client waits for its settlement, and a busy machine is late with them.
    with suppress(TimeoutError):
        await until(
            lambda: _is_settled(deployment, plan),
            "the settlements",
            within_s=SETTLED_WITHIN_S,
        )
    limits = await deployment.limits(plan)
    given = tally[f"ws-{plan}"]
    return [
        _equal(
            f"{plan}: requests charged, answered, and upstream's",
            limits["requests-per-calendar-month"]["used"],
            requests,
            given["answered"],
        ),
        _equal(
            f"{plan}: tokens charged, delivered, and upstream's",
            limits["tokens-per-calendar-month"]["used"],
            tokens,
            given["tokens"],
        ),
    ]


async def _is_settled(deployment: Deployment, plan: str) -> bool:
    limits = await deployment.limits(plan)
    return not any(limit["reserved"] for limit in limits.values())


def _equal(name: str, *figures: int) -> Check:
    text = ", ".join(f"{figure:,}" for figure in figures)
    return Check(name, text, len(set(figures)) == 1)
