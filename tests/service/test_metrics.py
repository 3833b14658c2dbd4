"""What a scraper reads of what requests did, through the whole gateway."""

from __future__ import annotations

import asyncio
import re
import time
from contextlib import suppress
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any, Final, get_args

import pytest

from gateway.app import LAG_LOOK_S, watch_lag
from gateway.background.watching import JobWatch
from gateway.batches.record import ENDED as BATCH_ENDED
from gateway.errors import Outcome
from gateway.telemetry.busiest import MOST_MODELS, MOST_WORKSPACES, PERIOD_S
from gateway.telemetry.definition import OTHER
from gateway.telemetry.exposition import families_of, render, snapshot_of
from gateway.telemetry.metrics import Telemetry
from gateway.telemetry.noting import BATCH, Noted
from gateway.telemetry.tally import Tally
from gateway.translation.usage import TokenUsage
from policies.jobs.memory_jobs import MemoryJobs
from policies.keyring import KeyRecord, Keyring
from policies.ledger import Admitted, LimitState
from policies.plans import Rate, Unit
from tests.conftest import StartGateway
from tests.gateway_under_test import MODEL, GatewayUnderTest, chat_body, until
from tests.upstream import (
    PATIENCE_S,
    STREAM_HEAD,
    ScriptedUpstream,
    frame,
    whole,
)

PREFIX: Final = "llmtune_gateway_"


async def scraped(gateway: GatewayUnderTest) -> dict[str, float]:
    """Every series of ours, without the prefix, by its name and labels."""
    text = (await gateway.client.get("/metrics")).text
    found = re.findall(rf"(?m)^{PREFIX}(\S+) (\S+)$", text)
    return {series: float(value) for series, value in found}


async def test_a_failure_has_its_series_before_it_happens(
    gateway: GatewayUnderTest,
) -> None:
    """A rate does not see the first event of a series that begins with it."""
    shown = await scraped(gateway)

    for outcome in ("failed", "unavailable", "upstream_error"):
        labels = f'outcome="{outcome}",route="/v1/chat/completions"'
        assert shown[f"requests_total{{{labels}}}"] == 0


async def test_tokens_are_told_by_plan_model_and_direction(
    gateway: GatewayUnderTest, upstream: ScriptedUpstream
) -> None:
    """Of which the bill is made, and who is asked when it surprises."""
    upstream.will_answer({"text": "Hi", "tokens": {"input": 41, "output": 7}})
    await gateway.chat()

    series = await scraped(gateway)
    labels = f'direction="%s",model="{MODEL}",plan="open"'
    assert series["tokens_total{" + labels % "input" + "}"] == 41
    assert series["tokens_total{" + labels % "output" + "}"] == 7
    assert series['workspace_tokens_total{workspace="ws-open"}'] == 48
    assert series['workspace_requests_total{decision="admitted",workspace="ws-open"}']


async def test_a_model_that_upstream_does_not_know_gets_no_series(
    gateway: GatewayUnderTest, upstream: ScriptedUpstream
) -> None:
    """Its name is whatever somebody typed."""
    for number in range(3):
        upstream.will_answer({"error": "no such model"}, status=404)
        await gateway.chat(model=f"junk/{number}")

    assert not [name for name in await scraped(gateway) if "junk" in name]


PLAN: Final = """\
plan: five
rates: [{of: requests, limit: 5, per: day}]
"""


async def test_near_a_limit_is_told_before_it_is_met(
    start_gateway: StartGateway,
) -> None:
    """From 80 % on: the fourth of five is near, and the sixth is refused."""
    gateway = await start_gateway({"five": PLAN})
    series: dict[str, float] = {}
    near = 'near_limit_admissions_total{limit="requests-per-day",plan="five"}'
    for number in range(1, 7):
        await gateway.chat("five")
        series = await scraped(gateway)
        assert series.get(near, 0) == max(0, min(number, 5) - 3)

    limit = '{limit="requests-per-day",workspace="ws-five"}'
    assert series[f"workspace_limit_used_ratio{limit}"] == 1
    assert series['workspace_requests_total{decision="rejected",workspace="ws-five"}']


