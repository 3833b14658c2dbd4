"""The asynchronous client."""

# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import asyncio
from typing import Any

import openai
from openai import AuthenticationError, DefaultAsyncHttpxClient

from tests.clients.python.scenario import (
    HELLO,
    MODEL,
    ask,
    connect,
    connect_async,
    same,
    scenario,
    text_of,
)
from tests.clients.python.streams import check_form

AT_ONCE = 20


@scenario
async def async_chat() -> None:
    async with connect_async() as client:
        answer = await client.chat.completions.create(model=MODEL, messages=HELLO)

        assert answer.choices[0].message.content
        assert MODEL in [model.id async for model in client.models.list()]


@scenario
async def async_stream() -> None:
    peers: list[Any] = []

    async def note(response: Any) -> None:
        socket = response.extensions["network_stream"]
        peers.append(socket.get_extra_info("client_addr"))

    http_client = DefaultAsyncHttpxClient(event_hooks={"response": [note]})
    async with connect_async(http_client=http_client) as client:
        for _ in range(2):
            chunks = [
                chunk
                async for chunk in await client.chat.completions.create(
                    model=MODEL, messages=HELLO, stream=True
                )
            ]
            check_form(chunks)

    # The body ends with [DONE], so the connection is free for the next request. 2.x
    # stops reading at [DONE] and closes the connection, whatever the server does.
    if not openai.__version__.startswith("2."):
        same(1, len(set(peers)))


@scenario
async def async_stream_helper() -> None:
    async with connect_async() as client:
        stream = client.chat.completions.stream(model=MODEL, messages=HELLO)
        async with stream as events:
            final = await events.get_final_completion()

    same(ask(connect()).choices[0].message.content, final.choices[0].message.content)


@scenario
async def async_many() -> None:
    async with connect_async() as client:

        async def streamed(number: int) -> str:
            messages = [{"role": "user", "content": f"Question {number}"}]
            stream = await client.chat.completions.create(
                model=MODEL, messages=messages, stream=True
            )
            return text_of([chunk async for chunk in stream])

        async def whole(number: int) -> Any:
            messages = [{"role": "user", "content": f"Question {number}"}]
            answer = await client.chat.completions.create(
                model=MODEL, messages=messages
            )
            return answer.choices[0].message.content

        texts = await asyncio.gather(*map(streamed, range(AT_ONCE)))
        same(await asyncio.gather(*map(whole, range(AT_ONCE))), texts)

    same(AT_ONCE, len(set(texts)))


@scenario
async def async_error() -> None:
    async with connect_async(api_key="wrong") as client:
        try:
            await client.chat.completions.create(model=MODEL, messages=HELLO)
        except AuthenticationError as error:
            same("invalid_api_key", error.code)
        else:
            raise AssertionError("no AuthenticationError")
