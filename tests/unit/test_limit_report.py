"""Where limits stand, as the bodies of the limits routes."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gateway.envelope import envelope
from gateway.limit_headers import rejection_error
from gateway.limit_report import (
    PreviewReport,
    find_next_binding,
    report_limits,
    report_preview,
)
from policies.ledger import Admitted, LimitState, Rejected, RejectionReason, Usage
from policies.plans import Concurrency, Limit, Plan, Quota, Rate

NOW_MS = 1_700_000_000_500
PLAN = Plan(plan="growth", title="Growth", on_store_failure="open")
TPM = Rate(of="tokens", limit=600_000, per="minute")
DAILY = Quota(of="requests", limit=500, per="day")
FIFTY = Concurrency(limit=50)
RESERVE = Usage(1, 510)


def state(limit: Limit, used: int = 0, **fields: Any) -> LimitState:
    capacity = limit.capacity if isinstance(limit, Rate) else limit.limit
    fields = {"capacity": capacity, "reset_after_ms": 0} | fields
    return LimitState(limit=limit, used=used, **fields)


def admitted(*states: LimitState, is_exact: bool = True) -> Admitted:
    return Admitted(lease_id="l", states=states, is_exact=is_exact)


def rejected(
    binding: LimitState, reason: RejectionReason, wait_ms: int | None
) -> Rejected:
    return Rejected(
        reason=reason,
        binding=binding,
        requested=510,
        retry_after_ms=wait_ms,
        states=(state(FIFTY), binding),
    )


def told(*states: LimitState, is_exact: bool = True) -> Any:
    decision = admitted(*states, is_exact=is_exact)
    return msgspec.to_builtins(report_limits("acme", PLAN, decision, now_ms=NOW_MS))


def previewed(decision: Admitted | Rejected) -> PreviewReport:
    return report_preview(PLAN, RESERVE, decision, now_ms=NOW_MS)


def test_rate_is_told_with_every_field() -> None:
    (limit,) = told(state(TPM, 1200, reserved=600, reset_after_ms=120))["limits"]

    assert {
        "dimension": "tokens-per-minute",
        "whose": "workspace",
        "kind": "rate",
        "of": "tokens",
        "per": "minute",
        "limit": 600_000,
        "capacity": 600_000,
        "used": 1200,
        "reserved": 600,
        "remaining": 598_800,
        "shadow": False,
        "reset_after_ms": 120,
        "resets_at": 1_700_000_001,
    } == limit


@pytest.mark.parametrize(
    ("limit", "form"),
    [
        pytest.param(TPM, ("rate", "tokens", "minute"), id="rate"),
        pytest.param(DAILY, ("quota", "requests", "day"), id="quota"),
        pytest.param(FIFTY, ("concurrency", "leases", None), id="concurrency"),
    ],
)
def test_kind_unit_and_period_are_told(
    limit: Limit, form: tuple[str, str, str | None]
) -> None:
    (said,) = told(state(limit))["limits"]

    assert form == (said["kind"], said["of"], said["per"])


def test_burst_is_the_capacity_and_not_the_limit() -> None:
    burst = Rate(of="requests", limit=600, per="minute", burst=200)

    (said,) = told(state(burst, 50))["limits"]

    assert (600, 200, 150) == (said["limit"], said["capacity"], said["remaining"])


def test_nobody_knows_when_a_lease_ends() -> None:
    (said,) = told(state(FIFTY, 1))["limits"]

    assert (None, None) == (said["reset_after_ms"], said["resets_at"])


def test_keys_limit_is_told_as_the_keys() -> None:
    (said,) = told(state(TPM, is_of_key=True))["limits"]

    assert ("key-tokens-per-minute", "key") == (said["dimension"], said["whose"])


def test_overdrawn_limit_has_nothing_left() -> None:
    (said,) = told(state(DAILY, 700))["limits"]

    assert (700, 0) == (said["used"], said["remaining"])


@pytest.mark.parametrize(("is_exact", "store"), [(True, "exact"), (False, "open")])
def test_store_is_exact_or_what_stands_in_for_it(is_exact: bool, store: str) -> None:
    assert store == told(is_exact=is_exact)["store"]


SHADOW = Rate(of="requests", limit=2, per="minute", shadow=True)


@pytest.mark.parametrize(
    ("states", "name"),
    [
        pytest.param([], None, id="unlimited"),
        pytest.param([state(SHADOW, 2)], None, id="shadow-only"),
        pytest.param(
            [state(TPM, 300_000), state(DAILY, 300), state(SHADOW, 2)],
            "requests-per-calendar-day",
            id="share-not-number",
        ),
        pytest.param(
            [state(TPM, 599_000), state(FIFTY, 49)],
            "tokens-per-minute",
            id="number-not-share",
        ),
        pytest.param(
            [state(DAILY), state(FIFTY)], "requests-per-calendar-day", id="first"
        ),
        pytest.param(
            [state(DAILY, 499), state(Concurrency(limit=0))],
            "concurrency",
            id="suspended",
        ),
        pytest.param(
            [state(DAILY), state(DAILY, 1, is_of_key=True)],
            "key-requests-per-calendar-day",
            id="key",
        ),
    ],
)
def test_next_to_bind_has_the_smallest_share_left(
    states: list[LimitState], name: str | None
) -> None:
    assert name == find_next_binding(states)


def test_preview_that_passes_has_nothing_to_say_of_errors() -> None:
    said = msgspec.to_builtins(previewed(admitted(state(FIFTY))))

    assert [50] == [limit.pop("limit") for limit in said.pop("limits")]
    assert {
        "object": "limits.preview",
        "would_pass": True,
        "reason": None,
        "retry_after_ms": None,
        "reserve": {"requests": 1, "tokens": 510},
        "binding": None,
        "error": None,
    } == said


@pytest.mark.parametrize(
    ("limit", "reason", "wait_ms"),
    [
        pytest.param(TPM, "rate", 3000, id="rate"),
        pytest.param(DAILY, "quota", 90_000_000, id="quota"),
        pytest.param(FIFTY, "concurrency", None, id="concurrency"),
        pytest.param(TPM, "too_large", None, id="too-large"),
    ],
)
def test_preview_that_does_not_pass_has_the_ledgers_wait(
    limit: Limit, reason: RejectionReason, wait_ms: int | None
) -> None:
    said = previewed(rejected(state(limit, 7), reason, wait_ms))

    assert (False, reason, wait_ms) == (
        said.would_pass,
        said.reason,
        said.retry_after_ms,
    )
    assert said.limits[1] == said.binding


def test_preview_has_the_error_that_the_request_would_get() -> None:
    decision = rejected(state(TPM, 600_000), "rate", 3000)

    error = rejection_error(decision, PLAN, now_ms=NOW_MS)
    assert msgspec.json.decode(envelope(error)) == {
        "error": msgspec.to_builtins(previewed(decision).error)
    }
