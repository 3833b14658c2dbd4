"""Where limits stand, in both vocabularies, and what a rejected client is told."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import LimitExceeded, envelope, retry_headers
from gateway.limit_headers import (
    CONCURRENCY_RETRY_MS,
    degraded_headers,
    go_duration,
    limit_headers,
    rejection_error,
)
from policies.ledger import LimitState, Rejected, RejectionReason
from policies.plans import Concurrency, Limit, Plan, Quota, Rate, StoreFailure

NOW_MS = 1_700_000_000_500
PLAN = Plan(plan="growth", title="Growth")
RPM = Rate(of="requests", limit=60, per="minute", burst=10)
TPM = Rate(of="tokens", limit=40_000, per="minute")
DAILY = Quota(of="tokens", limit=1_000_000, per="day")
MONTHLY = Quota(of="requests", limit=5_000, per="month")
FIVE = Concurrency(limit=5)

CAPACITY: dict[str, int] = {
    RPM.name: 10,
    TPM.name: 40_000,
    DAILY.name: 1_000_000,
    MONTHLY.name: 5_000,
    FIVE.name: 5,
}


def state(
    limit: Limit, used: int = 0, reset_after_ms: int = 0, *, is_of_key: bool = False
) -> LimitState:
    return LimitState(
        limit=limit,
        capacity=CAPACITY[limit.name],
        used=used,
        is_of_key=is_of_key,
        reset_after_ms=reset_after_ms,
    )


def sent(*states: LimitState) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in limit_headers(states)}


def rejected(
    limit: Limit,
    reason: RejectionReason,
    *,
    used: int = 5,
    wait_ms: int | None = None,
    plan: Plan = PLAN,
    is_of_key: bool = False,
    is_exact: bool = True,
) -> LimitExceeded:
    binding = state(limit, used, 30_000, is_of_key=is_of_key)
    decision = Rejected(
        reason=reason,
        binding=binding,
        requested=3,
        retry_after_ms=wait_ms,
        states=(binding,),
        is_exact=is_exact,
    )
    return rejection_error(decision, plan, now_ms=NOW_MS)


def retry(error: LimitExceeded) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in retry_headers(error)}


GO = re.compile(r"^(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)(?:\.(\d{1,3}))?s)$|^(\d+)ms$")


def go_milliseconds(text: str) -> int:
    """What Go's time.ParseDuration reads."""
    found = GO.match(text)
    assert found, text
    hours, minutes, seconds, fraction, only_ms = found.groups()
    if only_ms is not None:
        return int(only_ms)
    whole_s = int(hours or 0) * 3600 + int(minutes or 0) * 60 + int(seconds)
    return whole_s * 1000 + int((fraction or "").ljust(3, "0"))


@given(st.integers(0, 40 * 86_400_000))
def test_duration_is_read_back_as_it_was(milliseconds: int) -> None:
    assert milliseconds == go_milliseconds(go_duration(milliseconds))


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (0, "0ms"),
        (12, "12ms"),
        (999, "999ms"),
        (1000, "1s"),
        (8640, "8.64s"),
        (59_999, "59.999s"),
        (360_000, "6m0s"),
        (61_500, "1m1.5s"),
        (3_600_000, "1h0m0s"),
        (90_000_000, "25h0m0s"),
    ],
)
def test_duration_is_written_as_openai_does(milliseconds: int, text: str) -> None:
    assert text == go_duration(milliseconds)


def test_no_limits_have_no_headers() -> None:
    assert {} == sent()


