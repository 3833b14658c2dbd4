"""`/v1/limits` and its preview: where a caller stands, told without spending."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import httpx
import msgspec
import pytest

from tests.conftest import StartGateway
from tests.gateway_under_test import USER, GatewayUnderTest, chat_body
from tests.upstream import STREAM_HEAD, ScriptedUpstream, frame

ALL_KINDS = """
plan: kinds
title: All kinds
concurrency: 3
rates: [{of: tokens, limit: 6000, per: hour, burst: 5000}]
quotas: [{of: requests, limit: 10, per: month, shadow: true}]
"""
ONE_AN_HOUR = "plan: one\nrates: [{of: requests, limit: 1, per: hour}]\n"


async def limits_of(gateway: GatewayUnderTest, plan: str) -> dict[str, Any]:
    """The limits of a plan as the route tells them, by dimension."""
    response = await gateway.get("/v1/limits", plan)
    assert response.status_code == 200
    return {limit["dimension"]: limit for limit in response.json()["limits"]}


async def preview(
    gateway: GatewayUnderTest, plan: str = "open", **body: Any
) -> httpx.Response:
    return await gateway.post("/v1/limits/preview", plan, **chat_body(**body))


async def test_every_limit_is_told_with_every_field(
    start_gateway: StartGateway,
) -> None:
    """Rates, quotas and concurrency have one form, in the plan's order."""
    gateway = await start_gateway({"kinds": ALL_KINDS})

    response = await gateway.get("/v1/limits", "kinds")

    whole: dict[str, Any] = {"whose": "workspace", "used": 0, "reserved": 0}
    said = response.json()
    month_ends = said["limits"][1]["resets_at"]
    left_ms = said["limits"][1]["reset_after_ms"]
    assert month_ends == pytest.approx(time.time() + left_ms / 1000, abs=5)
    assert said["limits"][0].pop("resets_at") == pytest.approx(time.time(), abs=5)
    assert said == {
        "object": "limits",
        "workspace": "ws-kinds",
        "plan": "kinds",
        "title": "All kinds",
        "store": "exact",
        "binds_next": "tokens-per-hour",
        "limits": [
            {
                **whole,
                "dimension": "tokens-per-hour",
                "kind": "rate",
                "of": "tokens",
                "per": "hour",
                "limit": 6000,
                "capacity": 5000,
                "remaining": 5000,
                "shadow": False,
                "reset_after_ms": 0,
            },
            {
                **whole,
                "dimension": "requests-per-calendar-month",
                "kind": "quota",
                "of": "requests",
                "per": "month",
                "limit": 10,
                "capacity": 10,
                "remaining": 10,
                "shadow": True,
                "reset_after_ms": left_ms,
                "resets_at": month_ends,
            },
            {
                **whole,
                "dimension": "concurrency",
                "kind": "concurrency",
                "of": "leases",
                "per": None,
                "limit": 3,
                "capacity": 3,
                "remaining": 3,
                "shadow": False,
                "reset_after_ms": None,
                "resets_at": None,
            },
        ],
    }


