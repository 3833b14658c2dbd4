"""What clients are told by a ledger that has to do without its shared store."""

from __future__ import annotations

import asyncio
import time
from typing import Final

import msgspec
import pytest

from policies.ledger import Decision, Demand, KeyScope, LedgerUnavailable, LimitState
from policies.memory_ledger import MemoryLedger
from policies.plans import Plan
from tests.conftest import StartGateway
from tests.gateway_under_test import GatewayUnderTest, chat_body
from tests.upstream import PATIENCE_S, ScriptedUpstream

WAIT_MS: Final = 750
PLANS: Final = {
    mode: f"""
plan: {mode}
on_store_failure: {mode}
rates: [{{of: requests, limit: 1, per: hour}}]
"""
    for mode in ("share", "open", "closed")
}


class CutOffLedger(MemoryLedger):
    """Decides by itself, never exactly, and for a closed plan not at all."""

    def __init__(self) -> None:
        super().__init__(lambda: time.monotonic_ns() // 1000)

    async def admit(self, demand: Demand) -> Decision:
        _refuse_closed(demand.plan)
        return _inexact(await super().admit(demand))

    async def preview(self, demand: Demand) -> Decision:
        _refuse_closed(demand.plan)
        return _inexact(await super().preview(demand))

    async def inspect(
        self, workspace: str, plan: Plan, key: KeyScope | None = None
    ) -> tuple[LimitState, ...]:
        _refuse_closed(plan)
        return await super().inspect(workspace, plan, key)


class SilentLedger(MemoryLedger):
    """Is asked, and never answers."""

    def __init__(self) -> None:
        super().__init__(lambda: time.monotonic_ns() // 1000)
        self.asked = asyncio.Event()

    async def preview(self, demand: Demand) -> Decision:
        self.asked.set()
        await asyncio.Event().wait()
        raise AssertionError


def _refuse_closed(plan: Plan) -> None:
    if plan.on_store_failure == "closed":
        raise LedgerUnavailable(WAIT_MS)


def _inexact(decision: Decision) -> Decision:
    return msgspec.structs.replace(decision, is_exact=False)


@pytest.fixture
async def cut_off(start_gateway: StartGateway) -> GatewayUnderTest:
    """A gateway whose shared store is away, with a plan for each way to bear it."""
    return await start_gateway(PLANS, ledger=CutOffLedger())


@pytest.mark.parametrize("mode", ["share", "open"])
async def test_answers_decided_without_the_store_say_so(
    cut_off: GatewayUnderTest, mode: str
) -> None:
    """Asked or refused: one header tells by what it was decided."""
    told = await cut_off.get("/v1/limits", mode)
    previewed = await cut_off.post("/v1/limits/preview", mode, **chat_body())
    await cut_off.chat(mode)
    refused = await cut_off.chat(mode)

    answers = (told, previewed, refused)
    assert [200, 200, 429] == [answer.status_code for answer in answers]
    assert told.json()["store"] == mode
    assert [[mode]] * 3 == [
        answer.headers.get_list("x-llmtune-degraded") for answer in answers
    ]


@pytest.mark.parametrize("is_stream", [False, True], ids=["whole", "streamed"])
async def test_completions_admitted_without_the_store_say_so(
    cut_off: GatewayUnderTest, is_stream: bool
) -> None:
    """A client can tell that its limits were not counted exactly, and how."""
    answer = await cut_off.chat("open", stream=is_stream)

    assert answer.status_code == 200
    assert answer.headers.get_list("x-llmtune-degraded") == ["open"]


async def test_browsers_may_read_how_an_answer_was_decided(
    start_gateway: StartGateway,
) -> None:
    """A header that is not exposed does not exist for a web page."""
    gateway = await start_gateway(PLANS, cors_origins=("https://app.example",))

    answer = await gateway.client.get(
        "/v1/limits",
        headers={"origin": "https://app.example", **gateway.auth("share")},
    )

    exposed = answer.headers["access-control-expose-headers"].split(", ")
    assert "x-llmtune-degraded" in exposed


async def test_exact_answers_carry_no_such_header(
    start_gateway: StartGateway,
) -> None:
    """Its presence alone is the news."""
    gateway = await start_gateway(PLANS)

    answers = [await gateway.chat("share"), await gateway.get("/v1/limits", "share")]

    assert answers[1].json()["store"] == "exact"
    assert all("x-llmtune-degraded" not in answer.headers for answer in answers)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        pytest.param("POST", "/v1/chat/completions", id="chat"),
        pytest.param("GET", "/v1/limits", id="limits"),
        pytest.param("POST", "/v1/limits/preview", id="preview"),
    ],
)
async def test_a_closed_plan_is_told_to_come_back(
    cut_off: GatewayUnderTest, upstream: ScriptedUpstream, method: str, path: str
) -> None:
    """A 503 with the wait the ledger named: not a 429, for nothing was exceeded."""
    body = chat_body() if method == "POST" else None

    response = await cut_off.client.request(
        method, path, json=body, headers=cut_off.auth("closed")
    )

    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (503, "store_unavailable")
    assert error["type"] == "service_unavailable_error"
    assert response.headers["retry-after-ms"] == str(WAIT_MS)
    assert response.headers.get("x-should-retry") != "false"
    assert upstream.requests == []


async def test_answers_that_need_no_decision_go_without_limits(
    cut_off: GatewayUnderTest, upstream: ScriptedUpstream
) -> None:
    """A list of models, or a mistake in a body, is told although the store is away."""
    upstream.will_answer({"success": True, "data": [{"id": "m"}]})

    listed = await cut_off.get("/v1/models", "closed")
    mistaken = await cut_off.chat("closed", temperature=9)

    assert (listed.status_code, mistaken.status_code) == (200, 400)
    assert "ratelimit" not in listed.headers


@pytest.mark.parametrize("path", ["/v1/limits", "/v1/limits/preview"])
async def test_a_client_that_leaves_ends_its_question(
    start_gateway: StartGateway, path: str
) -> None:
    """A ledger that does not answer is not asked on behalf of nobody."""
    ledger = SilentLedger()
    gateway = await start_gateway(ledger=ledger)
    asking = asyncio.ensure_future(
        gateway.post(path, **chat_body())
        if path.endswith("preview")
        else gateway.get(path)
    )
    await asyncio.wait_for(ledger.asked.wait(), PATIENCE_S)

    asking.cancel()

    await gateway.until_present(0)
