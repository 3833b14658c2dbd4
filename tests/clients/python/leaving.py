"""
Clients that leave before their answer is complete, on a plan with one lease.

The upstream says a few words and then nothing for ten minutes, so the lease is free
again only because the gateway noticed. The client's own retries wait for that.
"""

# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import asyncio

from openai import APITimeoutError, RateLimitError

from tests.clients.python.scenario import (
    HELLO,
    STALLED,
    STALLED_STREAM,
    ask,
    caught,
    connect,
    connect_async,
    same,
    scenario,
)

# Above what the request needs to be admitted, below what a person waits.
SHORT_TIMEOUT_S = 0.5


def check_taken(plan: str) -> None:
    error = caught(RateLimitError, ask, connect(plan))
    same("concurrency_limit_exceeded", error.code)


def check_free(plan: str) -> None:
    assert ask(connect(plan, max_retries=3)).choices


@scenario
def leave_by_close() -> None:
    plan = "alone-close"
    stream = ask(connect(plan), model=STALLED_STREAM, stream=True)
    next(stream)
    check_taken(plan)

    stream.close()

    check_free(plan)


@scenario
def leave_by_break() -> None:
    plan = "alone-break"
    with ask(connect(plan), model=STALLED_STREAM, stream=True) as stream:
        for _ in stream:
            check_taken(plan)
            break

    check_free(plan)


@scenario
def leave_by_timeout() -> None:
    plan = "alone-timeout"
    client = connect(plan, timeout=SHORT_TIMEOUT_S)

    caught(APITimeoutError, ask, client, model=STALLED)

    check_free(plan)


@scenario
async def leave_by_cancel() -> None:
    plan = "alone-cancel"
    begun = asyncio.Event()

    async def read() -> None:
        stream = await client.chat.completions.create(
            model=STALLED_STREAM, messages=HELLO, stream=True
        )
        async for _ in stream:
            begun.set()

    async with connect_async(plan) as client:
        task = asyncio.create_task(read())
        await asyncio.wait_for(begun.wait(), SHORT_TIMEOUT_S * 10)
        await asyncio.to_thread(check_taken, plan)

        task.cancel()
        await asyncio.wait([task])

        await asyncio.to_thread(check_free, plan)
