"""
Every metric: its name, its labels, from when to when it measures, and its buckets.

The one place where a name is written: the instruments, the README's table, dashboards,
alerts and their tests all take it from here. Label values come from closed sets (plans,
limits, routes, outcomes); what a caller can make up, a model or a workspace, is named
only while it is among the busiest, and is `_other` else.
"""

from __future__ import annotations

from typing import Final

from gateway.telemetry import buckets as b
from gateway.telemetry.definition import (
    PREFIX,
    Definition,
    counter,
    gauge,
    histogram,
    shared,
)

# Requests.

REQUESTS: Final = counter(
    "requests",
    "Requests, counted when their answer is complete or abandoned, by route (a path of"
    " ours, _preflight or _other) and outcome (ok, invalid, unauthorized, rejected,"
    " upstream_error, client_gone, unavailable, failed).",
    *("route", "outcome"),
)
REQUEST_DURATION: Final = histogram(
    "request_duration_seconds",
    "From a request's head to the last byte of its answer, by route and outcome.",
    *("route", "outcome"),
    buckets=b.DURATION_BUCKETS_S,
)
REQUESTS_IN_FLIGHT: Final = gauge(
    "requests_in_flight",
    "Requests between their head and the end of their answer, now.",
)
STREAMS_IN_FLIGHT: Final = gauge(
    "streams_in_flight",
    "Streams that LLMTune has begun to answer and that have not ended, now.",
)
FIRST_TOKEN: Final = histogram(
    "time_to_first_token_seconds",
    "From a stream's request's head to the first event that was sent to its client, by"
    " model (or _other).",
    "model",
    buckets=b.FIRST_TOKEN_BUCKETS_S,
)
OUTPUT_TOKEN: Final = histogram(
    "time_per_output_token_seconds",
    "From a complete stream's first event to its last, for each output token after the"
    " first, by model (or _other).",
    "model",
    buckets=b.OUTPUT_TOKEN_BUCKETS_S,
)
ADDED_LATENCY: Final = histogram(
    "added_latency_seconds",
    "What the gateway and its store add: from a request's head to its answer's end, of"
    " a stream to its first event, without the waits for LLMTune and for the request's"
    " body; of answered completions that ran here.",
    buckets=b.ADDED_BUCKETS_S,
)
UPSTREAM_ATTEMPTS: Final = counter(
    "upstream_attempts",
    "HTTP exchanges with LLMTune, counted when their status is known, by outcome (ok,"
    " or the fault as in the access line).",
    "outcome",
)
UPSTREAM_DURATION: Final = histogram(
    "upstream_attempt_duration_seconds",
    "From the sending of one attempt, with the connection it may need, to the head of"
    " LLMTune's answer or the failure; a whole answer is generated within it.",
    buckets=b.DURATION_BUCKETS_S,
)
TOKENS: Final = counter(
    "tokens",
    "Tokens of answers, counted when their lease ends, by plan, model (or _other) and"
    " direction (input, output).",
    *("plan", "model", "direction"),
)

# Limits.

ADMISSIONS: Final = counter(
    "admissions",
    "Admission decisions, by plan and decision (admitted, rejected).",
    *("plan", "decision"),
)
REJECTIONS: Final = counter(
    "rejections",
    "Rejections by plan, binding limit and reason (rate, concurrency, quota,"
    " too_large).",
    *("plan", "limit", "reason"),
)
SHADOW_REJECTIONS: Final = counter(
    "shadow_rejections",
    "Admitted requests that a shadow limit would have refused.",
    *("plan", "limit"),
)
NEAR_LIMIT: Final = counter(
    "near_limit_admissions",
    "Admitted requests after which 80 % or more of a limit were used, by plan and"
    " limit.",
    *("plan", "limit"),
)
RESERVATION_RATIO: Final = histogram(
    "reservation_ratio",
    "Tokens settled over tokens reserved, of requests that were answered.",
    buckets=b.RATIO_BUCKETS,
)
LEASES_HELD: Final = gauge("leases_held", "Leases held and renewed here, now.")
LEASES_RENEWED: Final = counter(
    "leases_renewed", "Renewals of leases that the ledger still held."
)
LEASES_LOST: Final = counter(
    "leases_lost",
    "Leases that could no longer be renewed although their request still ran.",
)
LEASES_ABANDONED: Final = counter(
    "leases_abandoned",
    "Leases whose owner neither renewed nor settled them for their ttl, of whichever"
    " replica; counted by the one whose call found it, which is the workspace's next.",
)
WORKSPACE_REQUESTS: Final = counter(
    "workspace_requests",
    "Admission decisions of the busiest workspaces since they became one, and of all"
    " others together (_other), by decision (admitted, rejected).",
    *("workspace", "decision"),
)
WORKSPACE_TOKENS: Final = counter(
    "workspace_tokens",
    "Tokens settled of the busiest workspaces since they became one, and of all others"
    " together (_other).",
    "workspace",
)
WORKSPACE_USED: Final = gauge(
    "workspace_limit_used_ratio",
    "How much of a limit a busy workspace had used, reservations included, after its"
    " last decision within the minute; above 1 after a top-up.",
    *("workspace", "limit"),
    merge="max",
)

