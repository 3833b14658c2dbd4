"""*Do the long jobs move?* Those that go on when nobody waits."""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.builders import dashboard

from gateway.telemetry import definitions as d
from grafana import queries as q
from grafana.boards import Row, board
from grafana.job_alerts import (
    BATCH_LATE_S,
    BATCHES,
    OVERDUE_S,
    REFUSED,
    STORAGE_FAILING_SHARE,
    TUNE_RUNNING_S,
    TUNES,
    UNAVAILABLE,
    WEBHOOKS_REFUSED_SHARE,
)
from grafana.panels import (
    NUMBER,
    PER_SECOND,
    SECONDS,
    SHARE,
    Query,
    lines,
)
from grafana.queries import BOARD, Scope

UID: Final = "llmtune-gateway-jobs"
# Batches end so seldom that a shorter time would mostly hold none.
_HOUR: Final = Scope(BOARD.selector, "1h")


_WORK: Final = (
    lines(
        "Lag of the workers",
        "Since when the first piece of work is due that nobody has begun, by kind."
        " Normal is a second or two, of files a minute. If it grows, nobody drives:"
        " see the runbook of GatewayWorkOverdue.",
        SECONDS,
        Query(q.gauge("max", d.WORK_OVERDUE, "kind"), "{{kind}}"),
        alert_above=OVERDUE_S,
    ),
    lines(
        "Work that nobody has begun",
        "Pieces of work that are due, by kind. Normal is nearly none. More than are"
        " begun each second: add replicas; a store or a storage that is slow shows in"
        " its own panels.",
        NUMBER,
        Query(q.gauge("max", d.WORK_DUE, "kind"), "{{kind}}"),
    ),
    lines(
        "Looks at work",
        "How looks at work ended, by outcome. Normal is done and again. failed is a"
        " fault of ours, with its exception in the log; lost is a replica that stood"
        " still; the others wait for the store or the storage.",
        PER_SECOND,
        Query(q.rate(d.WORK, "outcome"), "{{outcome}}"),
    ),
)


_BATCHES: Final = (
    lines(
        "Live batches",
        "Batches that have not ended, by state. Normal is a few in progress, and the"
        " others for seconds. finalizing that stays is a storage that fails; unread"
        " are those beyond the first 500.",
        NUMBER,
        Query(q.gauge("max", d.LIVE_JOBS, "state", where=BATCHES), "{{state}}"),
        is_stacked=True,
    ),
    lines(
        "Lines without a result",
        "What live batches have still to do. Normal falls between uploads. If it"
        " stands still, batches wait for a quota, for room (batch.enqueued_tokens) or"
        " for results that do not come.",
        NUMBER,
        Query(q.gauge("max", d.BATCH_LINES_WAITING), "lines"),
    ),
    lines(
        "Lines with their result, and chunks sent",
        "Lines that were written, by outcome, and chunks of them that LLMTune took."
        " Normal is completed, and first. Many failed: their error file says why."
        " again: no results came in time, see the runbook of"
        " GatewayBatchResultsMissing.",
        PER_SECOND,
        Query(q.rate(d.BATCH_LINES, "outcome"), "lines {{outcome}}"),
        Query(q.rate(d.BATCH_CHUNKS_SENT, "kind"), "chunks {{kind}}"),
    ),
    lines(
        "Batch duration",
        "From creation to end, of those that ended within the hour. Normal is what"
        " LLMTune takes for so many lines. Above 10 minutes (GATEWAY_BATCH_RESULT_"
        "TIMEOUT_S) results were missed and asked for again: look at the webhooks.",
        SECONDS,
        *(
            Query(q.quantile(part, d.BATCH_DURATION, scope=_HOUR), f"p{part * 100:g}")
            for part in (0.5, 0.95)
        ),
    ),
    lines(
        "Age of the oldest batch",
        "For how long the oldest batch of each state has existed. Normal is below an"
        " hour. At 24 hours it is ended with what it has: see the runbook of"
        " GatewayBatchNearExpiry.",
        SECONDS,
        Query(q.gauge("max", d.LIVE_JOBS_OLDEST, "state", where=BATCHES), "{{state}}"),
        alert_above=BATCH_LATE_S,
    ),
)


