"""The connections to LLMTune: httpx's stock transport, bounded."""

from __future__ import annotations

import httpx

from gateway.settings import Settings

# Idle connections beyond this are closed: half of it makes a burst pay for handshakes.
MAX_IDLE: int = 100
# Below the common 60 s of load balancers, so that we close first and never write into a
# connection the other side has given up.
IDLE_S: float = 50.0


def stock_transport(settings: Settings) -> httpx.AsyncBaseTransport:
    """A pool of keep-alive connections; TLS is verified, redirects are not followed."""
    limits = httpx.Limits(
        max_connections=settings.upstream_max_connections,
        max_keepalive_connections=min(MAX_IDLE, settings.upstream_max_connections),
        keepalive_expiry=IDLE_S,
    )
    # No transport-level retries: there is one retry rule, and it is `retry`'s.
    return httpx.AsyncHTTPTransport(limits=limits, retries=0)
