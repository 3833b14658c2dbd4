"""The error that an upstream answer without success becomes, whichever way it came."""

from __future__ import annotations

import time
from collections.abc import Mapping

from gateway.errors import GatewayError, UpstreamError
from gateway.translation.faults import error_of_status


def refusal_of(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    model: str,
    is_callers_key: bool,
) -> GatewayError:
    """What the caller is told."""
    error = error_of_status(status, headers, body, model=model, now_s=time.time())
    if status in {401, 403} and not is_callers_key:
        # The caller's key was good; the operator's is not. A 401 would send an
        # application developer looking in the wrong place.
        return UpstreamError(
            "The upstream refused the gateway's own API key.",
            fault="own_key_refused",
        )
    return error