# Replays.

REPLAYS: Final = counter(
    "replays",
    "Requests that are run once for all who ask, by what makes them so (key, retry,"
    " cache) and what became of it (first, stored, joined, in_flight, conflict, alone)."
    " The cache's hits are its stored and joined.",
    *("kind", "outcome"),
)
REPLAY_RECORDINGS: Final = gauge(
    "replay_recordings", "Answers that are being recorded here, now."
)
REPLAY_FOLLOWERS: Final = gauge(
    "replay_followers", "Requests that wait for another's answer or are sent it, now."
)
REPLAY_HELD_BYTES: Final = gauge(
    "replay_held_bytes", "Bytes of recorded answers that are still in memory, now."
)
REPLAY_CLAIMS_LOST: Final = counter(
    "replay_claims_lost",
    "Claims of a key that somebody else had taken over while their request ran.",
)

# The store.

STORE_DURATION: Final = histogram(
    "store_call_duration_seconds",
    "From a ledger's call to the store's reply, by call (admit, settle, renew); calls"
    " without a reply are in store_errors_total.",
    "call",
    buckets=b.STORE_BUCKETS_S,
)
STORE_ERRORS: Final = counter(
    "store_errors", "Calls to the store without an answer, by reason.", "reason"
)
STORE_BREAKER: Final = gauge(
    "store_breaker_state",
    "1 for the state of the store's breaker (closed, open, recovering), 0 for others.",
    "state",
    merge="max",
)
STORE_DEGRADED: Final = gauge(
    "store_degraded",
    "1 until the store was first heard, and from the breaker's opening until it has"
    " heard what it missed: plans are enforced as their on_store_failure says.",
    merge="max",
)
STORE_OUTAGES: Final = counter("store_outages", "How often the breaker opened.")
REPLICAS_SEEN: Final = gauge(
    "replicas_seen",
    "Replicas a plan is divided by while the store is away; each worker is one.",
    merge="max",
)
DEGRADED_DECISIONS: Final = counter(
    "degraded_decisions",
    "Admissions decided without the store, by what stood in for it (share, open,"
    " closed: the plan's on_store_failure) and outcome (admitted; rejected by a limit"
    " of the share; undecided, a 503).",
    *("mode", "outcome"),
)
QUEUE_DEPTH: Final = gauge(
    "settlement_queue_depth", "Settlements the store has not taken yet, now."
)
QUEUE_OLDEST: Final = gauge(
    "settlement_queue_oldest_seconds",
    "How long the oldest of them has waited.",
    merge="max",
)
SETTLEMENTS_LOST: Final = counter(
    "settlements_lost",
    "Settlements given up: the queue was full, or the process ended.",
)
RATE_LIMIT_CALLS: Final = counter(
    "rate_limit_calls",
    "Calls of Envoy's rate-limit service, counted when decided, by outcome (ok,"
    " over_limit, reported, unmatched, unknown_key, invalid, unavailable, proxy_gone,"
    " failed).",
    "outcome",
)
WEBHOOKS: Final = counter(
    "webhooks",
    "Webhooks of LLMTune's, counted when answered, by outcome (results, kept, repeated,"
    " or why it was refused: too_large, no_secret, unsigned, forged, malformed,"
    " too_old, too_new).",
    "outcome",
)
WEBHOOK_DELIVERIES: Final = counter(
    "webhook_deliveries",
    "Attempts to tell a workspace's receiver, counted when they are noted, by outcome"
    " (delivered; retried, so far without success; dead, given up; refused_target,"
    " given up because the URL led where webhooks may not go).",
    "outcome",
)
BATCH_LINES: Final = counter(
    "batch_lines",
    "Lines of batches, counted when their chunk is written, by outcome (completed,"
    " failed).",
    "outcome",
)
KEY_LOOKUPS: Final = counter(
    "key_lookups",
    "Look-ups of API keys in the store's cache, by outcome (hit, unknown_hit, found,"
    " unknown, stale, store_error, over_budget).",
    "outcome",
)
KEY_CHANGES_FOLLOWED: Final = gauge(
    "key_changes_followed",
    "1 while changed keys are heard of at once; else within the cache's ttl.",
    merge="min",
)

