"""Bad input: a clear envelope, nothing charged, nothing leaked, nothing hangs."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.conftest import StartGateway
from tests.gateway_under_test import MODEL, GatewayUnderTest, chat_body
from tests.upstream import PATIENCE_S, ScriptedUpstream

MIB = 1024 * 1024


def body_with(**fields: Any) -> bytes:
    return json.dumps(chat_body(**fields)).encode()


BODIES = [
    pytest.param(b"", None, id="empty"),
    pytest.param(b"{", None, id="malformed"),
    pytest.param(b"[]", None, id="not an object"),
    pytest.param(
        b'{"model":"m","messages":[{"role":"user","content":NaN}]}', None, id="nan"
    ),
    pytest.param(b'{"model":"\xff\xfe"}', None, id="invalid utf-8"),
    pytest.param(b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", None, id="nesting"),
    pytest.param(b'{"model":"a",' + body_with()[1:], "model", id="duplicate keys"),
    pytest.param(body_with(model="a/../b"), "model", id="dots in the model"),
    pytest.param(body_with(model="a\x00b"), "model", id="nul in the model"),
    pytest.param(body_with(model=7), "model", id="model is a number"),
    pytest.param(body_with(max_tokens=-1), "max_tokens", id="negative max_tokens"),
    pytest.param(body_with(max_tokens=10**30), "max_tokens", id="huge integer"),
    pytest.param(body_with(temperature=3), "temperature", id="temperature"),
    pytest.param(body_with(stream="true"), "stream", id="stream is text"),
    pytest.param(body_with(messages=[]), "messages", id="no messages"),
    pytest.param(
        body_with(messages=[{"role": "user", "content": "x"}] * 10_000),
        "messages",
        id="10,000 messages",
    ),
    pytest.param(
        b'{"model":"m","tools":[{"type":"function","function":{"name":"f"}}],'
        b'"messages":[{"role":"developer","content":"x","y":1e999}]}',
        "messages",
        id="unknown number that cannot be passed on",
    ),
    pytest.param(
        body_with(messages=[{"role": "robot", "content": "x"}]),
        "messages[0].role",
        id="unknown role",
    ),
]


@pytest.mark.parametrize(("body", "param"), BODIES)
async def test_a_bad_body_is_a_400_that_names_the_parameter(
    gateway: GatewayUnderTest,
    upstream: ScriptedUpstream,
    body: bytes,
    param: str | None,
) -> None:
    """The developer is shown the place, and the upstream never sees the request."""
    response = await gateway.post_raw(body)

    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, param)
    assert error["type"] == "invalid_request_error"
    assert upstream.requests == []


@pytest.mark.parametrize("is_chunked", [False, True], ids=["declared", "chunked"])
async def test_a_body_of_33_mib_is_a_413_that_arrives(
    gateway: GatewayUnderTest, upstream: ScriptedUpstream, *, is_chunked: bool
) -> None:
    """Clients that write everything before they read still see the answer."""

    async def pieces() -> Any:
        for _ in range(33):
            yield b" " * MIB

    content = pieces() if is_chunked else b" " * (33 * MIB)
    response = await gateway.client.post(
        "/v1/chat/completions", content=content, headers=gateway.auth()
    )

    assert response.status_code == 413
    assert response.json()["error"]["code"] == "request_too_large"


async def test_an_unknown_model_is_a_404(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """A model outside the plan looks like one that does not exist."""
    gateway = await start_gateway({"few": "plan: few\nmodels: [one, 'meta/*']"})

    response = await gateway.chat("few", model="other/model")

    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (404, "model_not_found")
    assert upstream.requests == []
    assert (await gateway.chat("few", model="meta/x")).status_code == 200


RAW = [
    pytest.param(b"nonsense\r\n\r\n", 400, id="no http"),
    pytest.param(b"GET / HTTP/1.1\r\nbad header\r\n\r\n", 400, id="bad header"),
    pytest.param(
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n"
        b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
        id="smuggling",
    ),
    pytest.param(
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n"
        b"transfer-encoding: chunked\r\n\r\nzz\r\nabc\r\n",
        400,
        id="bad chunk",
    ),
    pytest.param(
        b"GET /livez HTTP/1.1\r\nhost: x\r\nx: " + b"a" * 70_000 + b"\r\n\r\n",
        431,
        id="a huge header",
    ),
    pytest.param(
        b"GET /livez HTTP/1.1\r\nhost: x\r\n" + b"x: aaaaaaaa\r\n" * 6000 + b"\r\n",
        431,
        id="many headers",
    ),
    pytest.param(b"GET /livez HTTP/1.1\r\nx: " + b"a" * 90_000, 431, id="no end"),
]


async def raw_exchange(gateway: GatewayUnderTest, sent: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.address.port)
    writer.write(sent)
    answer = await asyncio.wait_for(reader.read(), PATIENCE_S)
    writer.close()
    return answer


@pytest.mark.parametrize(("sent", "status"), RAW)
async def test_what_is_no_http_is_answered_in_the_envelope(
    gateway: GatewayUnderTest, sent: bytes, status: int
) -> None:
    """Also errors from below the routes have OpenAI's shape and an id."""
    answer = await raw_exchange(gateway, sent)

    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"x-request-id: req_" in head
    assert {"message", "type", "param", "code"} == set(json.loads(body)["error"])


