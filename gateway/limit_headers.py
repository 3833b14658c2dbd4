"""
A decision of the ledger as response headers and as an error. Pure.

Two vocabularies for one state: OpenAI's `x-ratelimit-*`, which SDKs and frameworks
read, and the IETF's `RateLimit` / `RateLimit-Policy`
(draft-ietf-httpapi-ratelimit-headers-10; a draft whose field names may still change).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Final, Literal, TypeAlias, assert_never

from gateway.errors import Header, LimitCode, LimitExceeded
from policies.ledger import LimitState, Rejected
from policies.plans import Concurrency, Limit, Plan, Quota, Rate, Unit

UNITS: Final[tuple[Unit, ...]] = ("requests", "tokens")

DEGRADED: Final = b"x-llmtune-degraded"
StandIn: TypeAlias = Literal["share", "open"]

# A lease may end at any moment, so the shortest wait that does not make a busy
# workspace poll: at half of it the retries outnumber the answers, at double slots stand
# idle.
CONCURRENCY_RETRY_MS: Final = 500

# Calendar windows have no fixed length; the draft wants seconds, so a month is 30 days.
_WINDOW_S: Final = {"hour": 3600, "day": 86_400, "month": 2_592_000}

# As many as there are plans and keys with limits of their own in use, in about 15 MB.
MAX_FRAMES: Final = 4096

# Of a second, by its milliseconds, as OpenAI writes them: without trailing zeros.
_FRACTIONS: Final = ("", *(f".{ms:03d}".rstrip("0") for ms in range(1, 1000)))


class _UnitFrame:
    """OpenAI's three headers of one unit, but for their numbers."""

    __slots__ = ("limits", "positions", "remaining", "reset")

    def __init__(self, unit: Unit, states: list[LimitState]) -> None:
        self.positions = [
            position
            for position, state in enumerate(states)
            if not isinstance(state.limit, Concurrency) and state.limit.of == unit
        ]
        name = unit.encode()
        self.remaining = b"x-ratelimit-remaining-" + name
        self.reset = b"x-ratelimit-reset-" + name
        self.limits: list[Header] = [
            (b"x-ratelimit-limit-" + name, b"%d" % state.capacity) for state in states
        ]

    def tightest(self, left: list[int]) -> int:
        """
        Where the limit stands that the unit's headers report.

        They have room for one where a plan may have several: the one with the least
        left, of equals the first, is the one a client will meet first.
        """
        tightest = self.positions[0]
        for position in self.positions:
            if left[position] < left[tightest]:
                tightest = position
        return tightest


class _Frame:
    """All that does not move in the headers of some limits; the limits live with it."""

    __slots__ = ("_made_for", "_prefixes", "_templates", "enforced", "policy", "units")

    def __init__(self, states: tuple[LimitState, ...]) -> None:
        self._made_for = tuple(state.limit for state in states)
        # What is not enforced would only frighten a client into waiting.
        enforced = [state for state in states if not state.limit.shadow]
        self.enforced = [
            index for index, state in enumerate(states) if not state.limit.shadow
        ]
        self._prefixes = [f'"{state.name}";r=%d' for state in enforced]
        self._templates: dict[int, bytes] = {}
        policy = ", ".join(_policy_item(s.limit, s.name, s.capacity) for s in enforced)
        self.policy: Header = (b"ratelimit-policy", policy.encode())
        frames = [_UnitFrame(unit, enforced) for unit in UNITS]
        self.units = [frame for frame in frames if frame.positions]

    def template(self, shape: int) -> bytes:
        """
        The `RateLimit` field without its numbers.

        The bits of `shape`, after a first 1, say which limits have a time to tell. Few
        of its values occur: a bucket is full, or it is not.
        """
        template = self._templates.get(shape)
        if template is None:
            timed = bin(shape)[3:]
            items = [
                prefix + (";t=%d" if bit == "1" else "")
                for prefix, bit in zip(self._prefixes, timed, strict=True)
            ]
            template = self._templates[shape] = ", ".join(items).encode()
        return template


_frames: dict[tuple[int, ...], _Frame] = {}


def _frame_of(states: tuple[LimitState, ...]) -> _Frame:
    # By identity, a key's own with another sign: hashing the limits would cost more
    # than all the rest. A frame keeps its limits, so no other can have their names.
    name = tuple([-id(s.limit) if s.is_of_key else id(s.limit) for s in states])
    frame = _frames.get(name)
    if frame is None:
        if len(_frames) >= MAX_FRAMES:
            # Whatever came first: those in use are made again, at four answers' cost.
            del _frames[next(iter(_frames))]
        frame = _frames[name] = _Frame(states)
    return frame