@pytest.mark.parametrize(
    ("limit", "policy", "now", "openai"),
    [
        pytest.param(
            RPM,
            '"requests-per-minute";q=60;w=60',
            '"requests-per-minute";r=7;t=3',
            {"limit-requests": "10", "remaining-requests": "7"},
            id="rate-of-requests",
        ),
        pytest.param(
            TPM,
            '"tokens-per-minute";q=40000;w=60;llmtune-unit="tokens"',
            '"tokens-per-minute";r=39997;t=3',
            {"limit-tokens": "40000", "remaining-tokens": "39997"},
            id="rate-of-tokens",
        ),
        pytest.param(
            DAILY,
            '"tokens-per-calendar-day";q=1000000;w=86400;llmtune-unit="tokens"',
            '"tokens-per-calendar-day";r=999997;t=3',
            {"limit-tokens": "1000000", "remaining-tokens": "999997"},
            id="quota-of-tokens",
        ),
        pytest.param(
            MONTHLY,
            '"requests-per-calendar-month";q=5000;w=2592000',
            '"requests-per-calendar-month";r=4997;t=3',
            {"limit-requests": "5000", "remaining-requests": "4997"},
            id="quota-of-requests",
        ),
        pytest.param(
            FIVE,
            '"concurrency";q=5;qu="concurrent-requests"',
            '"concurrency";r=2;t=3',
            {},
            id="concurrency",
        ),
    ],
)
def test_limit_of_every_kind_is_written_in_both_vocabularies(
    limit: Limit, policy: str, now: str, openai: dict[str, str]
) -> None:
    headers = sent(state(limit, 3, 2_640))

    reset = {f"reset-{key.split('-')[1]}": "2.64s" for key in openai}
    assert {
        "ratelimit-policy": policy,
        "ratelimit": now,
        **{f"x-ratelimit-{name}": value for name, value in {**openai, **reset}.items()},
    } == headers


def test_several_limits_are_listed_in_their_order() -> None:
    headers = sent(state(RPM), state(DAILY), state(FIVE))

    names = [item.split(";")[0] for item in headers["ratelimit"].split(", ")]
    assert ['"requests-per-minute"', '"tokens-per-calendar-day"', '"concurrency"'] == (
        names
    )


def test_openais_headers_report_the_limit_with_the_least_left() -> None:
    headers = sent(state(TPM, 100), state(DAILY, 950_000))

    assert ("40000", "39900") == (
        headers["x-ratelimit-limit-tokens"],
        headers["x-ratelimit-remaining-tokens"],
    )


def test_openais_headers_report_the_tighter_of_workspace_and_key() -> None:
    headers = sent(state(TPM, 100), state(TPM, 5_000, is_of_key=True))

    assert "35000" == headers["x-ratelimit-remaining-tokens"]


@pytest.mark.parametrize("limit", [RPM, TPM, DAILY, MONTHLY, FIVE])
def test_keys_limit_is_told_from_its_workspaces(limit: Limit) -> None:
    headers = sent(state(limit, 1, 1), state(limit, 2, 1, is_of_key=True))

    both = [f'"{limit.name}"', f'"key-{limit.name}"']
    for name in ("ratelimit", "ratelimit-policy"):
        assert both == [item.split(";")[0] for item in headers[name].split(", ")]


def test_overdrawn_limit_has_nothing_left() -> None:
    assert "0" == sent(state(TPM, 50_000))["x-ratelimit-remaining-tokens"]


def test_untouched_limit_has_no_reset() -> None:
    assert '"requests-per-minute";r=10' == sent(state(RPM))["ratelimit"]


def test_shadow_limit_is_not_shown() -> None:
    shadow = Rate(of="requests", limit=60, per="minute", burst=10, shadow=True)

    assert {} == sent(state(shadow, 9))


def test_header_values_are_plain_ascii() -> None:
    states = [state(limit, 1, 1) for limit in (RPM, TPM, DAILY, MONTHLY, FIVE)]

    assert all(
        value.isascii() and value.isprintable() for value in sent(*states).values()
    )


@pytest.mark.parametrize(
    ("limit", "reason", "code", "message"),
    [
        pytest.param(
            RPM,
            "rate",
            "rate_limit_exceeded",
            "Rate limit reached for requests-per-minute on plan Growth: Limit 10,"
            " Used 5, Requested 3. Please try again in 1.5s.",
            id="rate",
        ),
        pytest.param(
            FIVE,
            "concurrency",
            "concurrency_limit_exceeded",
            "Too many requests in flight for concurrency on plan Growth: Limit 5,"
            " Used 5, Requested 3.",
            id="concurrency",
        ),
        pytest.param(
            DAILY,
            "quota",
            "insufficient_quota",
            "You exceeded your current quota, please check your plan and billing"
            " details: tokens-per-calendar-day on plan Growth: Limit 1000000, Used 5,"
            " Requested 3.",
            id="quota",
        ),
        pytest.param(
            TPM,
            "too_large",
            "request_exceeds_limit",
            "The request is larger than tokens-per-minute on plan Growth can ever"
            " hold: Limit 40000, Used 5, Requested 3.",
            id="too-large",
        ),
    ],
)
def test_rejection_says_which_limit_and_how_full(
    limit: Limit, reason: RejectionReason, code: str, message: str
) -> None:
    error = rejected(limit, reason, wait_ms=1500)

    assert (429, code, message) == (error.http_status, error.error_code, error.message)


