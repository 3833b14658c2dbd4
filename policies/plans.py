"""
What a plan is: the limits a workspace lives under, as written in a plan file.

Behaviour-free values, strict about unknown fields because we own the format.
How limits are counted is the ledger's business; how files are read is `plan_files`'.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta

Unit: TypeAlias = Literal["requests", "tokens"]
RatePeriod: TypeAlias = Literal["second", "minute", "hour", "day"]
QuotaWindow: TypeAlias = Literal["hour", "day", "month"]
StoreFailure: TypeAlias = Literal["share", "open", "closed"]

# 2**40 tokens a second is beyond any fleet, and every product the limits enter into
# stays exact in the 53 bits a Lua number has.
MAX_LIMIT: Final = 2**40

LimitCount: TypeAlias = Annotated[int, Meta(ge=0, le=MAX_LIMIT)]
PositiveCount: TypeAlias = Annotated[int, Meta(ge=1, le=MAX_LIMIT)]

RATE_PERIOD_S: Final[dict[RatePeriod, int]] = {
    "second": 1,
    "minute": 60,
    "hour": 3600,
    "day": 86_400,
}


class Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A frozen value whose file form refuses fields it does not know."""


class Rate(Strict, frozen=True, kw_only=True):
    """A continuous refill of `limit` units per period; starts full at `burst`."""

    of: Unit
    limit: PositiveCount
    per: RatePeriod
    # The most that can be spent at once after idling; None means `limit`.
    burst: PositiveCount | None = None
    shadow: bool = False

    @property
    def capacity(self) -> int:
        """The units a full bucket holds."""
        return self.limit if self.burst is None else self.burst

    @property
    def period_s(self) -> int:
        return RATE_PERIOD_S[self.per]

    @property
    def name(self) -> str:
        return f"{self.of}-per-{self.per}"


class Quota(Strict, frozen=True, kw_only=True):
    """A budget of `limit` units over one calendar window, UTC."""

    of: Unit
    limit: LimitCount
    per: QuotaWindow
    shadow: bool = False

    @property
    def name(self) -> str:
        return f"{self.of}-per-calendar-{self.per}"


class Concurrency(Strict, frozen=True, kw_only=True):
    """How many leases a workspace may hold; 0 suspends it."""

    limit: LimitCount
    shadow: bool = False

    @property
    def name(self) -> str:
        return "concurrency"


Limit: TypeAlias = Rate | Quota | Concurrency


class KeyLimits(Strict, frozen=True, kw_only=True):
    """What one API key may do less than its workspace's plan; counted for itself."""

    concurrency: Concurrency | None = None
    rates: tuple[Rate, ...] = ()
    quotas: tuple[Quota, ...] = ()

    @property
    def limits(self) -> tuple[Limit, ...]:
        """Every limit in the order it is reported: rates, quotas, concurrency."""
        return _in_order(self.rates, self.quotas, self.concurrency)


class RequestBounds(Strict, frozen=True, kw_only=True):
    """The largest single request; None is unbounded."""

    max_input_tokens: PositiveCount | None = None
    max_output_tokens: PositiveCount | None = None
    max_body_bytes: PositiveCount | None = None


class Idempotency(Strict, frozen=True, kw_only=True):
    """What is kept for an `Idempotency-Key`, how long, and who may follow."""

    ttl_s: PositiveCount = 86_400
    max_answer_bytes: PositiveCount = 1_048_576
    # Of all answers together, as they are stored; beyond it the oldest go first.
    max_workspace_bytes: PositiveCount = 67_108_864
    # False: who asks while it runs is told to come back.
    join: bool = True
    # How long a request runs on after its client has left, for the retry to find it.
    run_on_s: LimitCount = 600
    # Set: SDKs' own retries join their request without a key, if it runs or ended
    # within this time without its client.
    join_retries_s: PositiveCount | None = None


class ResponseCache(Strict, frozen=True, kw_only=True):
    """Answers for equal requests whose answer is meant to be the same every time."""

    ttl_s: PositiveCount = 300
    max_answer_bytes: PositiveCount = 262_144
    max_workspace_bytes: PositiveCount = 16_777_216


class BatchLimits(Strict, frozen=True, kw_only=True):
    """What a workspace's batches and files may take; None is unbounded."""

    # Of one batch, refused when it is read. OpenAI takes no more.
    max_lines: Annotated[int, Meta(ge=1, le=50_000)] = 50_000
    # Of all batches together: what is under way at a time, as it was estimated. They
    # wait for room.
    enqueued_tokens: PositiveCount | None = None
    concurrent_batches: PositiveCount | None = None
    # Of all files together. Uploads that do not fit are refused; what batches leave is
    # kept, and counted.
    stored_file_bytes: PositiveCount | None = None


class PrivateFleet(Strict, frozen=True, kw_only=True):
    """An upstream of the workspace's own; its key is read from the environment."""

    url: str
    api_key_env: str | None = None


class Plan(Strict, frozen=True, kw_only=True):
    """A named set of limits. What is absent is unlimited."""

    plan: str
    title: str = ""
    concurrency: Concurrency | None = None
    rates: tuple[Rate, ...] = ()
    quotas: tuple[Quota, ...] = ()
    request: RequestBounds = RequestBounds()
    models: tuple[str, ...] = ("*",)
    on_store_failure: StoreFailure = "share"
    upstream: PrivateFleet | None = None
    idempotency: Idempotency = Idempotency()
    # Off unless it is there.
    cache: ResponseCache | None = None
    batch: BatchLimits = BatchLimits()

    @property
    def limits(self) -> tuple[Limit, ...]:
        """Every limit in the order it is reported: rates, quotas, concurrency."""
        return _in_order(self.rates, self.quotas, self.concurrency)


def _in_order(
    rates: tuple[Rate, ...],
    quotas: tuple[Quota, ...],
    concurrency: Concurrency | None,
) -> tuple[Limit, ...]:
    last: tuple[Limit, ...] = (concurrency,) if concurrency else ()
    return (*rates, *quotas, *last)
