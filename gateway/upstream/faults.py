"""
What the transport raises, as our errors; the one place that knows httpx's exceptions.

A test walks httpx's exception tree and checks that every transport error is mapped.
"""

from __future__ import annotations

import httpx

from gateway.errors import UpstreamError, UpstreamOverloaded, UpstreamTimeout


def from_transport_error(error: httpx.TransportError) -> UpstreamError:
    """The error for a call that never became an answer; shows no address and no key."""
    # In this order: connect and pool time-outs are TimeoutExceptions too.
    match error:
        case httpx.ConnectTimeout():
            return UpstreamTimeout(
                "The upstream did not accept a connection in time.",
                fault="connect_timeout",
            )
        case httpx.PoolTimeout():
            return UpstreamOverloaded(
                "Every connection to the upstream is in use.",
                retry_after_ms=1000,
                fault="pool_full",
            )
        case httpx.TimeoutException():
            return UpstreamTimeout("The upstream did not answer in time.")
        case httpx.ConnectError():
            return UpstreamError(
                "The upstream refused the connection.", fault="connect_failed"
            )
        case httpx.ProxyError():
            return UpstreamError(
                "The proxy to the upstream failed.", fault="connect_failed"
            )
        case httpx.ProtocolError():
            return UpstreamError(
                "The upstream broke the HTTP protocol or hung up.", fault="hung_up"
            )
        case _:
            return UpstreamError(
                "The connection to the upstream failed.", fault="hung_up"
            )


def is_before_sending(error: httpx.TransportError) -> bool:
    """Whether the upstream cannot have seen any of the request."""
    # Not the pool's time-out: nothing was sent, but it has waited long enough already.
    return isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
