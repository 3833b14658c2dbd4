"""
One attempt to deliver a webhook, and what came of it.

What a receiver does wrong is an outcome and never an error. Redirects are not followed:
where they lead was not checked, and a receiver that moved is a setting to change.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Literal, TypeAlias

import msgspec

from gateway.envelope import Header
from gateway.translation.faults import retry_after_ms
from gateway.upstream.racing import first_connected
from gateway.webhooks.exchange import Exchange, to_wire
from gateway.webhooks.targets import (
    Allowed,
    Lookup,
    Target,
    TargetRefused,
    check_url,
    resolve,
)

Fault: TypeAlias = Literal[
    "refused_target",
    "unknown_host",
    "connect_failed",
    "tls_failed",
    "timeout",
    "hung_up",
    "not_http",
]

# For everything, the look-up included. Standard Webhooks recommends 15 to 30 s.
TIMEOUT_S: Final = 15.0
# A receiver may ask for a pause, but not for the end of the day.
MAX_RETRY_AFTER_S: Final = 3600.0

# RFC 9110, 15.5.11: gone for good; whoever says so wants no more.
_GONE: Final = 410
_ASKING_TO_WAIT: Final = frozenset({429, 503})


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """A status, if the receiver answered, else what was in the way."""

    status: int | None = None
    fault: Fault | None = None
    # The receiver is not to be asked again for this event.
    is_final: bool = False
    # How long it wants to be left alone.
    retry_after_s: float | None = None

    @property
    def is_delivered(self) -> bool:
        return self.status is not None and 200 <= self.status < 300


async def deliver(
    target_url: str,
    headers: Iterable[Header],
    body: bytes,
    *,
    allowed: Allowed,
    trust: Callable[[], ssl.SSLContext],
    now_s: float,
    timeout_s: float = TIMEOUT_S,
    lookup: Lookup | None = None,
) -> Outcome:
    """
    POST once. `trust` is what certificates are verified by, `now_s` the Unix time, for
    receivers that name one to come back at; a shared `lookup` is a `Resolver.resolve`.

    Raises ValueError for headers that cannot be sent, which are ours and not theirs.
    """
    deadline_s = asyncio.get_running_loop().time() + timeout_s
    try:
        target = check_url(target_url, allowed)
        wire = to_wire(target.authority, target.path, headers, body)
        addresses = await resolve(target, allowed, deadline_s=deadline_s, lookup=lookup)
    except TargetRefused:
        return Outcome(fault="refused_target")
    except TimeoutError:
        return Outcome(fault="timeout")
    except OSError:
        return Outcome(fault="unknown_host")
    context = trust() if target.is_tls else None
    return await _attempt(target, addresses, context, wire, deadline_s, now_s)


async def _attempt(
    target: Target,
    addresses: Sequence[str],
    context: ssl.SSLContext | None,
    wire: bytes,
    deadline_s: float,
    now_s: float,
) -> Outcome:
    exchange: Exchange | None = None
    try:
        async with asyncio.timeout_at(deadline_s):
            exchange = await _connect(target, addresses, context)
            exchange.send(wire)
            await exchange.until_answered()
    except TimeoutError:
        # A status that came is the answer, however long the rest would have taken: the
        # receiver has decided, and would be asked twice.
        if exchange is None or exchange.head is None:
            return Outcome(fault="timeout")
    except ssl.SSLError:
        return Outcome(fault="tls_failed")
    except OSError:
        return Outcome(fault="connect_failed")
    finally:
        if exchange is not None:
            exchange.abort()
    return _to_outcome(exchange, now_s)


async def _connect(
    target: Target, addresses: Sequence[str], context: ssl.SSLContext | None
) -> Exchange:
    """Connected to one of the addresses that were checked, and to nothing else."""
    loop = asyncio.get_running_loop()
    # The certificate has to be the name's, although the name is not asked again.
    name = target.host if context is not None else None

    async def reach(address: str) -> Exchange:
        _, reached = await loop.create_connection(
            Exchange, address, target.port, ssl=context, server_hostname=name
        )
        return reached

    return await first_connected(reach, addresses)


def _to_outcome(exchange: Exchange, now_s: float) -> Outcome:
    head = exchange.head
    if head is None:
        return Outcome(fault="not_http" if exchange.is_garbled else "hung_up")
    wait_ms = None
    if head.status in _ASKING_TO_WAIT:
        wait_ms = retry_after_ms(head.headers, now_s)
    return Outcome(
        status=head.status,
        is_final=head.status == _GONE,
        retry_after_s=None if wait_ms is None else _bounded_s(wait_ms),
    )


def _bounded_s(wait_ms: int) -> float:
    return min(max(wait_ms / 1000, 0.0), MAX_RETRY_AFTER_S)
