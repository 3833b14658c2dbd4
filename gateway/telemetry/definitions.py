"""
Every metric: its name, its labels, from when to when it measures, and its buckets.

The one place where a name is written: the instruments, the README's table, dashboards,
alerts and their tests all take it from here. Label values come from closed sets (plans,
limits, routes, outcomes); what a caller can make up, a model or a workspace, is named
only while it is among the busiest, and is `_other` else.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple, TypeAlias

PREFIX: Final = "llmtune_gateway_"
# What a label says of everything that has no series of its own.
OTHER: Final = "_other"

Kind: TypeAlias = Literal["counter", "gauge", "histogram", "info"]
# What becomes of a gauge that several workers of one replica have.
Merge: TypeAlias = Literal["sum", "max", "min"]

# From a cached 401 to a generation that runs into OpenAI's 600 s client time-out; the
# steps double or less, so that a quantile is never off by more than that. OpenTelemetry
# ends http.server.request.duration at 10 s and gen_ai.client.operation.duration at 82 s
# (semantic conventions 1.41), where an LLM's answer may just begin.
DURATION_BUCKETS_S: Final = (
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 600,
)  # fmt: skip
# Those of gen_ai.server.time_to_first_token (1.41) from 20 ms, to the 600 s at which
# clients give up.
FIRST_TOKEN_BUCKETS_S: Final = (
    0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160,
    320, 600,
)  # fmt: skip
# Those of gen_ai.server.time_per_output_token (1.41): 100 to 0.4 tokens a second; with
# two below, for models that are faster.
OUTPUT_TOKEN_BUCKETS_S: Final = (
    0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1,
    2.5,
)  # fmt: skip
# A whole request takes well under a millisecond of CPU; what is above 0.1 s is a queue.
ADDED_BUCKETS_S: Final = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10,
)  # fmt: skip
# GATEWAY_STORE_TIMEOUT_S is 50 ms unless set, and 5 s at most.
STORE_BUCKETS_S: Final = (
    0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5,
)  # fmt: skip
# Actual over reserved tokens: below 1 is a refund, above 1 a top-up.
RATIO_BUCKETS: Final = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.85, 1, 1.15, 1.5, 2, 5)


class Definition(NamedTuple):
    """One metric, as a scraper is told of it."""

    name: str
    kind: Kind
    text: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    merge: Merge = "sum"

    @property
    def family(self) -> str:
        """Its name without the suffix that its kind adds."""
        return self.name.removesuffix("_total").removesuffix("_info")


def _counter(name: str, text: str, *labels: str) -> Definition:
    return Definition(f"{PREFIX}{name}_total", "counter", text, labels)


def _gauge(name: str, text: str, *labels: str, merge: Merge = "sum") -> Definition:
    return Definition(PREFIX + name, "gauge", text, labels, merge=merge)


def _histogram(
    name: str, text: str, *labels: str, buckets: tuple[float, ...]
) -> Definition:
    return Definition(PREFIX + name, "histogram", text, labels, buckets)


# Requests.

REQUESTS: Final = _counter(
    "requests",
    "Requests, counted when their answer is complete or abandoned, by route (a path of"
    " ours, or _other) and outcome (ok, invalid, unauthorized, rejected,"
    " upstream_error, client_gone, unavailable, failed).",
    *("route", "outcome"),
)
REQUEST_DURATION: Final = _histogram(
    "request_duration_seconds",
    "From a request's head to the last byte of its answer, by route and outcome.",
    *("route", "outcome"),
    buckets=DURATION_BUCKETS_S,
)
REQUESTS_IN_FLIGHT: Final = _gauge(
    "requests_in_flight",
    "Requests between their head and the end of their answer, now.",
)
STREAMS_IN_FLIGHT: Final = _gauge(
    "streams_in_flight",
    "Streams that LLMTune has begun to answer and that have not ended, now.",
)
FIRST_TOKEN: Final = _histogram(
    "time_to_first_token_seconds",
    "From a stream's request's head to the first event that was sent to its client, by"
    " model (or _other).",
    "model",
    buckets=FIRST_TOKEN_BUCKETS_S,
)
OUTPUT_TOKEN: Final = _histogram(
    "time_per_output_token_seconds",
    "From a complete stream's first event to its last, for each output token after the"
    " first, by model (or _other).",
    "model",
    buckets=OUTPUT_TOKEN_BUCKETS_S,
)
ADDED_LATENCY: Final = _histogram(
    "added_latency_seconds",
    "What the gateway and its store add: from a request's head to its answer's end, of"
    " a stream to its first event, without the waits for LLMTune and for the request's"
    " body; of answered completions that ran here.",
    buckets=ADDED_BUCKETS_S,
)
UPSTREAM_ATTEMPTS: Final = _counter(
    "upstream_attempts",
    "HTTP exchanges with LLMTune, counted when their status is known, by outcome (ok,"
    " or the fault as in the access line).",
    "outcome",
)
UPSTREAM_DURATION: Final = _histogram(
    "upstream_attempt_duration_seconds",
    "From the sending of one attempt, with the connection it may need, to the head of"
    " LLMTune's answer or the failure; a whole answer is generated within it.",
    buckets=DURATION_BUCKETS_S,
)
TOKENS: Final = _counter(
    "tokens",
    "Tokens of answers, counted when their lease ends, by plan, model (or _other) and"
    " direction (input, output).",
    *("plan", "model", "direction"),
)

# Limits.

ADMISSIONS: Final = _counter(
    "admissions",
    "Admission decisions, by plan and decision (admitted, rejected).",
    *("plan", "decision"),
)
REJECTIONS: Final = _counter(
    "rejections",
    "Rejections by plan, binding limit and reason (rate, concurrency, quota,"
    " too_large).",
    *("plan", "limit", "reason"),
)
SHADOW_REJECTIONS: Final = _counter(
    "shadow_rejections",
    "Admitted requests that a shadow limit would have refused.",
    *("plan", "limit"),
)
NEAR_LIMIT: Final = _counter(
    "near_limit_admissions",
    "Admitted requests after which 80 % or more of a limit were used, by plan and"
    " limit.",
    *("plan", "limit"),
)
RESERVATION_RATIO: Final = _histogram(
    "reservation_ratio",
    "Tokens settled over tokens reserved, of requests that were answered.",
    buckets=RATIO_BUCKETS,
)
LEASES_HELD: Final = _gauge("leases_held", "Leases held and renewed here, now.")
LEASES_RENEWED: Final = _counter(
    "leases_renewed", "Renewals of leases that the ledger still held."
)
LEASES_LOST: Final = _counter(
    "leases_lost",
    "Leases that could no longer be renewed although their request still ran.",
)
LEASES_ABANDONED: Final = _counter(
    "leases_abandoned",
    "Leases whose owner neither renewed nor settled them for their ttl, of whichever"
    " replica; counted by the one whose call found it, which is the workspace's next.",
)
WORKSPACE_REQUESTS: Final = _counter(
    "workspace_requests",
    "Admission decisions of the busiest workspaces since they became one, and of all"
    " others together (_other), by decision (admitted, rejected).",
    *("workspace", "decision"),
)
WORKSPACE_TOKENS: Final = _counter(
    "workspace_tokens",
    "Tokens settled of the busiest workspaces since they became one, and of all others"
    " together (_other).",
    "workspace",
)
WORKSPACE_USED: Final = _gauge(
    "workspace_limit_used_ratio",
    "How much of a limit a busy workspace had used, reservations included, after its"
    " last decision within the minute; above 1 after a top-up.",
    *("workspace", "limit"),
    merge="max",
)

# Replays.

REPLAYS: Final = _counter(
    "replays",
    "Requests that are run once for all who ask, by what makes them so (key, retry,"
    " cache) and what became of it (first, stored, joined, in_flight, conflict, alone)."
    " The cache's hits are its stored and joined.",
    *("kind", "outcome"),
)
REPLAY_RECORDINGS: Final = _gauge(
    "replay_recordings", "Answers that are being recorded here, now."
)
REPLAY_FOLLOWERS: Final = _gauge(
    "replay_followers", "Requests that wait for another's answer or are sent it, now."
)
REPLAY_HELD_BYTES: Final = _gauge(
    "replay_held_bytes", "Bytes of recorded answers that are still in memory, now."
)
REPLAY_CLAIMS_LOST: Final = _counter(
    "replay_claims_lost",
    "Claims of a key that somebody else had taken over while their request ran.",
)

# The store.

STORE_DURATION: Final = _histogram(
    "store_call_duration_seconds",
    "From a ledger's call to the store's reply, by call (admit, settle, renew); calls"
    " without a reply are in store_errors_total.",
    "call",
    buckets=STORE_BUCKETS_S,
)
STORE_ERRORS: Final = _counter(
    "store_errors", "Calls to the store without an answer, by reason.", "reason"
)
STORE_BREAKER: Final = _gauge(
    "store_breaker_state",
    "1 for the state of the store's breaker (closed, open, recovering), 0 for others.",
    "state",
    merge="max",
)
STORE_DEGRADED: Final = _gauge(
    "store_degraded",
    "1 until the store was first heard, and from the breaker's opening until it has"
    " heard what it missed: plans are enforced as their on_store_failure says.",
    merge="max",
)
STORE_OUTAGES: Final = _counter("store_outages", "How often the breaker opened.")
REPLICAS_SEEN: Final = _gauge(
    "replicas_seen",
    "Replicas a plan is divided by while the store is away; each worker is one.",
    merge="max",
)
DEGRADED_DECISIONS: Final = _counter(
    "degraded_decisions",
    "Admissions decided without the store, by what stood in for it (share, open,"
    " closed: the plan's on_store_failure) and outcome (admitted; rejected by a limit"
    " of the share; undecided, a 503).",
    *("mode", "outcome"),
)
QUEUE_DEPTH: Final = _gauge(
    "settlement_queue_depth", "Settlements the store has not taken yet, now."
)
QUEUE_OLDEST: Final = _gauge(
    "settlement_queue_oldest_seconds",
    "How long the oldest of them has waited.",
    merge="max",
)
SETTLEMENTS_LOST: Final = _counter(
    "settlements_lost",
    "Settlements given up: the queue was full, or the process ended.",
)
RATE_LIMIT_CALLS: Final = _counter(
    "rate_limit_calls",
    "Calls of Envoy's rate-limit service, counted when decided, by outcome (ok,"
    " over_limit, reported, unmatched, unknown_key, invalid, unavailable, proxy_gone,"
    " failed).",
    "outcome",
)
WEBHOOKS: Final = _counter(
    "webhooks",
    "Webhooks of LLMTune's, counted when answered, by outcome (results, kept, repeated,"
    " or why it was refused: too_large, no_secret, unsigned, forged, malformed,"
    " too_old, too_new).",
    "outcome",
)
WEBHOOK_DELIVERIES: Final = _counter(
    "webhook_deliveries",
    "Attempts to tell a workspace's receiver, counted when they are noted, by outcome"
    " (delivered; retried, so far without success; dead, given up; refused_target,"
    " given up because the URL led where webhooks may not go).",
    "outcome",
)
BATCH_LINES: Final = _counter(
    "batch_lines",
    "Lines of batches, counted when their chunk is written, by outcome (completed,"
    " failed).",
    "outcome",
)
KEY_LOOKUPS: Final = _counter(
    "key_lookups",
    "Look-ups of API keys in the store's cache, by outcome (hit, unknown_hit, found,"
    " unknown, stale, store_error, over_budget).",
    "outcome",
)
KEY_CHANGES_FOLLOWED: Final = _gauge(
    "key_changes_followed",
    "1 while changed keys are heard of at once; else within the cache's ttl.",
    merge="min",
)

# Operation.

RELOADS: Final = _counter(
    "reloads",
    "Reads of a changed file, by what is in it (plans, keys, webhooks) and outcome (ok,"
    " refused); a refused file leaves the old one in force.",
    *("what", "outcome"),
)
RELOAD_REFUSED: Final = _gauge(
    "reload_refused",
    "1 while the newest version of the files is refused and an older in force, by what"
    " (plans, keys, webhooks).",
    "what",
    merge="max",
)
POLICY: Final = Definition(
    f"{PREFIX}policy_info",
    "info",
    "1, with the digest of the plans in force: replicas that differ enforce different"
    " plans.",
    ("digest",),
    merge="max",
)
KEY_EXPIRY: Final = _gauge(
    "keys_next_expiry_timestamp_seconds",
    "When the next key of the keys file that still works will expire, as Unix time;"
    " absent where none will.",
    merge="min",
)
CERTIFICATE_EXPIRY: Final = _gauge(
    "certificate_expiry_timestamp_seconds",
    "When the certificate that was shown in the newest handshake expires, as Unix time,"
    " by peer (upstream, store); absent without TLS.",
    "peer",
    merge="min",
)
EVENT_LOOP_LAG: Final = _histogram(
    "event_loop_lag_seconds",
    "How late the event loop came to what was due, looked at four times a second.",
    buckets=ADDED_BUCKETS_S,
)
WORKERS: Final = _gauge("workers", "Worker processes whose metrics these are.")
WORKER_RESTARTS: Final = _counter(
    "worker_restarts", "Workers that ended unasked and were started anew."
)
BUILD: Final = Definition(
    f"{PREFIX}build_info", "info", "The running version.", ("version",), merge="max"
)

DEFINITIONS: Final = tuple(
    value for value in list(globals().values()) if isinstance(value, Definition)
)
