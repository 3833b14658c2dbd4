"""An answer is the same however its bytes come in."""

from __future__ import annotations

import asyncio

import pytest

from gateway.webhooks.exchange import Exchange, Head

ANSWER = (
    b"HTTP/1.1 100 Continue\r\n\r\n"
    b"HTTP/1.1 503 Busy\r\nRetry-After: 7\r\ntransfer-encoding: chunked\r\n\r\n"
    b"3\r\nabc\r\n0\r\n\r\n"
)


@pytest.mark.parametrize("place", range(len(ANSWER) + 1))
async def test_an_answer_split_at_any_byte_is_the_same(place: int) -> None:
    exchange = Exchange()

    exchange.data_received(ANSWER[:place])
    exchange.data_received(ANSWER[place:])

    await asyncio.wait_for(exchange.until_answered(), 5)
    headers = {"retry-after": "7", "transfer-encoding": "chunked"}
    assert exchange.head == Head(503, headers)


async def test_bytes_behind_the_answer_change_nothing() -> None:
    exchange = Exchange()

    exchange.data_received(ANSWER + b"HTTP/1.1 200 OK\r\n\r\n")

    assert exchange.head is not None
    assert (exchange.head.status, exchange.is_garbled) == (503, False)


async def test_a_broken_body_does_not_take_the_status_back() -> None:
    exchange = Exchange()

    exchange.data_received(ANSWER.replace(b"3\r\nabc", b"zz\r\nabc"))

    await asyncio.wait_for(exchange.until_answered(), 5)
    assert exchange.head is not None
    assert (exchange.head.status, exchange.is_garbled) == (503, False)
