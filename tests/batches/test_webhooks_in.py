"""`/webhooks/llmtune`: who may post, and what becomes of it."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from typing import Any

import httpx
import pytest

from gateway.batches.inbox import EVENTS, MOST_KEPT_BYTES, WHAT_CAME
from gateway.batches.tickets import Ticket, TicketOffice
from gateway.secret import Secret
from tests.batches.conftest import SECRET, BatchHouse, StartHouse, line

PATH = "/webhooks/llmtune"
EVENT = {"event": "training.started", "data": {"jobId": "ft_1", "status": "running"}}


def signed(body: bytes, secret: str = SECRET) -> dict[str, str]:
    digest = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    return {"x-webhook-signature": digest, "content-type": "application/json"}


async def post(
    house: BatchHouse,
    body: Any,
    headers: dict[str, str] | None = None,
    query: str = "",
) -> httpx.Response:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    wanted = signed(raw) if headers is None else headers
    return await house.client.post(PATH + query, content=raw, headers=wanted)


async def test_a_signed_event_is_taken_once(house: BatchHouse) -> None:
    """LLMTune posts it again where an answer was lost."""
    for _ in range(2):
        assert 200 == (await post(house, EVENT)).status_code
    for outcome in ("kept", "repeated"):
        await house.gateway.until_metric(
            f'llmtune_gateway_webhooks_total{{outcome="{outcome}"}} 1.0'
        )


async def test_an_event_of_an_unknown_type_is_kept_within_bounds(
    house: BatchHouse,
) -> None:
    """For whoever looks it up; megabytes of it would fill the store."""
    event = {"id": "evt_1", "event": "nobody.knows", "data": {"a": "x" * 1_000_000}}
    assert 200 == (await post(house, event)).status_code
    jobs = house.gateway.gateway.long_jobs
    assert jobs is not None
    kept = await jobs.jobs.collected(EVENTS, "evt_1")
    assert kept[WHAT_CAME].startswith(b"{")
    assert b"nobody.knows" in kept[WHAT_CAME]
    assert MOST_KEPT_BYTES == len(kept[WHAT_CAME])


@pytest.mark.parametrize(
    ("secret", "code"), [("whsec_wrong", 401), ("", 401)], ids=["forged", "empty"]
)
async def test_a_forged_event_is_refused(
    house: BatchHouse, secret: str, code: int
) -> None:
    raw = json.dumps(EVENT).encode()
    refused = await post(house, raw, signed(raw, secret))
    assert (code, "invalid_signature") == (
        refused.status_code,
        refused.json()["error"]["code"],
    )


@pytest.mark.parametrize("secret", ["whsec_old", "whsec_new"])
async def test_while_a_secret_is_changed_both_are_good(
    start_house: StartHouse, secret: str
) -> None:
    """For what LLMTune signs, and in the URLs that it was given before."""
    house = await start_house(webhook_secret=Secret("whsec_new whsec_old"))
    raw = json.dumps(EVENT).encode()
    assert 200 == (await post(house, raw, signed(raw, secret))).status_code
    office = TicketOffice("http://x", Secret(secret))
    query = office.url_of(Ticket("ws-open", "batch_1", 0, 1)).partition(PATH)[2]
    assert 200 == (await post(house, {**EVENT, "id": "2"}, {}, query)).status_code
    assert 401 == (await post(house, raw, signed(raw, "whsec_older"))).status_code


async def test_an_unsigned_event_is_refused(house: BatchHouse) -> None:
    """Unless the URL it comes to proves that it was asked for."""
    assert 401 == (await post(house, EVENT, {})).status_code


async def test_a_url_of_somebody_elses_making_proves_nothing(house: BatchHouse) -> None:
    forger = TicketOffice("https://x.example", Secret("whsec_guessed"))
    url = forger.url_of(Ticket("ws-open", "batch_1", 0, 1))
    query = url.partition(PATH)[2]
    body = {"event": "batch.completed", "data": {"results": [{"id": "0", "text": "x"}]}}

    assert 401 == (await post(house, body, {}, query)).status_code
    assert 401 == (await post(house, body, {}, "?job=AAAA")).status_code


@pytest.mark.parametrize("age_s", [6 * 86_400, -3600], ids=["late", "early"])
async def test_an_event_of_another_time_is_refused(
    house: BatchHouse, age_s: int
) -> None:
    event = {**EVENT, "timestamp": time.time() - age_s}
    assert 400 == (await post(house, event)).status_code


async def test_an_oversized_event_is_refused(start_house: StartHouse) -> None:
    house = await start_house(webhook_max_body_bytes=2048)
    assert 413 == (await post(house, {**EVENT, "pad": "x" * 3000})).status_code


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'{"data": 1}', b"[" * 5000]
)
async def test_what_is_no_event_is_a_400(house: BatchHouse, body: bytes) -> None:
    refused = await post(house, body)
    assert 400 == refused.status_code
    assert "error" in refused.json()


async def test_without_a_secret_nothing_is_taken(start_house: StartHouse) -> None:
    house = await start_house(webhook_secret=None, public_url=None)
    assert 401 == (await post(house, EVENT)).status_code


async def test_strange_results_harm_nobody(house: BatchHouse) -> None:
    """They are not the chunk's, or are no results at all."""
    office = TicketOffice("http://x", Secret(SECRET))
    query = office.url_of(Ticket("ws-open", "batch_never", 0, 2)).partition(PATH)[2]
    strange = [{"id": "7"}, {"id": "-1"}, {"id": None}, 5, {"id": "9" * 99}, {}]

    taken = await post(house, {"event": "x", "data": {"results": strange}}, None, query)

    assert 200 == taken.status_code
    jobs = house.gateway.gateway.long_jobs
    assert jobs is not None
    assert {} == await jobs.jobs.collected("ws-open", "batch_never:0")


async def test_results_that_come_after_the_end_are_not_kept(house: BatchHouse) -> None:
    """LLMTune posts some twice, and nobody would ever look at them."""
    started = await house.start([line("a")])
    await house.ended(started["id"])
    office = TicketOffice("http://x", Secret(SECRET))
    query = office.url_of(Ticket("ws-open", started["id"], 0, 1)).partition(PATH)[2]
    again = {"event": "x", "data": {"results": [{"id": "0", "text": "late"}]}}

    assert 200 == (await post(house, again, None, query)).status_code

    jobs = house.gateway.gateway.long_jobs
    assert jobs is not None
    assert {} == await jobs.jobs.collected("ws-open", f"{started['id']}:0")