async def test_waiting_for_llmtune_is_not_added_latency(
    gateway: GatewayUnderTest, upstream: ScriptedUpstream
) -> None:
    """Whole and streamed: what was waited is the upstream's, the rest is ours."""
    for is_stream in (False, True):
        go_on = asyncio.Event()
        answer = whole(b'{"text": "Hi", "tokens": 12, "model": "m"}')
        upstream.will(go_on, answer)
        asking = asyncio.ensure_future(gateway.chat(stream=is_stream))
        await upstream.saw(is_stream + 1)
        asyncio.get_running_loop().call_later(0.3, go_on.set)
        await asking

    series = await scraped(gateway)
    route = '{outcome="ok",route="/v1/chat/completions"}'
    assert series["added_latency_seconds_count"] == 2
    assert series[f"request_duration_seconds_sum{route}"] > 0.6
    assert series["added_latency_seconds_sum"] < 0.3
    assert series["upstream_attempt_duration_seconds_sum"] > 0.6


async def test_a_streams_pace_is_told_by_its_model(
    gateway: GatewayUnderTest, upstream: ScriptedUpstream
) -> None:
    """Only of one that came to its end, with more than one token to measure between."""
    upstream.will_stream(
        {"text": "Hi"}, {"text": " you"}, {"text": "!"}, {"usage": {"output": 3}}
    )
    await gateway.chat(stream=True)
    upstream.will_stream({"text": "Hi"}, {"text": " you"}, then="cut")
    await gateway.chat(stream=True)

    series = await scraped(gateway)
    label = f'{{model="{MODEL}"}}'
    assert series[f"time_to_first_token_seconds_count{label}"] == 2
    assert series[f"time_per_output_token_seconds_count{label}"] == 1


async def test_an_open_stream_is_in_flight_until_it_ends(
    gateway: GatewayUnderTest, upstream: ScriptedUpstream
) -> None:
    """What replicas are scaled by; also where its client leaves."""
    upstream.will_stream({"text": "Hi"}, then="hang")
    async with gateway.stream_chat() as stream:
        await stream.text_until("Hi")
        assert (await scraped(gateway))["streams_in_flight"] == 1
        # And the scrape itself.
        assert (await scraped(gateway))["requests_in_flight"] == 2
    await gateway.until_metric("streams_in_flight 0.0")
    await gateway.until_metric("requests_in_flight 0.0")


async def test_an_unanswered_client_that_leaves_costs_no_series_of_its_model(
    gateway: GatewayUnderTest, upstream: ScriptedUpstream
) -> None:
    """Its prompt is charged to `_other`: there may be no such model."""
    upstream.will("hang")
    asking = asyncio.ensure_future(gateway.chat(model="made/up"))
    await upstream.saw()
    asking.cancel()
    with suppress(asyncio.CancelledError):
        await asking
    await gateway.until_metric(f'direction="input",model="{OTHER}",plan="open"}}')

    series = await scraped(gateway)
    assert not [name for name in series if "made/up" in name]
    # Of an answer that there is not nobody knows how well its reservation fitted.
    assert series["reservation_ratio_count"] == 0


# Stated in docs/telemetry.md: of ten plans with five limits each, every route with
# every outcome, and whatever callers make up.
MOST_SERIES: Final = 6_000