def limit_headers(states: Iterable[LimitState]) -> tuple[Header, ...]:
    """
    The headers every answer to an authenticated call carries.

    Only numbers are written here, what is around them stands in the frame: 6 us for
    five limits, where all of it was 21.
    """
    states = tuple(states)
    frame = _frame_of(states)
    enforced = [states[index] for index in frame.enforced]
    if not enforced:
        return ()
    left: list[int] = []
    numbers: list[int] = []
    shape = 1
    for state in enforced:
        spare = state.capacity - state.used
        remaining = spare if spare > 0 else 0
        left.append(remaining)
        numbers.append(remaining)
        shape <<= 1
        if state.reset_after_ms:
            numbers.append(-(-state.reset_after_ms // 1000))
            shape += 1
    headers: list[Header] = []
    for unit in frame.units:
        at = unit.tightest(left)
        headers += (
            unit.limits[at],
            (unit.remaining, b"%d" % left[at]),
            (unit.reset, go_duration(enforced[at].reset_after_ms).encode()),
        )
    now = frame.template(shape) % tuple(numbers)
    return (*headers, frame.policy, (b"ratelimit", now))


def degraded_headers(plan: Plan) -> tuple[Header, ...]:
    """How an answer was decided that was decided without the shared store."""
    return ((DEGRADED, stand_in(plan).encode()),)


def stand_in(plan: Plan) -> StandIn:
    """What decides for this plan while the shared store is away."""
    # A closed plan is refused by then; where it is only looked at, a share is shown.
    return "open" if plan.on_store_failure == "open" else "share"


def go_duration(milliseconds: int) -> str:
    """OpenAI's reset format: `12ms`, `8.64s`, `6m0s`, `1h0m0s`."""
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    seconds, rest_ms = divmod(milliseconds, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    text = f"{seconds}{_FRACTIONS[rest_ms]}s"
    if hours:
        return f"{hours}h{minutes}m{text}"
    return f"{minutes}m{text}" if minutes else text


def _policy_item(limit: Limit, name: str, capacity: int) -> str:
    match limit:
        case Concurrency():
            return f'"{name}";q={capacity};qu="concurrent-requests"'
        case Rate():
            window = f";w={limit.period_s}"
        case Quota():
            window = f";w={_WINDOW_S[limit.per]}"
        case _:
            assert_never(limit)
    # The draft's registry has no unit for tokens, and forbids inventing values of `qu`.
    unit = ';llmtune-unit="tokens"' if limit.of == "tokens" else ""
    return f'"{name}";q={limit.limit}{window}{unit}'


def rejection_error(rejected: Rejected, plan: Plan, *, now_ms: int) -> LimitExceeded:
    """
    What the client is told about a rejection: which limit, how full, and until when.
    """
    state = rejected.binding
    code, message, wait_ms, is_retryable = _wording(rejected, plan)
    headers = limit_headers(rejected.states)
    if not rejected.is_exact:
        headers += degraded_headers(plan)
    return LimitExceeded(
        message,
        limit_code=code,
        retry_after_ms=wait_ms,
        is_retryable=is_retryable,
        headers=headers,
        details={
            **_described(state, plan),
            "requested": rejected.requested,
            "resets_at": resets_at(state, now_ms=now_ms),
            "whose": "gateway",
        },
    )


def _wording(
    rejected: Rejected, plan: Plan
) -> tuple[LimitCode, str, int | None, bool | None]:
    """Code, message, wait and whether retrying helps."""
    state, wait_ms = rejected.binding, rejected.retry_after_ms
    whose = f"on plan {plan.title or plan.plan}"
    if state.is_of_key:
        whose = "of this API key"
    kind = f"{state.name} {whose}"
    figures = (
        f"Limit {state.capacity}, Used {state.used}, Requested {rejected.requested}"
    )
    match rejected.reason:
        case "rate":
            wait_s = (wait_ms or 0) / 1000
            text = f"Rate limit reached for {kind}: {figures}."
            text += f" Please try again in {wait_s:g}s."
            return "rate_limit_exceeded", text, wait_ms, None
        case "concurrency":
            text = f"Too many requests in flight for {kind}: {figures}."
            return "concurrency_limit_exceeded", text, CONCURRENCY_RETRY_MS, None
        case "quota":
            text = "You exceeded your current quota, please check your plan and billing"
            text += f" details: {kind}: {figures}."
            return "insufficient_quota", text, wait_ms, False
        case "too_large" if isinstance(state.limit, Concurrency):
            text = f"No request may run: {kind} is 0."
            return "request_exceeds_limit", text, None, False
        case "too_large":
            text = f"The request is larger than {kind} can ever hold: {figures}."
            return "request_exceeds_limit", text, None, False


def _described(state: LimitState, plan: Plan) -> dict[str, Any]:
    return {
        "plan": plan.plan,
        "dimension": state.name,
        "limit": state.capacity,
        "used": state.used,
    }


def resets_at(state: LimitState, *, now_ms: int) -> int | None:
    """
    When the limit is untouched again, in whole epoch seconds; None for concurrency.
    """
    if isinstance(state.limit, Concurrency):
        return None
    return math.ceil((now_ms + state.reset_after_ms) / 1000)
