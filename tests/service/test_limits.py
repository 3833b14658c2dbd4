"""
Plan limits as a client meets them: exact, all or nothing, and told the truth about.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.conftest import StartGateway
from tests.gateway_under_test import GatewayUnderTest
from tests.upstream import ScriptedUpstream

FIVE = "plan: five\nconcurrency: 5\nrates: [{of: requests, limit: 1000, per: hour}]"


async def test_100_concurrent_requests_against_5_admit_exactly_5(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """Not four, not six: the rest are told so, and are charged nothing."""
    gateway = await start_gateway({"five": FIVE})
    for _ in range(5):
        upstream.will("hang")

    requests = [asyncio.ensure_future(gateway.chat("five")) for _ in range(100)]
    await upstream.saw(5)
    done: set[asyncio.Future[Any]] = set()
    while len(done) < 95:
        done, _ = await asyncio.wait(
            requests, timeout=5, return_when=asyncio.FIRST_COMPLETED
        )
        requests_left = [r for r in requests if not r.done()]
        if len(requests_left) == 5:
            break
        await asyncio.wait(requests_left, timeout=5, return_when="FIRST_COMPLETED")

    assert gateway.held("five") == 5
    refused = [r.result() for r in requests if r.done()]
    assert len(refused) == 95
    assert {r.json()["error"]["code"] for r in refused} == {
        "concurrency_limit_exceeded"
    }
    assert (await gateway.used("five"))["requests-per-hour"] == 5
    for request in requests:
        request.cancel()
    await gateway.until_free("five")
    assert len(upstream.requests) == 5


async def test_a_request_refused_by_its_last_limit_spends_nothing_on_its_first(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """All limits are checked before any is charged."""
    plan = """
plan: two
rates: [{of: requests, limit: 10, per: hour}]
quotas: [{of: requests, limit: 1, per: month}]
"""
    gateway = await start_gateway({"two": plan})

    assert (await gateway.chat("two")).status_code == 200
    assert (await gateway.chat("two")).status_code == 429

    assert (await gateway.used("two"))["requests-per-hour"] == 1


REJECTIONS = [
    pytest.param(
        "rates: [{of: requests, limit: 1, per: minute}]",
        {},
        ("rate_limit_exceeded", "requests-per-minute", None),
        id="rate",
    ),
    pytest.param(
        "quotas: [{of: requests, limit: 1, per: month}]",
        {},
        ("insufficient_quota", "requests-per-calendar-month", "false"),
        id="quota",
    ),
    pytest.param(
        "rates: [{of: tokens, limit: 100, per: minute}]",
        {"max_tokens": 200},
        ("request_exceeds_limit", "tokens-per-minute", "false"),
        id="too large",
    ),
    pytest.param(
        "rates: [{of: requests, limit: 1, per: hour}]",
        {},
        ("rate_limit_exceeded", "requests-per-hour", "false"),
        id="rate with a long wait",
    ),
]


@pytest.mark.parametrize(("limits", "body", "expected"), REJECTIONS)
async def test_a_rejection_names_its_limit_and_whether_to_retry(
    start_gateway: StartGateway,
    limits: str,
    body: dict[str, Any],
    expected: tuple[str, str, str | None],
) -> None:
    """The client learns which limit, how full, until when, and if waiting helps."""
    gateway = await start_gateway({"tight": f"plan: tight\n{limits}\n"})

    await gateway.chat("tight", **body)
    response = await gateway.chat("tight", **body)

    error = response.json()["error"]
    details = error["details"]
    assert response.status_code == 429
    code, dimension, should_retry = expected
    assert (error["code"], details["dimension"]) == (code, dimension)
    assert response.headers.get("x-should-retry") == should_retry
    assert details["plan"] == "tight"
    assert details["whose"] == "gateway"
    assert details["resets_at"] is not None
    has_wait = "retry-after" in response.headers
    assert has_wait == (code != "request_exceeds_limit")


async def test_waiting_as_told_admits(start_gateway: StartGateway) -> None:
    """`retry-after-ms` is the true wait, to the millisecond."""
    plan = "plan: fast\nrates: [{of: requests, limit: 1, per: second, burst: 1}]"
    gateway = await start_gateway({"fast": plan})

    await gateway.chat("fast")
    refused = await gateway.chat("fast")
    assert refused.status_code == 429
    wait_ms = int(refused.headers["retry-after-ms"])
    assert 0 < wait_ms <= 1000
    await asyncio.sleep(wait_ms / 1000)

    assert (await gateway.chat("fast")).status_code == 200


async def test_settlement_replaces_the_reservation(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """What was reserved and not used flows back."""
    plan = "plan: month\nquotas: [{of: tokens, limit: 5000, per: month}]"
    gateway = await start_gateway({"month": plan})
    upstream.will_answer({"text": "Hi", "tokens": 123})

    response = await gateway.chat("month", max_tokens=2000)

    reserved = 5000 - int(response.headers["x-ratelimit-remaining-tokens"])
    assert reserved > 2000
    assert (await gateway.used("month"))["tokens-per-calendar-month"] == 123


@pytest.mark.parametrize(
    ("status", "requests"),
    [
        pytest.param(500, 0, id="upstream's fault"),
        pytest.param(400, 1, id="the client's"),
    ],
)
async def test_failed_requests_spend_no_tokens(
    start_gateway: StartGateway,
    upstream: ScriptedUpstream,
    status: int,
    requests: int,
) -> None:
    """And they spend a request only where the client was at fault."""
    plan = """