async def flooded(*, names: str = "", number_of_names: int = 10_000) -> Telemetry:
    """Met by so many models and workspaces, all answered, over 17 minutes."""
    now_s = [0.0]
    telemetry = Telemetry(now_s=lambda: now_s[0])
    units: tuple[Unit, ...] = ("requests", "tokens")
    limits = [Rate(of=of, limit=9, per="minute") for of in units]
    limits += [Rate(of=of, limit=9, per="day") for of in units]
    limits += [Rate(of="requests", limit=9, per="hour")]
    states = tuple(
        LimitState(limit=limit, capacity=9, used=9, reset_after_ms=0)
        for limit in limits
    )
    usage = TokenUsage(5, 5, is_reported=True)
    for number in range(number_of_names):
        # Some come again and again, as they would in the midst of such a flood.
        model = f"model-{names}{number if number % 3 else number % 90}"
        plan, workspace = f"plan-{number % 10}", f"ws-{names}{number}"
        telemetry.decided.note((plan, workspace, Admitted(lease_id="x", states=states)))
        telemetry.charged.note((plan, workspace, model, usage, 20))
        telemetry.first_token(model, 0.1)
        telemetry.streamed(model, 10, 1.0)
        now_s[0] += 0.1
    for route, outcome in product(range(15), get_args(Outcome)):
        telemetry.request(f"/v1/route-{route}", outcome, 1.0)
    telemetry.jobs.begin()
    watch = JobWatch(MemoryJobs(lambda: 0), telemetry.jobs.show)
    telemetry.jobs.show(await watch.read())
    for ended in BATCH_ENDED:
        telemetry.jobs.batch_ended(ended, 1.0)
    return telemetry


def assert_bounded(text: str) -> None:
    series = [line for line in text.splitlines() if not line.startswith("#")]
    print(f"{len(series)} series")
    for label, most in (("model", MOST_MODELS), ("workspace", MOST_WORKSPACES)):
        values = set(re.findall(rf'{label}="([^"]*)"', text))
        assert OTHER in values
        assert len(values) <= most + 1
    assert len(series) <= MOST_SERIES


async def test_the_number_of_series_is_bounded() -> None:
    """After 10,000 models and 10,000 workspaces."""
    telemetry = await flooded()

    assert_bounded(telemetry.exposition("")[0].decode())


async def test_workers_have_no_more_series_than_one_process() -> None:
    """Each named others; and some have ended, and others come after them."""
    tally = Tally()
    for pid in range(1, 6):
        telemetry = await flooded(names=f"{pid}-", number_of_names=2_000)
        tally.hear(pid, snapshot_of(telemetry.registry.collect()))
        if pid <= 2:
            tally.forget(pid)

    body, _ = render(families_of(tally.snapshot()), "")
    assert_bounded(body.decode())
    decided = re.findall(rf"(?m)^{PREFIX}admissions_total\S+ (\S+)$", body.decode())
    assert sum(map(float, decided)) == 5 * 2_000


def test_a_standing_is_shown_for_a_minute_and_of_busy_workspaces_only() -> None:
    """A rate has refilled by then, and a name without a place has no series."""
    now_s = [0.0]
    telemetry = Telemetry(now_s=lambda: now_s[0])
    limit = Rate(of="requests", limit=10, per="minute")
    state = LimitState(limit=limit, capacity=10, used=4, reset_after_ms=0)

    def meet(workspace: str, times: int = 1) -> None:
        for _ in range(times):
            decision = Admitted(lease_id="x", states=(state,))
            telemetry.decided.note(("p", workspace, decision))

    def shown() -> set[str]:
        text = telemetry.exposition("")[0].decode()
        return set(re.findall(r'used_ratio{.*workspace="(\S+)"} 0.4', text))

    for number in range(MOST_WORKSPACES):
        meet(f"ws-{number}", 2 if number else 1)
    meet("late", 10)
    assert shown() == {f"ws-{number}" for number in range(MOST_WORKSPACES)}

    now_s[0] = PERIOD_S
    meet("late")
    assert shown() == {f"ws-{n}" for n in range(1, MOST_WORKSPACES)} | {"late"}
    now_s[0] += 1
    assert shown() == {"late"}


def test_less_than_nothing_is_nothing_added() -> None:
    """Two clocks may say so; a sum that falls has begun anew for Prometheus."""
    telemetry = Telemetry()
    telemetry.request("/v1/chat/completions", "ok", 1.0, -0.5)
    telemetry.request("/v1/chat/completions", "ok", 1.0, -0.5, "ab" * 16)

    name = "llmtune_gateway_added_latency_seconds"
    assert telemetry.registry.get_sample_value(f"{name}_sum") == 0
    assert telemetry.registry.get_sample_value(f"{name}_count") == 2