# Long jobs.

LIVE_JOBS: Final = shared(
    "live_jobs",
    "Jobs that have not ended, by kind (batches, fine_tunes) and state (OpenAI's"
    " statuses; unread, beyond the 500 that are due first).",
    *("kind", "state"),
)
LIVE_JOBS_OLDEST: Final = shared(
    "live_jobs_oldest_seconds",
    "For how long the oldest of those has existed, by kind and state; 0 without any.",
    *("kind", "state"),
)
BATCH_LINES_WAITING: Final = shared(
    "batch_lines_waiting", "Lines of those batches that have no result yet."
)
BATCH_CHUNKS_SENT: Final = counter(
    "batch_chunks_sent",
    "Chunks of batches that LLMTune has taken, by kind (first; again, because results"
    " had not come in time).",
    "kind",
)
BATCH_DURATION: Final = histogram(
    "batch_duration_seconds",
    "From a batch's creation to its end, by outcome (completed, failed, expired,"
    " cancelled).",
    "outcome",
    buckets=b.BATCH_BUCKETS_S,
)
WEBHOOK_OUTBOX: Final = shared(
    "webhook_outbox",
    "Deliveries that no receiver has taken, by state (pending, dead).",
    "state",
)
WORK_DUE: Final = shared(
    "work_due",
    "Pieces of work that are due and that nobody has begun, by kind (batches,"
    " fine_tunes, webhooks, files, dead_letters).",
    "kind",
)
WORK_OVERDUE: Final = shared(
    "work_overdue_seconds",
    "For how long the first of them has been due, by kind; 0 where none is.",
    "kind",
)
WORK: Final = counter(
    "work",
    "Looks at pieces of work, by kind and outcome (done; again, as planned; lost, to"
    " another replica; store_unavailable, storage_unavailable, failed).",
    *("kind", "outcome"),
)
STORAGE_CALLS: Final = counter(
    "storage_calls",
    "Calls of the storage of files, counted at their end, by call (put, open, size,"
    " delete, list, check) and outcome (ok, missing, unavailable).",
    *("call", "outcome"),
)

# Operation.

RELOADS: Final = counter(
    "reloads",
    "Reads of a changed file, by what is in it (plans, keys, webhooks) and outcome (ok,"
    " refused); a refused file leaves the old one in force.",
    *("what", "outcome"),
)
RELOAD_REFUSED: Final = gauge(
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
KEY_EXPIRY: Final = gauge(
    "keys_next_expiry_timestamp_seconds",
    "When the next key of the keys file that still works will expire, as Unix time;"
    " absent where none will.",
    merge="min",
)
STORED_KEY_EXPIRY: Final = gauge(
    "stored_keys_next_expiry_timestamp_seconds",
    "When the next key of the store will expire, as Unix time, of those that were used"
    " here within the day, were made for thirty days or longer and have not been"
    " rotated; absent where none will.",
    merge="min",
)
CERTIFICATE_EXPIRY: Final = gauge(
    "certificate_expiry_timestamp_seconds",
    "When the certificate that was shown in the newest handshake expires, as Unix time,"
    " by peer (upstream, store); absent without TLS.",
    "peer",
    merge="min",
)
EVENT_LOOP_LAG: Final = histogram(
    "event_loop_lag_seconds",
    "How late the event loop came to what was due, looked at four times a second.",
    buckets=b.ADDED_BUCKETS_S,
)
WORKERS: Final = gauge("workers", "Worker processes whose metrics these are.")
WORKER_RESTARTS: Final = counter(
    "worker_restarts", "Workers that ended unasked and were started anew."
)
BUILD: Final = Definition(
    f"{PREFIX}build_info", "info", "The running version.", ("version",), merge="max"
)

DEFINITIONS: Final = tuple(
    value for value in list(globals().values()) if isinstance(value, Definition)
)
