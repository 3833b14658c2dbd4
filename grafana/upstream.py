"""*Is it us or the upstream?* Where a request's time goes, and who fails it."""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.builders import dashboard

from gateway.telemetry import definitions as d
from grafana import queries as q
from grafana.alerts import LOOP_LAG_S, NOT_ITS_FAULT, UPSTREAM_FAILING_SHARE
from grafana.boards import Row, board
from grafana.overview import quantiles
from grafana.panels import (
    NUMBER,
    PER_SECOND,
    REQUESTS_PER_SECOND,
    SECONDS,
    SHARE,
    Query,
    lines,
    spread,
)

UID: Final = "llmtune-gateway-upstream"


_US: Final = (
    lines(
        "Where the time goes",
        "The slowest twentieth of each part of a completion. Normal is an upstream"
        " of seconds above a gateway and a store of milliseconds. The line that"
        " rises is who is slow.",
        SECONDS,
        Query(q.quantile(0.95, d.UPSTREAM_DURATION), "LLMTune, to its status"),
        Query(q.quantile(0.95, d.FIRST_TOKEN), "first token"),
        Query(q.quantile(0.95, d.ADDED_LATENCY), "gateway and store"),
        Query(q.quantile(0.95, d.STORE_DURATION), "store"),
    ),
    lines(
        "Added latency",
        "What the gateway and its store add to a completion. Normal is below 10 ms"
        " at p95. If it grows with the store's calls it is the store, if with the"
        " event loop's lag a replica is too busy.",
        SECONDS,
        *quantiles(d.ADDED_LATENCY),
    ),
    lines(
        "Event loop lag",
        "How late replicas come to what is due, the worst twentieth of each. Normal"
        " is below 10 ms. Above 100 ms a replica has more to do than a core can:"
        " add replicas.",
        SECONDS,
        Query(q.quantile(0.95, d.EVENT_LOOP_LAG, "instance"), "{{instance}}"),
        alert_above=LOOP_LAG_S,
    ),
    lines(
        "Requests in flight by replica",
        "How work is spread. Normal is even. One that has much more than others is"
        " slow, or its load balancer counts connections and not requests.",
        NUMBER,
        Query(q.gauge("sum", d.REQUESTS_IN_FLIGHT, "instance"), "{{instance}}"),
    ),
)


_STORE: Final = (
    lines(
        "Store call duration",
        "From a call to the store's reply, the slowest hundredth by call. Normal is"
        " a millisecond. Near GATEWAY_STORE_TIMEOUT_S (50 ms) calls begin to count"
        " as failed.",
        SECONDS,
        Query(
            q.quantile(0.99, d.STORE_DURATION, "call"),
            "{{call}}",
            has_exemplars=True,
        ),
    ),
    lines(
        "Store errors",
        "Calls to the store without an answer, by reason. Normal is none, and a few"
        " at a fail-over. timeout is a slow store or network, connection one that"
        " is gone.",
        PER_SECOND,
        Query(q.rate(d.STORE_ERRORS, "reason"), "{{reason}}"),
    ),
    lines(
        "Replicas by the breaker's state",
        "In which state replicas' breakers are. Normal is closed everywhere. open:"
        " the store is not asked; recovering: it answers and is told what it"
        " missed.",
        NUMBER,
        Query(q.gauge("sum", d.STORE_BREAKER, "state"), "{{state}}"),
        is_stacked=True,
    ),
    lines(
        "Key look-ups",
        "Look-ups of API keys in the store, by outcome. Normal is mostly hit."
        " store_error and over_budget refuse clients; many unknown are guesses.",
        PER_SECOND,
        Query(q.rate(d.KEY_LOOKUPS, "outcome"), "{{outcome}}"),
    ),
)


_FAILED: Final = f'outcome!~"{NOT_ITS_FAULT}"'
_UPSTREAM: Final = (
    lines(
        "Upstream attempts",
        "HTTP exchanges with LLMTune, by outcome; the faults are those of the"
        " access line. Normal is ok. refused is a client's mistake, own_key_refused"
        " and no_credits are ours to put right with LLMTune.",
        REQUESTS_PER_SECOND,
        Query(q.rate(d.UPSTREAM_ATTEMPTS, "outcome"), "{{outcome}}"),
    ),
    lines(
        "Share of failed attempts",
        "Attempts that LLMTune failed, without those it refused for the request's"
        " sake. Normal is below 1 %. Above a fifth: see the runbook of"
        " GatewayUpstreamFailing.",
        SHARE,
        Query(
            q.share(
                q.rate(d.UPSTREAM_ATTEMPTS, where=_FAILED),
                q.rate(d.UPSTREAM_ATTEMPTS),
            ),
            "failed",
        ),
        alert_above=UPSTREAM_FAILING_SHARE,
    ),
    lines(
        "Attempts per admission",
        "How often LLMTune is asked for each admitted request. Normal is 1; above"
        " it are retries, below it answers that were replayed. Near 2 nearly"
        " everything is tried twice.",
        NUMBER,
        Query(
            q.share(
                q.rate(d.UPSTREAM_ATTEMPTS),
                q.rate(d.ADMISSIONS, where='decision="admitted"'),
            ),
            "attempts",
        ),
    ),
    lines(
        "Upstream attempt duration",
        "From an attempt's sending to LLMTune's status or the failure; a whole"
        " answer is generated within it. Normal follows the mix of models. If it"
        " rises while added latency does not, it is LLMTune.",
        SECONDS,
        *quantiles(d.UPSTREAM_DURATION),
    ),
    spread(
        "Spread of the upstream attempt duration",
        "The same as a heatmap. Normal is a band for streams and one for whole"
        " answers. A band at a deadline is attempts that time out.",
        SECONDS,
        q.buckets(d.UPSTREAM_DURATION),
    ),
    lines(
        "Time to first token by model",
        "The slowest twentieth of streams, by model. Normal is a model's own. One"
        " model that rises alone is LLMTune's queue for it.",
        SECONDS,
        Query(
            q.quantile(0.95, d.FIRST_TOKEN, "model"),
            "{{model}}",
            has_exemplars=True,
        ),
    ),
)

_PROCESS: Final = (
    lines(
        "Time left of the certificate",
        "Until the certificate that LLMTune showed last expires; nothing without"
        " TLS. Normal is weeks. It should have been renewed long before the last:"
        " see the runbook of GatewayCertificateNearExpiry.",
        SECONDS,
        Query(f"{q.gauge('min', d.CERTIFICATE_EXPIRY, 'peer')} - time()", "{{peer}}"),
    ),
    lines(
        "Workers and their restarts",
        "Worker processes, and how many ended unasked within the last interval."
        " Normal is no restart; one that repeats is a crash, and its reason is in"
        " the log.",
        NUMBER,
        Query(q.gauge("sum", d.WORKERS), "workers"),
        Query(q.increase(d.WORKER_RESTARTS), "restarts"),
    ),
)


def build() -> dashboard.Dashboard:
    rows = [
        Row("The gateway", _US),
        Row("The store", _STORE),
        Row("LLMTune", _UPSTREAM),
        Row("Processes", _PROCESS),
    ]
    title, question = "LLMTune gateway: upstream", "Is it us or the upstream?"
    return board(UID, title, question, rows)