def test_what_was_traced_names_its_trace() -> None:
    """In the bucket that its time is in."""
    telemetry = Telemetry()
    telemetry.request("/v1/chat/completions", "ok", 1.0, 0.02, "ab" * 16)
    telemetry.first_token("m", 0.3, "cd" * 16)
    text = telemetry.exposition("application/openmetrics-text")[0].decode()

    for le, name, trace_id in (
        ("1.0", "request_duration_seconds", "ab"),
        ("0.025", "added_latency_seconds", "ab"),
        ("0.5", "time_to_first_token_seconds", "cd"),
    ):
        exemplar = f'# {{trace_id="{trace_id * 16}"}}'
        lines = [line for line in text.splitlines() if f"{name}_bucket" in line]
        named = [line for line in lines if exemplar in line]
        assert [f'le="{le}"' in line for line in named] == [True]
        # With its value and when it was: of two workers' the newest is shown.
        assert re.search(r"\} [0-9.]+ [0-9]{10}\.[0-9]+$", named[0])


def test_a_streams_pace_is_of_the_tokens_after_the_first() -> None:
    """Eleven tokens in ten steps; of one alone there is no pace."""
    telemetry = Telemetry()
    telemetry.first_token("m", 0.5)
    telemetry.streamed("m", 1, 3.0)
    telemetry.streamed("m", 11, 5.0)

    name, labels = "llmtune_gateway_time_per_output_token_seconds", {"model": "m"}
    value = telemetry.registry.get_sample_value
    assert value(f"{name}_count", labels) == 1
    assert value(f"{name}_sum", labels) == 0.5


async def test_when_the_next_key_expires_is_told(
    gateway: GatewayUnderTest, tmp_path: Path
) -> None:
    """Of those that still work; absent where none will expire."""
    files = gateway.gateway.files
    name = "keys_next_expiry_timestamp_seconds"
    assert name not in await scraped(gateway)

    moments = [datetime(year, 1, 1, tzinfo=UTC) for year in (2001, 2101, 2100)]
    files.keyring = Keyring(
        [
            *files.keyring.records,
            *(
                KeyRecord(sha256=f"{n:064x}", workspace="w", plan="open", expires_at=m)
                for n, m in enumerate(moments)
            ),
        ]
    )

    assert (await scraped(gateway))[name] == moments[2].timestamp()
    assert (await scraped(gateway))[f'policy_info{{digest="{files.book.digest}"}}']


async def test_the_store_is_timed(
    start_gateway: StartGateway, start_redis: Any
) -> None:
    """By call, from asking to the reply; what it holds and when is in its own tests."""
    server = await start_redis()
    gateway = await start_gateway(
        store_url=server.unix_url, store_timeout_s=PATIENCE_S, lease_ttl_s=1
    )
    await gateway.chat()
    count = 'store_call_duration_seconds_count{call="%s"} 1.0'
    for call in ("admit", "settle"):
        await gateway.until_metric(count % call)

    assert (await scraped(gateway))['store_breaker_state{state="closed"}'] == 1


