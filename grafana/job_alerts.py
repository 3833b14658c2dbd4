"""
What of long jobs wakes somebody, or is looked at in the morning.

Nobody waits for them, so that nobody complains: each of these says what would be found
out a day later by whoever misses a result.
"""

from __future__ import annotations

from typing import Final

from gateway.telemetry import definitions as d
from gateway.telemetry.definition import Definition
from grafana import queries as q
from grafana.alerts import DAY_S, LEAST_FAILURES, Alert, Condition
from grafana.queries import DEPLOYMENT, everyone

# Workers look for work every second, and again five seconds after a fault.
OVERDUE_S: Final = 300
STORAGE_FAILING_SHARE: Final = 0.2
WEBHOOKS_REFUSED_SHARE: Final = 0.5
DELIVERIES_FAILING_SHARE: Final = 0.5
# Chunks are sent at most twice again, and even one that is costs its lines once more.
CHUNKS_AGAIN_SHARE: Final = 0.3
LEAST_CHUNKS_AGAIN: Final = 2
# Of the 24 hours of a batch; what is left is for somebody to do something.
BATCH_LATE_S: Final = 20 * 3600
# LLMTune can read a training file for 24 hours, and trains for as long as it takes.
TUNE_UNSTARTED_S: Final = 6 * 3600
TUNE_RUNNING_S: Final = 7 * DAY_S

UNAVAILABLE: Final = 'outcome="unavailable"'
# A wrong secret, none, or somebody else's posts; also what was recorded and sent again.
REFUSED: Final = 'outcome!~"results|kept|repeated"'
UNDELIVERED: Final = 'outcome!="delivered"'
GIVEN_UP: Final = 'outcome=~"dead|refused_target"'
AGAIN: Final = 'kind="again"'
BATCHES: Final = 'kind="batches"'
TUNES: Final = 'kind="fine_tunes"'
UNSTARTED: Final = f'{TUNES},state=~"validating_files|queued"'
RUNNING: Final = f'{TUNES},state="running"'


def _share_of(
    metric: Definition,
    part: str,
    window: str,
    above: float,
    least: int = LEAST_FAILURES,
) -> tuple[Condition, ...]:
    """That part of a counter is too much of it, and not next to nothing."""
    scope = everyone(window)
    rates = (
        q.rate(metric, *DEPLOYMENT, where=part, scope=scope),
        q.rate(metric, *DEPLOYMENT, scope=scope),
    )
    number = q.increase(metric, *DEPLOYMENT, where=part, scope=scope)
    return (
        Condition(q.share(*rates), f"> {above}"),
        Condition(number, f">= {least}"),
    )


def _oldest(where: str, above_s: int) -> tuple[Condition, ...]:
    age = q.gauge(
        "max", d.LIVE_JOBS_OLDEST, *DEPLOYMENT, where=where, scope=everyone("")
    )
    return (Condition(age, f"> {above_s}"),)


_LATEST: Final = q.gauge("max", d.WORK_OVERDUE, *DEPLOYMENT, scope=everyone(""))
_FAILED_LOOKS: Final = q.increase(
    d.WORK, *DEPLOYMENT, where='outcome="failed"', scope=everyone("15m")
)
_GIVEN_UP: Final = q.increase(
    d.WEBHOOK_DELIVERIES, *DEPLOYMENT, where=GIVEN_UP, scope=everyone("1h")
)

JOBS: Final = (
    Alert(
        "GatewayWorkOverdue",
        "page",
        "2m",
        (Condition(_LATEST, f"> {OVERDUE_S}"),),
        "Long jobs stand still.",
        "Work has been due for five minutes and no replica has begun it: batches,"
        " fine-tunes or webhooks do not go on, and nobody who waits is told.",
    ),
    Alert(
        "GatewayWorkFailing",
        "ticket",
        "0m",
        (Condition(_FAILED_LOOKS, f">= {LEAST_FAILURES}"),),
        "A long job fails each time it is looked at.",
        "Looks at work end in an error that nobody expected. What is due is tried"
        " again every few seconds, and does not go on until its cause is mended.",
    ),
    Alert(
        "GatewayStorageFailing",
        "page",
        "2m",
        _share_of(d.STORAGE_CALLS, UNAVAILABLE, "5m", STORAGE_FAILING_SHARE),
        "The storage of files fails.",
        "More than a fifth of the calls of the storage fail: uploads and downloads get"
        " 503s, and batches wait with their results.",
    ),
    Alert(
        "GatewayWebhooksRefused",
        "ticket",
        "5m",
        _share_of(d.WEBHOOKS, REFUSED, "15m", WEBHOOKS_REFUSED_SHARE),
        "Most webhooks that come in are refused.",
        "LLMTune may sign with another secret than this gateway verifies with: results"
        " of batches are thrown away, asked for again, and paid for again.",
    ),
    Alert(
        "GatewayDeliveriesDead",
        "ticket",
        "0m",
        (Condition(_GIVEN_UP, "> 0"),),
        "Receivers were not told of what happened.",
        "Deliveries of webhooks were given up within the hour, and will not be tried"
        " again unless somebody replays them.",
    ),
    Alert(
        "GatewayDeliveriesFailing",
        "ticket",
        "30m",
        _share_of(d.WEBHOOK_DELIVERIES, UNDELIVERED, "1h", DELIVERIES_FAILING_SHARE),
        "Most attempts to tell receivers fail.",
        "Receivers do not answer, or with an error. Each delivery is tried for a day"
        " or two, and is a dead letter then.",
    ),
    Alert(
        "GatewayBatchResultsMissing",
        "ticket",
        "5m",
        _share_of(
            d.BATCH_CHUNKS_SENT, AGAIN, "1h", CHUNKS_AGAIN_SHARE, LEAST_CHUNKS_AGAIN
        ),
        "LLMTune's results of batches do not arrive.",
        "Chunks are sent to LLMTune again, because nobody told of their results in"
        " time: batches take half an hour longer, and are paid for up to four times.",
    ),
    Alert(
        "GatewayBatchNearExpiry",
        "ticket",
        "5m",
        _oldest(BATCHES, BATCH_LATE_S),
        "A batch will be ended by its time.",
        "A batch is not done within 20 of its 24 hours. What is not answered by then"
        " is not answered at all.",
    ),
    Alert(
        "GatewayFineTuneStuck",
        "ticket",
        "5m",
        _oldest(UNSTARTED, TUNE_UNSTARTED_S),
        "A fine-tune has not begun for six hours.",
        "It is still validated or queued. LLMTune can read its training file for"
        " 24 hours after it was sent, and fails the job afterwards.",
        window="6h",
    ),
    Alert(
        "GatewayFineTuneStuck",
        "ticket",
        "5m",
        _oldest(RUNNING, TUNE_RUNNING_S),
        "A fine-tune has been running for a week.",
        "LLMTune has told neither its end nor its failure. It is given up after thirty"
        " days.",
        window="7d",
    ),
)
