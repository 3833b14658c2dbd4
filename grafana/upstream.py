"""Is it us or the upstream? Whose time a request took, and whose failure it was."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard

from gateway.telemetry import definitions as d
from grafana import alerts
from grafana import queries as q
from grafana.boards import Row, board
from grafana.panels import (
    NUMBER,
    PER_SECOND,
    REQUESTS_PER_SECOND,
    SECONDS,
    SHARE,
    Panel,
    Query,
    lines,
    spread,
)

QUANTILES = (0.5, 0.95, 0.99)


def build() -> dashboard.Dashboard:
    return board(
        "llmtune-gateway-upstream",
        "LLMTune gateway: us or the upstream",
        "Is it us or the upstream?",
        (
            Row("Whose time", _time()),
            Row("LLMTune", _upstream()),
            Row("The store", _store()),
            Row("The process", _process()),
        ),
    )


def _quantiles(of: d.Definition) -> list[Query]:
    return [Query(q.quantile(part, of), f"p{part * 100:g}") for part in QUANTILES]


def _time() -> list[Panel]:
    return [
        lines(
            "Added latency",
            "What gateway and store add to an answer. A few milliseconds; above, look"
            " at the loop's lag and the store's calls below.",
            SECONDS,
            *_quantiles(d.ADDED_LATENCY),
        ),
        lines(
            "LLMTune's time to its answer",
            "From an attempt to the head of its answer; a whole answer is generated"
            " within. If this is where the time is, it is not us.",
            SECONDS,
            *_quantiles(d.UPSTREAM_DURATION),
        ),
        lines(
            "Time to first token by model",
            "The 95th percentile of each of the busiest models. One that stands out"
            " is LLMTune's; all at once is ours or the network's.",
            SECONDS,
            Query(q.quantile(0.95, d.FIRST_TOKEN, "model"), "{{model}}"),
        ),
        spread(
            "Added latency, all of it",
            "The same as a picture: a band that splits in two is a replica that"
            " stalls now and then.",
            SECONDS,
            q.buckets(d.ADDED_LATENCY),
        ),
    ]


def _upstream() -> list[Panel]:
    failed = q.rate(d.UPSTREAM_ATTEMPTS, where=f'outcome!~"{alerts.NOT_ITS_FAULT}"')
    return [
        lines(
            "Attempts by outcome",
            "Exchanges with LLMTune. The word is the fault of the access lines:"
            " overloaded, rate_limited and timeout are LLMTune's, connect_* the way"
            " there, pool_full ours.",
            REQUESTS_PER_SECOND,
            Query(q.rate(d.UPSTREAM_ATTEMPTS, "outcome") + " > 0", "{{outcome}}"),
            is_stacked=True,
        ),
        lines(
            "Failed attempts",
            "Attempts that failed for no fault of their request.",
            SHARE,
            Query(q.share(failed, q.rate(d.UPSTREAM_ATTEMPTS)), "failed"),
            alert_above=alerts.UPSTREAM_FAILING_SHARE,
        ),
        lines(
            "Time per output token by model",
            "The median pace of each of the busiest models.",
            SECONDS,
            Query(q.quantile(0.5, d.OUTPUT_TOKEN, "model"), "{{model}}"),
        ),
    ]


def _store() -> list[Panel]:
    return [
        lines(
            "Store calls",
            "The 99th percentile from a ledger's call to its reply. A millisecond or"
            " two in one zone; near the time-out, requests are decided without it.",
            SECONDS,
            Query(q.quantile(0.99, d.STORE_DURATION, "call"), "{{call}}"),
        ),
        lines(
            "Store errors by reason",
            "Calls without an answer. Single ones are dropped connections; a stream"
            " of time-outs opens the breaker.",
            PER_SECOND,
            Query(q.rate(d.STORE_ERRORS, "reason") + " >= 0", "{{reason}}"),
        ),
        lines(
            "Breaker",
            "Replicas by the state of their breaker. All closed is normal.",
            NUMBER,
            Query(q.gauge("sum", d.STORE_BREAKER, "state"), "{{state}}"),
            is_stacked=True,
        ),
    ]


def _process() -> list[Panel]:
    return [
        lines(
            "Event loop lag",
            "How late a replica comes to what is due, 99th percentile. Above 50 ms it"
            " has more to do than one core can: add replicas or workers.",
            SECONDS,
            Query(q.quantile(0.99, d.EVENT_LOOP_LAG, "instance"), "{{instance}}"),
            alert_above=alerts.LOOP_LAG_S,
        ),
        lines(
            "Workers and their restarts",
            "Worker processes of each replica, and how many were started anew in an"
            " hour. None is normal; the supervisor's log says how the last one ended.",
            NUMBER,
            Query(q.gauge("sum", d.WORKERS, "instance"), "{{instance}}"),
            Query(
                q.increase(
                    d.WORKER_RESTARTS, "instance", scope=q.BOARD._replace(window="1h")
                ),
                "{{instance}} restarts",
            ),
        ),
        lines(
            "Recorded answers",
            "Answers being recorded and requests that follow them. What they hold in"
            " memory is bounded; followers without recordings read from the store.",
            NUMBER,
            Query(q.gauge("sum", d.REPLAY_RECORDINGS), "recordings"),
            Query(q.gauge("sum", d.REPLAY_FOLLOWERS), "followers"),
        ),
    ]
