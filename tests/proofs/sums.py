"""What a workspace was given by the upstream, got, and was charged: one number."""

from __future__ import annotations

from typing import Any

from tests.proofs.check import Check
from tests.proofs.deployment import Deployment


async def sum_checks(
    deployment: Deployment,
    plan: str,
    tally: dict[str, Any],
    *,
    requests: int,
    tokens: int,
) -> list[Check]:
    """Held against each other to the unit; requests and tokens are the clients'."""
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


def _equal(name: str, *figures: int) -> Check:
    text = ", ".join(f"{figure:,}" for figure in figures)
    return Check(name, text, len(set(figures)) == 1)
