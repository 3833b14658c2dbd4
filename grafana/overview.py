"""*Are clients served well?* Requests, errors and waits, as clients meet them."""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.builders import dashboard

from gateway.telemetry import definitions as d
from gateway.telemetry.definition import Definition
from grafana import queries as q
from grafana.boards import Row, board
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
from grafana.slos import CLIENTS_ROUTES, FAILED_REQUESTS, OBJECTIVES

UID: Final = "llmtune-gateway-overview"
# Where the fastest of the error budget's alerts begins.
_FAILING: Final = round(OBJECTIVES[0].budget * OBJECTIVES[0].burns[0].rate, 6)


def quantiles(metric: Definition, *parts: float, where: str = "") -> list[Query]:
    """The usual lines of a latency: half of all, and the slow ends."""
    return [
        Query(
            q.quantile(part, metric, where=where),
            f"p{part * 100:g}",
            has_exemplars=True,
        )
        for part in parts or (0.5, 0.95, 0.99)
    ]


_REQUESTS: Final = (
    lines(
        "Request rate",
        "Requests that ended, by route; probes and scrapes are left out. Normal is"
        " the shape of yesterday. A fall to nothing is clients that cannot reach"
        " us: look at the replicas below.",
        REQUESTS_PER_SECOND,
        Query(q.rate(d.REQUESTS, "route", where=CLIENTS_ROUTES), "{{route}}"),
    ),
    lines(
        "Share of failed requests",
        "Requests that failed through no fault of the client's, by outcome. Normal"
        " is below 0.1 %. upstream_error: open the upstream dashboard; unavailable:"
        " the store or a shutdown; failed: a fault of ours, look for its error_id.",
        SHARE,
        Query(
            q.share(
                q.rate(d.REQUESTS, "outcome", where=FAILED_REQUESTS),
                q.rate(d.REQUESTS, where=CLIENTS_ROUTES),
                "outcome",
            ),
            "{{outcome}}",
        ),
        alert_above=_FAILING,
    ),
    lines(
        "Request duration",
        "From a request's head to its answer's last byte, of what was answered:"
        " mostly the length of answers. Normal follows the mix of models. If it"
        " grows while the upstream's share of it does not, it is us.",
        SECONDS,
        *quantiles(d.REQUEST_DURATION, where=f'{CLIENTS_ROUTES},outcome="ok"'),
    ),
    lines(
        "Request duration by route",
        "The slowest twentieth of each route. Normal is milliseconds for models and"
        " limits and seconds for completions. A route that is slow alone points to"
        " what only it does.",
        SECONDS,
        Query(
            q.quantile(0.95, d.REQUEST_DURATION, "route", where=CLIENTS_ROUTES),
            "{{route}}",
            has_exemplars=True,
        ),
    ),
)


_LIMITS: Final = (
    lines(
        "Share of rejections by limit",
        "Decisions that were a 429, by the limit that bound. Normal is a steady few"
        " per cent of clients at their plan's edge. A jump is one client or one new"
        " plan: open the limits dashboard.",
        SHARE,
        Query(
            q.share(q.rate(d.REJECTIONS, "limit"), q.rate(d.ADMISSIONS), "limit"),
            "{{limit}}",
        ),
    ),
    lines(
        "Outcomes",
        "How requests ended. Normal is mostly ok. Much invalid is a client's new"
        " release, much unauthorized a key that was revoked or a guesser,"
        " client_gone people who did not wait; where it is most, see the runbook of"
        " GatewayClientsGiveUp.",
        REQUESTS_PER_SECOND,
        Query(q.rate(d.REQUESTS, "outcome", where=CLIENTS_ROUTES), "{{outcome}}"),
        is_stacked=True,
    ),
)


_STREAMS: Final = (
    lines(
        "Time to first token",
        "From a stream's request to the first event its client was sent. Normal is"
        " below 2.5 s for 95 %. If it grows, the upstream dashboard tells whether"
        " LLMTune or this gateway takes the time.",
        SECONDS,
        *quantiles(d.FIRST_TOKEN),
    ),
    spread(
        "Spread of the time to first token",
        "The same as a heatmap: two bands are two kinds of prompts or models, and a"
        " band that rises is a queue. Normal is one narrow band.",
        SECONDS,
        q.buckets(d.FIRST_TOKEN),
    ),
    lines(
        "Time per output token",
        "The pace of complete streams after their first event. Normal is a model's"
        " own, 10 to 50 ms. If all models slow down together, look at the event"
        " loop's lag on the upstream dashboard.",
        SECONDS,
        *quantiles(d.OUTPUT_TOKEN),
    ),
    lines(
        "Work in flight",
        "Requests and streams that have begun and not ended. Normal follows the"
        " request rate. If it climbs while the rate does not, answers take longer"
        " or are stuck.",
        NUMBER,
        Query(q.gauge("sum", d.REQUESTS_IN_FLIGHT), "requests"),
        Query(q.gauge("sum", d.STREAMS_IN_FLIGHT), "streams"),
    ),
    lines(
        "Tokens by plan",
        "Tokens of answers, as they are charged, by plan and direction. Normal"
        " follows the request rate. Input that grows alone is longer prompts.",
        PER_SECOND,
        Query(q.rate(d.TOKENS, "plan", "direction"), "{{plan}} {{direction}}"),
        is_stacked=True,
    ),
)


_CACHED: Final = 'kind="cache"'
_HITS: Final = f'{_CACHED},outcome=~"stored|joined"'
_REPLAYS: Final = (
    lines(
        "Replays",
        "Requests that are run once for all who ask, by why and what became of"
        " them. Normal is mostly first. Many conflict are clients that use one key"
        " for two requests.",
        REQUESTS_PER_SECOND,
        Query(q.rate(d.REPLAYS, "kind", "outcome"), "{{kind}} {{outcome}}"),
    ),
    lines(
        "Cache hit ratio",
        "Of requests whose plan has a cache and that may be cached, those that were"
        " answered from it. Normal depends on the clients; a fall to nothing is a"
        " store that lost its data or a plan that lost its cache.",
        SHARE,
        Query(
            q.share(q.rate(d.REPLAYS, where=_HITS), q.rate(d.REPLAYS, where=_CACHED)),
            "hits",
        ),
        most=1,
    ),
)

_REPLICAS: Final = (
    lines(
        "Replicas by version",
        "Replicas that can be scraped. Normal is one version, and two during a"
        " roll-out. Fewer than expected: one is down, and the others carry its"
        " load.",
        NUMBER,
        Query(q.gauge("count", d.BUILD, "version"), "{{version}}"),
    ),
    lines(
        "Plans in force",
        "Replicas by the digest of the plans that they enforce. Normal is one"
        " digest. Two for longer than twenty minutes: a replica did not get, or"
        " refused, the new files.",
        NUMBER,
        Query(q.gauge("count", d.POLICY, "digest"), "{{digest}}"),
    ),
    lines(
        "Replicas without their store",
        "Replicas that decide limits without the store. Normal is 0. Otherwise see"
        " the runbook of GatewayStoreUnavailable.",
        NUMBER,
        Query(q.gauge("sum", d.STORE_DEGRADED), "degraded"),
        alert_above=1,
    ),
)


def build() -> dashboard.Dashboard:
    rows = [
        Row("Requests", _REQUESTS),
        Row("Limits", _LIMITS),
        Row("Answers", _STREAMS),
        Row("Replays", _REPLAYS),
        Row("Replicas", _REPLICAS),
    ]
    return board(UID, "LLMTune gateway: overview", "Are clients served well?", rows)