_TUNES: Final = (
    lines(
        "Live fine-tunes",
        "Fine-tunes that have not ended, by state. Normal is what people have begun."
        " validating_files and queued pass within minutes where LLMTune has room.",
        NUMBER,
        Query(q.gauge("max", d.LIVE_JOBS, "state", where=TUNES), "{{state}}"),
        is_stacked=True,
    ),
    lines(
        "Age of the oldest fine-tune",
        "For how long the oldest fine-tune of each state has existed. Normal is hours"
        " of running, and minutes of the rest. See the runbook of"
        " GatewayFineTuneStuck.",
        SECONDS,
        Query(q.gauge("max", d.LIVE_JOBS_OLDEST, "state", where=TUNES), "{{state}}"),
        alert_above=TUNE_RUNNING_S,
    ),
)


_WEBHOOKS: Final = (
    lines(
        "Webhooks of LLMTune",
        "What LLMTune posts, by what became of it. Normal is results and kept, and"
        " some repeated. None at all while batches run: LLMTune cannot reach"
        " GATEWAY_PUBLIC_URL.",
        PER_SECOND,
        Query(q.rate(d.WEBHOOKS, "outcome"), "{{outcome}}"),
    ),
    lines(
        "Share of refused webhooks",
        "Of all that came, those that were not taken. Normal is none. forged and"
        " unsigned are a secret that differs, or strangers; too_old and too_new are a"
        " clock. See the runbook of GatewayWebhooksRefused.",
        SHARE,
        Query(
            q.share(q.rate(d.WEBHOOKS, where=REFUSED), q.rate(d.WEBHOOKS)), "refused"
        ),
        alert_above=WEBHOOKS_REFUSED_SHARE,
    ),
    lines(
        "Attempts at deliveries",
        "How attempts to tell receivers ended. Normal is delivered. retried comes"
        " again, for a day or two; dead and refused_target do not: see the runbook of"
        " GatewayDeliveriesDead.",
        PER_SECOND,
        Query(q.rate(d.WEBHOOK_DELIVERIES, "outcome"), "{{outcome}}"),
    ),
    lines(
        "Deliveries that nobody has taken",
        "pending: on their way, or waiting for another attempt. dead: given up, and"
        " kept for thirty days. Normal is none of either; llmtune-gateway webhooks"
        " list says which.",
        NUMBER,
        Query(q.gauge("max", d.WEBHOOK_OUTBOX, "state"), "{{state}}"),
    ),
)


_STORAGE: Final = (
    lines(
        "Storage calls",
        "Calls of the storage of files, by call. Normal follows uploads, downloads"
        " and batches, which read and write each chunk several times.",
        PER_SECOND,
        Query(q.rate(d.STORAGE_CALLS, "call"), "{{call}}"),
    ),
    lines(
        "Share of failed storage calls",
        "Calls that the storage failed; that an object is missing is an answer."
        " Normal is none. Above a fifth: see the runbook of GatewayStorageFailing.",
        SHARE,
        Query(
            q.share(
                q.rate(d.STORAGE_CALLS, where=UNAVAILABLE), q.rate(d.STORAGE_CALLS)
            ),
            "failed",
        ),
        alert_above=STORAGE_FAILING_SHARE,
    ),
)


def build() -> dashboard.Dashboard:
    rows = [
        Row("The workers", _WORK),
        Row("Batches", _BATCHES),
        Row("Fine-tunes", _TUNES),
        Row("Webhooks", _WEBHOOKS),
        Row("Files", _STORAGE),
    ]
    title, question = "LLMTune gateway: long jobs", "Do the long jobs move?"
    return board(UID, title, question, rows)