@pytest.mark.parametrize(
    ("limit", "reason", "wait_ms", "expected"),
    [
        pytest.param(
            RPM,
            "rate",
            1500,
            {"retry-after": "2", "retry-after-ms": "1500"},
            id="rate",
        ),
        pytest.param(
            RPM,
            "rate",
            90_000,
            {"retry-after": "90", "retry-after-ms": "90000", "x-should-retry": "false"},
            id="rate-for-long",
        ),
        pytest.param(
            FIVE,
            "concurrency",
            None,
            {"retry-after": "1", "retry-after-ms": f"{CONCURRENCY_RETRY_MS}"},
            id="concurrency",
        ),
        pytest.param(
            DAILY,
            "quota",
            30_000,
            {"retry-after": "30", "retry-after-ms": "30000", "x-should-retry": "false"},
            id="quota",
        ),
        pytest.param(
            TPM, "too_large", None, {"x-should-retry": "false"}, id="too-large"
        ),
    ],
)
def test_rejection_says_when_and_whether_to_retry(
    limit: Limit,
    reason: RejectionReason,
    wait_ms: int | None,
    expected: dict[str, str],
) -> None:
    # And to proxies on the way: never.
    expected = {**expected, "x-envoy-ratelimited": "true"}
    assert expected == retry(rejected(limit, reason, wait_ms=wait_ms))


@pytest.mark.parametrize(
    ("limit", "resets_at"),
    [(RPM, 1_700_000_031), (DAILY, 1_700_000_031), (FIVE, None)],
)
def test_rejection_has_the_figures_as_details(
    limit: Limit, resets_at: int | None
) -> None:
    said: Any = json.loads(envelope(rejected(limit, "rate")))["error"]["details"]

    assert {
        "plan": "growth",
        "dimension": limit.name,
        "limit": CAPACITY[limit.name],
        "used": 5,
        "requested": 3,
        "resets_at": resets_at,
        "whose": "gateway",
    } == said


def test_rejection_carries_the_headers_of_its_own_decision() -> None:
    assert limit_headers([state(RPM, 5, 30_000)]) == rejected(RPM, "rate").headers


def test_plan_without_a_title_is_called_by_its_name() -> None:
    error = rejected(RPM, "rate", plan=Plan(plan="sandbox"))

    assert "on plan sandbox:" in error.message


def test_rejection_by_a_keys_limit_says_that_it_is_the_keys() -> None:
    error = rejected(RPM, "rate", wait_ms=1500, is_of_key=True)

    assert "key-requests-per-minute" == (error.details or {})["dimension"]
    assert error.message.startswith(
        "Rate limit reached for key-requests-per-minute of this API key: Limit 10,"
    )


@pytest.mark.parametrize(
    ("mode", "header"),
    [
        pytest.param("share", b"share", id="share"),
        pytest.param("open", b"open", id="open"),
        # Refused by then; what it is shown meanwhile is a share.
        pytest.param("closed", b"share", id="closed"),
    ],
)
def test_decision_without_the_store_names_what_stood_in(
    mode: StoreFailure, header: bytes
) -> None:
    plan = Plan(plan="p", on_store_failure=mode)

    assert ((b"x-llmtune-degraded", header),) == degraded_headers(plan)


def test_rejection_without_the_store_says_so() -> None:
    error = rejected(RPM, "rate", is_exact=False)

    assert (b"x-llmtune-degraded", b"share") == error.headers[-1]