async def test_recorded_answers_their_followers_and_lost_claims_are_told(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """Whoever took the key over, a claim that is gone is counted once."""
    gateway = await start_gateway(replay_lease_ttl_s=1.0)
    go_on = asyncio.Event()
    upstream.will(STREAM_HEAD, frame({"text": "Hi"}), go_on, frame("[DONE]"))
    upstream.will_answer({"text": "Hi", "tokens": 2})
    headers = gateway.auth() | {"idempotency-key": "once"}
    asked = [
        asyncio.ensure_future(
            gateway.client.post(
                "/v1/chat/completions", json=chat_body(stream=True), headers=headers
            )
        )
        for _ in range(3)
    ]
    await gateway.until_metric("replay_followers 2.0")
    series = await scraped(gateway)
    assert series["replay_recordings"] == 1

    replays = gateway.gateway.replays
    [recording] = replays.running.values()
    await replays.store.release(recording.key, recording.owner)
    await gateway.until_metric("replay_claims_lost_total 1.0")
    go_on.set()
    await asyncio.gather(*asked)
    await gateway.until_metric("replay_recordings 0.0")
    assert (await scraped(gateway))["replay_claims_lost_total"] == 1


async def test_a_stalled_event_loop_is_seen_as_lag() -> None:
    """However long it stands still, by about that much."""
    lags: list[float] = []
    watching = asyncio.ensure_future(watch_lag(lags.append))
    loop = asyncio.get_running_loop()
    # Over the moment at which the watch is due.
    loop.call_later(LAG_LOOK_S * 0.9, time.sleep, LAG_LOOK_S)
    await until(lambda: len(lags) >= 2, "two looks")
    watching.cancel()

    assert lags[0] >= LAG_LOOK_S * 0.7


def test_a_scrape_counts_first_what_was_only_noted() -> None:
    telemetry = Telemetry()
    for _ in range(BATCH + 3):
        telemetry.attempted.note(("ok", 0.2))
    name = "llmtune_gateway_upstream_attempts_total"
    assert telemetry.registry.get_sample_value(name, {"outcome": "ok"}) == BATCH + 3


def test_events_are_counted_together_in_their_order() -> None:
    counted: list[list[int]] = []
    noted = Noted(counted.append)
    for number in range(3):
        noted.note(number)
    assert ([0, 1, 2], []) == (noted.events, counted)
    noted.count()
    noted.count()
    assert ([], [[0, 1, 2]]) == (noted.events, counted)


def test_what_is_noted_is_counted_though_nobody_scrapes() -> None:
    """As requests end; and four times a second, for what comes by another way."""
    telemetry = Telemetry()
    telemetry.decided.note(("p", "ws", Admitted(lease_id="x", states=())))
    for _ in range(BATCH):
        assert "ws" not in telemetry.workspaces
        telemetry.request("/v1/models", "ok", 0.1)
    assert "ws" in telemetry.workspaces

    telemetry.decided.note(("p", "other", Admitted(lease_id="x", states=())))
    telemetry.lagged(0.0)
    assert "other" in telemetry.workspaces


async def test_what_cannot_be_counted_costs_no_request_and_no_other_count(
    gateway: GatewayUnderTest, caplog: pytest.LogCaptureFixture
) -> None:
    """A metric's bug is told of; who ends a batch is answered, and has its line."""
    telemetry = gateway.gateway.telemetry
    telemetry.attempted.note(("ok",))  # type: ignore[arg-type]
    for _ in range(BATCH):
        assert (await gateway.chat()).status_code == 200

    series = await scraped(gateway)
    route = '{outcome="ok",route="/v1/chat/completions"}'
    assert series[f"requests_total{route}"] == BATCH
    assert series['admissions_total{decision="admitted",plan="open"}'] == BATCH
    assert "events could not be counted" in caplog.text


def test_a_stalled_batch_does_not_end_the_look_at_the_loop() -> None:
    telemetry = Telemetry()
    telemetry.decided.note(("p",))  # type: ignore[arg-type]
    telemetry.lagged(0.5)
    name = "llmtune_gateway_event_loop_lag_seconds_count"
    assert telemetry.registry.get_sample_value(name) == 1


def test_tokens_are_of_their_workspace_when_its_decision_is_only_noted() -> None:
    """Whichever of them are counted first."""
    telemetry = Telemetry()
    telemetry.decided.note(("p", "ws", Admitted(lease_id="x", states=())))
    for _ in range(BATCH):
        telemetry.charged.note(("p", "ws", "m", TokenUsage(1, 1, is_reported=True), 4))
    name, labels = "llmtune_gateway_workspace_tokens_total", {"workspace": "ws"}
    assert telemetry.registry.get_sample_value(name, labels) == 2 * BATCH
