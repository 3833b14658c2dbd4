"""Which transport carries the calls to LLMTune, and how it is bounded."""

from __future__ import annotations

from typing import Final

import httpx

from gateway.settings import Settings
from gateway.upstream.lean_transport import LeanTransport
from gateway.upstream.sending import HttpxSender, Sender
from gateway.upstream.stock_transport import stock_transport

# Below the common 60 s of load balancers, so that we close first and never write into a
# connection the other side has given up.
IDLE_S: Final = 50.0


def to_sender(transport: httpx.AsyncBaseTransport) -> Sender:
    """What carries attempts over this transport."""
    if isinstance(transport, LeanTransport):
        return transport
    return HttpxSender(transport)


def certificate_expiry_s(transport: httpx.AsyncBaseTransport) -> int | None:
    """
    When the first certificate expires of those that upstreams showed, as Unix time.

    None without TLS, and over httpx's own transport, which does not say.
    """
    if not isinstance(transport, LeanTransport):
        return None
    return min(transport.pool.certificate_expiries.values(), default=None)


def read_certificates(transport: httpx.AsyncBaseTransport) -> None:
    """Do now what the first call over TLS would wait for; from any thread."""
    if isinstance(transport, LeanTransport):
        transport.trust()


def open_transport(settings: Settings) -> httpx.AsyncBaseTransport:
    """The transport that the settings name; it connects when it is first asked."""
    most, uds = settings.upstream_max_connections, settings.upstream_uds
    if settings.upstream_transport == "lean":
        return LeanTransport(max_connections=most, idle_s=IDLE_S, uds=uds)
    proxy = settings.upstream_proxy_url
    return stock_transport(
        max_connections=most,
        idle_s=IDLE_S,
        uds=uds,
        proxy=proxy.reveal() if proxy else None,
        is_http2=settings.upstream_transport == "http2",
    )
