"""
Which requests are run once for all who ask, under which key, and how far that goes.

key    it has an `Idempotency-Key`
retry  it has none, but its plan joins the retries that SDKs make of themselves: they
       repeat the request, and say so in `x-stainless-retry-count`
cache  its plan has a cache, and its answer is meant to be the same every time
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from gateway.auth import Principal
from gateway.replay.fingerprint import Asked
from gateway.replay.header import IDEMPOTENCY_KEY, read_key
from policies.plans import Plan, ResponseCache
from policies.replay.port import Bounds, ReplayKey, ReplayScope

RETRY_COUNT: Final = b"x-stainless-retry-count"
CACHE_CONTROL: Final = b"cache-control"

Headers = Mapping[bytes, bytes]


class Terms(msgspec.Struct, frozen=True):
    """A request's key, and what is done under it."""

    key: ReplayKey
    bounds: Bounds
    # Takes no answer that was given before, nor one that is being given.
    is_fresh: bool
    # Whether others may wait for its answer.
    is_joinable: bool
    # How long it runs on when its client has left, unless somebody follows.
    run_on_s: float
    # False: only an answer that its client has not got is kept.
    keeps_delivered: bool
    # Its own client has all of it before it is kept: because that decides whether it
    # is, or because what is kept may be gone before a slow one has read it.
    is_delivered_first: bool
    # Whether what was finally refused is kept as well.
    keeps_refusals: bool

    @property
    def scope(self) -> ReplayScope:
        return self.key.scope


def may_have_terms(headers: Headers, plan: Plan) -> bool:
    """Whether `terms_of` has to be asked, once it is known what is asked for."""
    return (
        IDEMPOTENCY_KEY in headers
        or plan.cache is not None
        or plan.idempotency.join_retries_s is not None
    )


def terms_of(headers: Headers, principal: Principal, asked: Asked) -> Terms | None:
    """The terms of a request; None if it is run by itself. InvalidRequest."""
    own = headers.get(IDEMPOTENCY_KEY)
    if own is not None:
        return _by_key(read_key(own), principal, asked)
    control = {
        part.strip() for part in headers.get(CACHE_CONTROL, b"").lower().split(b",")
    }
    if b"no-store" in control:
        return None
    cache = principal.plan.cache
    if cache is not None and asked.is_deterministic:
        return _by_cache(cache, principal, asked, is_fresh=b"no-cache" in control)
    if principal.plan.idempotency.join_retries_s is not None:
        return _by_retry(headers, principal, asked)
    return None


def _by_key(key: str, principal: Principal, asked: Asked) -> Terms:
    kept = principal.plan.idempotency
    return Terms(
        key=ReplayKey(principal.workspace, "key", key, asked.fingerprint),
        bounds=Bounds(
            kept.ttl_s * 1000, kept.max_answer_bytes, kept.max_workspace_bytes
        ),
        is_fresh=False,
        is_joinable=kept.join,
        run_on_s=kept.run_on_s,
        keeps_delivered=True,
        is_delivered_first=False,
        keeps_refusals=True,
    )


def _by_retry(headers: Headers, principal: Principal, asked: Asked) -> Terms:
    kept = principal.plan.idempotency
    within_s = kept.join_retries_s or 0
    # Of the same API key: another one's equal prompt is no retry.
    name = f"{principal.key_id} {_name(principal, asked)}"
    is_retry = headers.get(RETRY_COUNT, b"0").strip() not in {b"", b"0"}
    return Terms(
        key=ReplayKey(principal.workspace, "retry", name, asked.fingerprint),
        bounds=Bounds(within_s * 1000, kept.max_answer_bytes, kept.max_workspace_bytes),
        # Two equal prompts are not always a retry: who does not say so gets an answer
        # of its own.
        is_fresh=not is_retry,
        is_joinable=True,
        run_on_s=within_s,
        keeps_delivered=False,
        is_delivered_first=True,
        keeps_refusals=False,
    )


def _by_cache(
    cache: ResponseCache, principal: Principal, asked: Asked, *, is_fresh: bool
) -> Terms:
    return Terms(
        key=ReplayKey(
            principal.workspace, "cache", _name(principal, asked), asked.fingerprint
        ),
        bounds=Bounds(
            cache.ttl_s * 1000, cache.max_answer_bytes, cache.max_workspace_bytes
        ),
        is_fresh=is_fresh,
        is_joinable=True,
        run_on_s=0,
        keeps_delivered=True,
        is_delivered_first=True,
        keeps_refusals=False,
    )


def _name(principal: Principal, asked: Asked) -> str:
    """A request by what it asks, and of which fleet."""
    fleet = principal.plan.upstream
    return f"{asked.fingerprint.hex()} {fleet.url if fleet else ''}"
