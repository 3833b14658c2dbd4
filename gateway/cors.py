"""
Cross-origin answers for browser clients: off by default, exact when on. Pure.

Wildcards do not cover `Authorization` and are ignored with credentials, so every header
is named. What clients send beyond the list is `x-stainless-*`, one per SDK detail.
"""

from __future__ import annotations

from typing import Final

from gateway.errors import Header

ALLOWED_METHODS: Final = b"GET, POST, DELETE, HEAD, OPTIONS"
ALLOWED_HEADERS: Final = (
    "authorization",
    "content-type",
    "openai-organization",
    "openai-project",
    "openai-beta",
    "idempotency-key",
    "cache-control",
    "x-request-id",
    "x-client-request-id",
    "traceparent",
    "tracestate",
    "baggage",
)
EXPOSED_HEADERS: Final = (
    b"x-request-id, retry-after, retry-after-ms, x-should-retry, ratelimit,"
    b" ratelimit-policy, x-llmtune-degraded, server-timing, openai-processing-ms,"
    b" idempotent-replayed, idempotent-original-request-id, x-cache,"
    b" x-ratelimit-limit-requests, x-ratelimit-remaining-requests,"
    b" x-ratelimit-reset-requests, x-ratelimit-limit-tokens,"
    b" x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens"
)
SDK_PREFIX: Final = "x-stainless-"
# SDKs send about ten of theirs; a preflight that asks for hundreds is no SDK.
MAX_REQUESTED: Final = 64


class Cors:
    """The origins that browsers may call from."""

    def __init__(self, origins: tuple[str, ...]) -> None:
        self._origins = frozenset(origin.encode("ascii") for origin in origins)
        self._is_any = b"*" in self._origins

    def allows(self, origin: bytes) -> bool:
        return self._is_any or origin in self._origins

    def headers(self, origin: bytes | None) -> tuple[Header, ...]:
        """What every answer to a request from this origin carries."""
        if not self._origins:
            return ()
        # Caches must not serve one origin's answer to another, nor to a request
        # without.
        vary = (b"vary", b"Origin")
        if origin is None or not self.allows(origin):
            return (vary,)
        return (
            vary,
            (b"access-control-allow-origin", b"*" if self._is_any else origin),
            (b"access-control-expose-headers", EXPOSED_HEADERS),
        )

    def preflight(self, origin: bytes | None, requested: bytes) -> tuple[Header, ...]:
        """The answer to a preflight; without allow headers the browser refuses."""
        headers = self.headers(origin)
        if len(headers) < 2:
            return headers
        return (
            *headers,
            (b"access-control-allow-methods", ALLOWED_METHODS),
            (b"access-control-allow-headers", _allowed(requested)),
            (b"access-control-max-age", b"600"),
        )


def _allowed(requested: bytes) -> bytes:
    asked = [n.strip().lower() for n in requested.decode("latin-1").split(",")]
    of_sdk = [
        name
        for name in asked[:MAX_REQUESTED]
        if name.startswith(SDK_PREFIX) and name.replace("-", "").isalnum()
    ]
    return ", ".join((*ALLOWED_HEADERS, *of_sdk)).encode("ascii", "ignore")