async def test_headers_that_never_end_time_out(start_gateway: StartGateway) -> None:
    """A slow loris is shown the door, in words."""
    gateway = await start_gateway(http_header_timeout_s=0.2)

    answer = await raw_exchange(gateway, b"GET /livez HTTP/1.1\r\nx: ")

    assert answer.startswith(b"HTTP/1.1 408 ")


async def test_a_connection_without_a_request_is_closed(
    start_gateway: StartGateway,
) -> None:
    """Nothing asked, nothing answered, nothing kept."""
    gateway = await start_gateway(http_header_timeout_s=0.2)

    assert await raw_exchange(gateway, b"") == b""


async def test_a_body_that_never_ends_times_out(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """The body has a deadline of its own."""
    gateway = await start_gateway(http_body_timeout_s=0.2)
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n"
        f"authorization: Bearer {gateway.key()}\r\nconnection: close\r\n\r\n"
    )

    answer = await raw_exchange(gateway, head.encode() + b"{")

    assert answer.startswith(b"HTTP/1.1 408 ")
    assert upstream.requests == []


ROUTES = [
    pytest.param("GET", "/nowhere", 404, id="unknown path"),
    pytest.param("GET", "/", 404, id="root"),
    pytest.param("GET", "/v1", 404, id="v1"),
    pytest.param("GET", "/v1/chat/completions", 405, id="wrong method"),
    pytest.param("DELETE", "/v1/models", 405, id="delete"),
    pytest.param("PUT", f"/v1/models/{MODEL}", 405, id="put"),
    pytest.param("POST", f"/v1/models/{MODEL}", 405, id="post to a model"),
    pytest.param("GET", "/v1/models/no/such", 404, id="unknown model"),
    pytest.param("POST", "/v1/models/a/%2e%2e/b/inference", 400, id="dots"),
]


@pytest.mark.parametrize(("method", "path", "status"), ROUTES)
async def test_what_the_router_refuses_is_an_envelope(
    gateway: GatewayUnderTest, method: str, path: str, status: int
) -> None:
    """Routing errors look like every other error."""
    response = await gateway.client.request(
        method, path, headers=gateway.auth(), content=b'{"prompt":"x"}'
    )

    assert response.status_code == status
    assert {"message", "type", "param", "code"} <= set(response.json()["error"])
    assert response.headers["x-request-id"]
    if status == 405:
        assert response.headers["allow"]


async def test_the_request_id_is_the_callers_if_it_is_sound(
    gateway: GatewayUnderTest, upstream: ScriptedUpstream
) -> None:
    """One id from the application to the upstream; none that could break a log."""
    headers = gateway.auth() | {"x-request-id": "my-id-1"}
    sound = await gateway.client.post(
        "/v1/chat/completions", json=chat_body(), headers=headers
    )
    headers["x-request-id"] = "x" * 500
    unsound = await gateway.client.get("/livez", headers=headers)

    assert sound.headers["x-request-id"] == "my-id-1"
    assert upstream.last.headers["x-request-id"] == "my-id-1"
    assert unsound.headers["x-request-id"].startswith("req_")