plan: both
quotas: [{of: tokens, limit: 5000, per: month}, {of: requests, limit: 9, per: month}]
"""
    gateway = await start_gateway({"both": plan})
    upstream.will_answer({"error": {"message": "no", "code": "NO"}}, status=status)

    await gateway.chat("both")

    assert await gateway.used("both") == {
        "tokens-per-calendar-month": 0,
        "requests-per-calendar-month": requests,
    }


async def test_shadow_limits_are_reported_and_never_enforced(
    start_gateway: StartGateway,
) -> None:
    """A limit can be tried on live traffic before it bites."""
    plan = "plan: shy\nrates: [{of: requests, limit: 1, per: hour, shadow: true}]"
    gateway = await start_gateway({"shy": plan})

    answers = [await gateway.chat("shy") for _ in range(3)]

    assert [200, 200, 200] == [answer.status_code for answer in answers]
    metrics = (await gateway.client.get("/metrics")).text
    shadowed = 'shadow_rejections_total{limit="requests-per-hour",plan="shy"} 2.0'
    assert f"llmtune_gateway_{shadowed}" in metrics


async def test_request_bounds_are_refused_before_anything_is_charged(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """Frameworks recognise a context that is too long by OpenAI's own code."""
    plan = """
plan: small
request: {max_input_tokens: 10, max_output_tokens: 100, max_body_bytes: 2000}
quotas: [{of: requests, limit: 9, per: month}]
"""
    gateway = await start_gateway({"small": plan})

    long = await gateway.chat("small", messages=[{"role": "user", "content": "x" * 99}])
    greedy = await gateway.chat("small", max_tokens=101)
    fat = await gateway.chat("small", user="x" * 2000)

    assert (400, "context_length_exceeded") == code_of(long)
    assert (400, "invalid_request_body") == code_of(greedy)
    assert (413, "request_too_large") == code_of(fat)
    assert (await gateway.used("small"))["requests-per-calendar-month"] == 0
    assert upstream.requests == []


async def test_errors_carry_limit_headers_too(start_gateway: StartGateway) -> None:
    """Also an answer that was never admitted says where the caller stands."""
    plan = "plan: paced\nrates: [{of: requests, limit: 10, per: minute}]"
    gateway = await start_gateway({"paced": plan})

    response = await gateway.chat("paced", temperature=9)

    assert response.status_code == 400
    assert response.headers["x-ratelimit-remaining-requests"] == "10"


def code_of(response: Any) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


async def test_a_reload_takes_effect_at_once_and_keeps_usage(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """An upgrade does not forget what was used, nor wait for a restart."""
    small = "plan: grow\nquotas: [{of: requests, limit: 1, per: month}]\n"
    gateway = await start_gateway({"grow": small}, reload_interval_s=3600)
    await gateway.chat("grow")
    assert (await gateway.chat("grow")).status_code == 429

    plans_dir = gateway.gateway.settings.plans_dir
    assert plans_dir is not None
    (plans_dir / "grow.yaml").write_text(small.replace("limit: 1", "limit: 200"))
    await gateway.gateway.files.reload_if_changed()

    assert (await gateway.chat("grow")).status_code == 200
    assert (await gateway.used("grow"))["requests-per-calendar-month"] == 2


async def test_a_bad_reload_leaves_the_old_plans_in_force(
    start_gateway: StartGateway,
) -> None:
    """A typo at night pages somebody, and stops nobody."""
    gateway = await start_gateway(reload_interval_s=3600)
    plans_dir = gateway.gateway.settings.plans_dir
    assert plans_dir is not None
    (plans_dir / "open.yaml").write_text("plan: open\nconcurency: 1\n")
    await gateway.gateway.files.reload_if_changed()

    assert (await gateway.chat()).status_code == 200
    metrics = (await gateway.client.get("/metrics")).text
    assert 'llmtune_gateway_reload_refused{what="plans"} 1.0' in metrics


async def test_workspaces_do_not_share_their_limits(
    start_gateway: StartGateway,
) -> None:
    """One tenant's burst is not another's 429."""
    plans = {
        name: f"plan: {name}\nquotas: [{{of: requests, limit: 1, per: month}}]"
        for name in ("left", "right")
    }
    gateway: GatewayUnderTest = await start_gateway(plans)

    await gateway.chat("left")

    assert (await gateway.chat("left")).status_code == 429
    assert (await gateway.chat("right")).status_code == 200