async def test_what_is_reserved_is_told_while_a_stream_is_open(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """A caller can tell what runs from what is spent; after the end only that is."""
    gateway = await start_gateway({"kinds": ALL_KINDS})
    upstream.will(STREAM_HEAD, frame({"text": "Hel"}), "hang")
    promised = (await preview(gateway, "kinds", max_tokens=500)).json()["reserve"]

    async with gateway.stream_chat("kinds", max_tokens=500) as stream:
        await stream.text_until("Hel")
        during = await limits_of(gateway, "kinds")
    await gateway.until_free("kinds")
    after = await limits_of(gateway, "kinds")

    tokens, leases = during["tokens-per-hour"], during["concurrency"]
    assert tokens["reserved"] == promised["tokens"] > 500
    assert 0 <= promised["tokens"] - tokens["used"] < 10  # refilled meanwhile
    assert (leases["used"], leases["reserved"], leases["remaining"]) == (1, 1, 2)
    assert 0 < tokens["reset_after_ms"] < 3_600_000
    assert after["tokens-per-hour"]["reserved"] == after["concurrency"]["used"] == 0
    assert 0 < after["tokens-per-hour"]["used"] < 100


async def test_the_limit_that_binds_next_has_the_smallest_share_left(
    start_gateway: StartGateway,
) -> None:
    """Not the smallest number left, nor one that is not enforced."""
    plan = """
plan: mixed
rates:
  - {of: requests, limit: 1, per: minute, shadow: true}
  - {of: requests, limit: 50, per: hour}
quotas: [{of: tokens, limit: 100, per: day}]
"""
    gateway = await start_gateway({"mixed": plan})
    before = (await gateway.get("/v1/limits", "mixed")).json()["binds_next"]
    await gateway.chat("mixed", max_tokens=40)

    after = await gateway.get("/v1/limits", "mixed")

    assert before == "requests-per-hour"
    assert after.json()["binds_next"] == "tokens-per-calendar-day"
    assert after.headers["x-ratelimit-remaining-requests"] == "49"


async def test_a_key_without_limits_is_told_that_nothing_binds(
    gateway: GatewayUnderTest,
) -> None:
    """Absent is unlimited, here as in a plan file."""
    said = (await gateway.get("/v1/limits")).json()

    assert (said["limits"], said["binds_next"]) == ([], None)
    assert (await preview(gateway)).json()["would_pass"]


async def test_a_preview_that_passes_spends_nothing(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """However often it is asked, and the last request still passes."""
    gateway = await start_gateway({"one": ONE_AN_HOUR + "concurrency: 1\n"})

    answers = [(await preview(gateway, "one", max_tokens=9)) for _ in range(5)]

    said = answers[-1].json()
    limits = said.pop("limits")
    assert {answer.status_code for answer in answers} == {200}
    assert answers[-1].headers["x-ratelimit-remaining-requests"] == "1"
    assert [limit["used"] for limit in limits] == [0, 0]
    assert said == {
        "object": "limits.preview",
        "would_pass": True,
        "reason": None,
        "retry_after_ms": None,
        "reserve": {"requests": 1, "tokens": said["reserve"]["tokens"]},
        "binding": None,
        "error": None,
    }
    assert upstream.requests == []
    assert gateway.held("one") == 0
    assert (await gateway.chat("one")).status_code == 200


REFUSALS = [
    pytest.param(ONE_AN_HOUR, {}, "rate", id="rate"),
    pytest.param(
        "plan: one\nquotas: [{of: requests, limit: 1, per: month}]",
        {},
        "quota",
        id="quota",
    ),
    pytest.param(
        "plan: one\nrates: [{of: tokens, limit: 100, per: minute}]",
        {"max_tokens": 200},
        "too_large",
        id="too large",
    ),
]


@pytest.mark.parametrize(("plan", "body", "reason"), REFUSALS)
async def test_a_preview_tells_the_error_the_request_would_get(
    start_gateway: StartGateway, plan: str, body: dict[str, Any], reason: str
) -> None:
    """The same code, message and details, without having been refused."""
    gateway = await start_gateway({"one": plan})
    await gateway.chat("one", **body)

    said = (await preview(gateway, "one", **body)).json()
    refused = await gateway.chat("one", **body)

    wait_ms = refused.headers.get("retry-after-ms")
    error = refused.json()["error"]
    assert (said["would_pass"], said["reason"]) == (False, reason)
    assert (said["retry_after_ms"] is None) == (wait_ms is None)
    assert abs((said["retry_after_ms"] or 0) - int(wait_ms or 0)) < 5000
    assert said["binding"]["dimension"] == error["details"]["dimension"]
    assert said["binding"] == said["limits"][0]
    # The clock runs on between the two.
    told, meant = (each["details"].pop("resets_at") for each in (said["error"], error))
    assert told == pytest.approx(meant, abs=5)
    for each in (error, said["error"]):
        each["message"] = each["message"].partition("Please try again")[0]
    assert said["error"] == error


async def test_a_preview_of_one_too_many_holds_no_lease(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """Nobody knows when a place is free, and asking does not take one."""
    gateway = await start_gateway({"single": "plan: single\nconcurrency: 1\n"})
    upstream.will("hang")
    running = asyncio.ensure_future(gateway.chat("single"))
    await upstream.saw()

    said = (await preview(gateway, "single")).json()

    assert (said["reason"], said["retry_after_ms"]) == ("concurrency", None)
    assert said["error"]["code"] == "concurrency_limit_exceeded"
    assert (said["binding"]["used"], gateway.held("single")) == (1, 1)
    running.cancel()
    await gateway.until_free("single")


async def test_the_wait_that_a_preview_tells_is_true(
    start_gateway: StartGateway,
) -> None:
    """Refused before it has passed, admitted after."""
    plan = "plan: fast\nrates: [{of: requests, limit: 5, per: second, burst: 1}]"
    gateway = await start_gateway({"fast": plan})
    await gateway.chat("fast")

    wait_ms = (await preview(gateway, "fast")).json()["retry_after_ms"]
    refused = await gateway.chat("fast")
    await asyncio.sleep(wait_ms / 1000)  # as told
    admitted = await gateway.chat("fast")

    assert 0 < int(refused.headers["retry-after-ms"]) <= wait_ms <= 200
    assert (refused.status_code, admitted.status_code) == (429, 200)


SMALL = """
plan: small
models: ["meta-llama/*"]
request: {max_input_tokens: 20, max_output_tokens: 100, max_body_bytes: 400000}
"""
MISTAKES = [
    pytest.param(b"not json", 400, id="not json"),
    pytest.param(b"", 400, id="empty"),
    pytest.param({"temperature": 9}, 400, id="parameter"),
    pytest.param({"messages": []}, 400, id="no messages"),
    pytest.param({"max_tokens": 101}, 400, id="too much output"),
    pytest.param({"messages": [{**USER[0], "content": "x" * 999}]}, 400, id="context"),
    pytest.param({"model": "gpt-of-others"}, 404, id="model"),
    pytest.param({"user": "x" * 400_000}, 413, id="body"),
    # Large enough to be parsed beside the loop.
    pytest.param({"user": "x" * 200_000, "temperature": 9}, 400, id="in a thread"),
]


@pytest.mark.parametrize(("body", "status"), MISTAKES)
async def test_a_preview_is_checked_as_its_request_would_be(
    start_gateway: StartGateway,
    upstream: ScriptedUpstream,
    body: bytes | dict[str, Any],
    status: int,
) -> None:
    """What could not be sent is refused with the same words."""
    gateway = await start_gateway({"small": SMALL})
    content = (
        body if isinstance(body, bytes) else msgspec.json.encode(chat_body(**body))
    )

    previewed, sent = [
        await gateway.client.post(path, content=content, headers=gateway.auth("small"))
        for path in ("/v1/limits/preview", "/v1/chat/completions")
    ]

    assert previewed.status_code == status
    assert previewed.json() == sent.json()
    assert upstream.requests == []


async def test_a_preview_refuses_what_no_route_of_the_upstream_can_carry(
    start_gateway: StartGateway,
) -> None:
    """It depends on the gateway's settings, and would be found out too late."""
    gateway = await start_gateway(upstream_dialect="inference")

    refused = await preview(gateway, stop=["."], n=2)

    assert refused.status_code == 400
    assert refused.json()["error"]["code"] == "unsupported_parameter"


async def test_asking_is_bounded_as_completing_is(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """A replica that is full is full for both routes."""
    gateway = await start_gateway(http_max_in_flight=1)
    upstream.will("hang")
    running = asyncio.ensure_future(gateway.chat())
    await upstream.saw()

    answers = [await gateway.get("/v1/limits"), await preview(gateway)]

    assert ["server_is_overloaded"] * 2 == [
        answer.json()["error"]["code"] for answer in answers
    ]
    running.cancel()
    await upstream.saw_disconnect()


REFUSED_METHODS = [
    pytest.param("POST", "/v1/limits", "GET, HEAD, OPTIONS", id="limits"),
    pytest.param("GET", "/v1/limits/preview", "OPTIONS, POST", id="preview"),
]


@pytest.mark.parametrize(("method", "path", "allowed"), REFUSED_METHODS)
async def test_another_method_is_refused_with_those_that_are_not(
    gateway: GatewayUnderTest, method: str, path: str, allowed: str
) -> None:
    """As on every route."""
    refused = await gateway.client.request(method, path, headers=gateway.auth())

    assert (refused.status_code, refused.headers["allow"]) == (405, allowed)


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_nobody_is_told_anothers_limits(
    gateway: GatewayUnderTest, method: str
) -> None:
    """Both routes ask for the key first."""
    path = "/v1/limits" if method == "GET" else "/v1/limits/preview"

    refused = await gateway.client.request(method, path, content=b"not json")

    assert refused.status_code == 401
    assert refused.json()["error"]["code"] == "invalid_api_key"


async def test_head_has_the_headers_and_no_body(start_gateway: StartGateway) -> None:
    """A cheap way to read `x-ratelimit-*`."""
    gateway = await start_gateway({"one": ONE_AN_HOUR})

    response = await gateway.client.head("/v1/limits", headers=gateway.auth("one"))

    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["x-ratelimit-remaining-requests"] == "1"


async def test_both_routes_answer_without_v1(gateway: GatewayUnderTest) -> None:
    """A base_url that lacks it is the commonest of all mistakes."""
    limits = await gateway.get("/limits")
    previewed = await gateway.post("/limits/preview", **chat_body())

    assert limits.json()["object"] == "limits"
    assert previewed.json()["object"] == "limits.preview"


async def test_the_apis_description_lists_both_routes(
    gateway: GatewayUnderTest,
) -> None:
    """With what they answer, field by field."""
    document = (await gateway.client.get("/openapi.json")).json()

    told = (await gateway.get("/v1/limits")).json()
    paths, schemas = document["paths"], document["components"]["schemas"]
    assert schemas["LimitsReport"]["required"] == list(told)
    for path, method, name in (
        ("/v1/limits", "get", "LimitsReport"),
        ("/v1/limits/preview", "post", "PreviewReport"),
    ):
        content = paths[path][method]["responses"]["200"]["content"]
        schema = content["application/json"]["schema"]
        assert schema == {"$ref": f"#/components/schemas/{name}"}
