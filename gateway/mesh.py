"""
What a service mesh says in headers: whose trace a request is part of, and who sent it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from gateway.trusted_peers import TrustedPeers

if TYPE_CHECKING:
    from gateway.errors import Header
    from gateway.exchange import Exchange

# What Istio asks applications to carry on, so that proxies of any tracer can join the
# calls before and behind. W3C's headers are our own tracing's, where that is on.
W3C_HEADERS: Final = frozenset({b"traceparent", b"tracestate", b"baggage"})
# Lists, of which a caller may send a part in each of several headers.
_LISTS: Final = frozenset({b"tracestate", b"baggage"})
# Two forms of the same; whoever writes one of them has read either.
_B3: Final = frozenset(
    {
        *(b"b3", b"x-b3-traceid", b"x-b3-spanid", b"x-b3-parentspanid"),
        *(b"x-b3-sampled", b"x-b3-flags"),
    }
)
_FOREIGN_TRACES: Final = frozenset(
    {
        *_B3,
        b"x-ot-span-context",
        *(b"x-cloud-trace-context", b"grpc-trace-bin", b"sw8"),
        *(b"x-datadog-trace-id", b"x-datadog-parent-id"),
        b"x-datadog-sampling-priority",
    }
)
# https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_conn_man/headers
IDENTITY_HEADER: Final = b"x-forwarded-client-cert"
_CARRIED: Final = _FOREIGN_TRACES | W3C_HEADERS | {IDENTITY_HEADER}

# Longer values are dropped: a chain of certificates in headers is more than anybody
# behind this gateway needs to be told.
MOST_BYTES: Final = 8192

# The URI of an element; a SPIFFE id has none of what ends it here, nor of what Envoy
# would quote.
_URI: Final = re.compile(rb"(?:^|;)\s*URI=([^;,=\"\s]{1,512})", re.IGNORECASE)
_MARK: Final = re.compile(rb"[\",]")
_QUOTED: Final = re.compile(rb"\"(?:[^\"\\]|\\.)*\"")


class MeshHeaders:
    """What of a request's headers goes upstream with it."""

    def __init__(self, peers: TrustedPeers) -> None:
        self._peers = peers

    def carried(self, exchange: Exchange) -> tuple[Header, ...]:
        """
        The headers that carry a caller's trace and identity on.

        W3C's, and any others it writes, are left to tracing where an attempt has a
        span of its own: a second one would name another parent.
        """
        headers = exchange.headers
        own = exchange.carried or ()
        if _CARRIED.isdisjoint(headers):
            return own
        names, trace = _FOREIGN_TRACES, exchange.trace
        if trace is not None:
            names = names - trace.writes
            if not _B3.isdisjoint(trace.writes):
                names = names - _B3
        elif exchange.carried is None:
            names = names | W3C_HEADERS
        found = as_they_came(exchange, names)
        identity = headers.get(IDENTITY_HEADER)
        if identity is not None and self.believes(exchange):
            found.append((IDENTITY_HEADER, identity))
        return (*own, *found)

    def believes(self, exchange: Exchange) -> bool:
        """Whether this request's peer may say who its client is."""
        if not self._peers:
            return False
        value = exchange.headers.get(IDENTITY_HEADER, b"")
        if len(value) > MOST_BYTES or not _is_balanced(value):
            return False
        return self._peers.trusts(exchange.record.client)

    def identity(self, exchange: Exchange) -> str | None:
        """
        The URI, such as spiffe://cluster.local/ns/a/sa/b, a trusted peer vouches for.

        That is the last element: those before it are what that peer was told.
        """
        value = exchange.headers.get(IDENTITY_HEADER)
        if value is None or not self.believes(exchange):
            return None
        return last_uri(value)


def as_they_came(exchange: Exchange, names: frozenset[bytes]) -> list[Header]:
    """Those of these headers that a request has, within bounds."""
    headers, raw = exchange.headers, exchange.wire.head.headers
    found = {name: headers[name] for name in names if name in headers}
    if len(headers) < len(raw):
        for name in _LISTS & found.keys():
            found[name] = b",".join(value for each, value in raw if each == name)
    return [each for each in found.items() if len(each[1]) <= MOST_BYTES]


def last_uri(value: bytes) -> str | None:
    """The URI of the last element of an `x-forwarded-client-cert`, if it has one."""
    element = _last_element(value)
    # Quoted values, of subjects and certificates, may look like fields.
    found = _URI.search(_QUOTED.sub(b"", element))
    if found is None or not _is_balanced(element):
        return None
    return found[1].decode("ascii", "replace")


def _last_element(value: bytes) -> bytes:
    """
    What the peer itself has added.

    From the end: a client may leave a quote open in what comes before, which would
    swallow the comma that parts the two.
    """
    is_quoted = False
    for found in reversed(list(_MARK.finditer(value))):
        at = found.start()
        if found[0] == b'"':
            is_escaped = (at - len(value[:at].rstrip(b"\\"))) % 2 == 1
            is_quoted ^= not is_escaped
        elif not is_quoted:
            return value[at + 1 :]
    return value


def _is_balanced(value: bytes) -> bool:
    return b'"' not in _QUOTED.sub(b"", value)
