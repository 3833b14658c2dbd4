"""Are clients served well? What they see, in the order in which a request goes."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard

from gateway.telemetry import definitions as d
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

# What is our fault or LLMTune's, and not the client's.
FAILED = 'outcome=~"failed|unavailable|upstream_error"'
ANSWERED = 'outcome="ok"'


def build() -> dashboard.Dashboard:
    return board(
        "llmtune-gateway-overview",
        "LLMTune gateway: overview",
        "Are clients served well?",
        (
            Row("Requests", _requests()),
            Row("Limits", _limits()),
            Row("Answers", _answers()),
            Row("Replicas", _replicas()),
        ),
    )


def _requests() -> list[Panel]:
    failed = q.rate(d.REQUESTS, where=FAILED)
    return [
        lines(
            "Requests by outcome",
            "How every request ended. Mostly ok; a rise of rejected is a matter of"
            " plans, of upstream_error of LLMTune, of failed or unavailable of ours.",
            REQUESTS_PER_SECOND,
            Query(q.rate(d.REQUESTS, "outcome"), "{{outcome}}"),
            is_stacked=True,
        ),
        lines(
            "Failed share",
            "Requests that failed for no fault of their client. The objective allows"
            " 0.1 %; what burns it faster pages. The access lines' fault says why.",
            SHARE,
            Query(q.share(failed, q.rate(d.REQUESTS)), "failed"),
            alert_above=0.0144,
        ),
        lines(
            "Requests by route",
            "What is asked for. A route that grows alone is one client's doing; the"
            " busiest workspaces are on the limits dashboard.",
            REQUESTS_PER_SECOND,
            Query(q.rate(d.REQUESTS, "route"), "{{route}}"),
        ),
    ]


def _limits() -> list[Panel]:
    refused = q.rate(d.REJECTIONS, "limit")
    return [
        lines(
            "Rejected share by limit",
            "429s of all admission decisions, by the limit that bound. Some are what"
            " limits are for; where most clients meet one, its plan is too small.",
            SHARE,
            Query(q.share(refused, q.rate(d.ADMISSIONS), "limit"), "{{limit}}"),
            is_stacked=True,
        ),
        lines(
            "Replays by outcome",
            "Requests that were run once for all who asked. The cache's hits are its"
            " stored and joined; in_flight is a 409, conflict a 422.",
            REQUESTS_PER_SECOND,
            Query(q.rate(d.REPLAYS, "kind", "outcome"), "{{kind}} {{outcome}}"),
        ),
        lines(
            "Cache hit ratio",
            "Of requests that may have a cached answer, those that had. Low is right"
            " where prompts differ; a sudden fall is a changed prompt or a lost store.",
            SHARE,
            Query(
                q.share(
                    q.rate(d.REPLAYS, where='kind="cache",outcome=~"stored|joined"'),
                    q.rate(d.REPLAYS, where='kind="cache"'),
                ),
                "hits",
            ),
            most=1,
        ),
    ]


def _answers() -> list[Panel]:
    return [
        lines(
            "Time to first token",
            "From a stream's request to its first event. It is LLMTune's own time"
            " plus what the upstream dashboard calls added latency.",
            SECONDS,
            *(
                Query(q.quantile(part, d.FIRST_TOKEN), f"p{part * 100:g}", True)
                for part in (0.5, 0.95, 0.99)
            ),
        ),
        lines(
            "Time per output token",
            "Between tokens of complete streams. A reader notices above 0.1 s; the"
            " model decides it, unless clients read slowly.",
            SECONDS,
            *(
                Query(q.quantile(part, d.OUTPUT_TOKEN), f"p{part * 100:g}")
                for part in (0.5, 0.95)
            ),
        ),
        spread(
            "Duration of answers",
            "Every answered request. Two bands are usual: short calls and long"
            " generations; a new band is a new use or a slow model.",
            SECONDS,
            q.buckets(d.REQUEST_DURATION, where=ANSWERED),
        ),
        lines(
            "Streams open",
            "Streams now; what replicas are scaled by. A fall to nothing is a"
            " restart, a steady rise without an end is an upstream that stalls.",
            NUMBER,
            Query(q.gauge("sum", d.STREAMS_IN_FLIGHT, "instance"), "{{instance}}"),
            is_stacked=True,
        ),
        lines(
            "Tokens by plan",
            "Tokens of answers a second, in and out. Follows the requests; output"
            " that grows alone is longer answers.",
            PER_SECOND,
            Query(q.rate(d.TOKENS, "plan", "direction"), "{{plan}} {{direction}}"),
        ),
        lines(
            "Tokens by model",
            "Output tokens a second of the busiest models; all others are _other.",
            PER_SECOND,
            Query(q.rate(d.TOKENS, "model", where='direction="output"'), "{{model}}"),
            is_stacked=True,
        ),
    ]


def _replicas() -> list[Panel]:
    return [
        lines(
            "Replicas by version",
            "Replicas that are scraped. Two versions are a roll-out; fewer than were"
            " asked for is a replica that is down.",
            NUMBER,
            Query(q.gauge("count", d.BUILD, "version"), "{{version}}"),
        ),
        lines(
            "Plans in force",
            "Replicas by the digest of their plans. One line is normal; two for"
            " longer than a reload are replicas that enforce different plans.",
            NUMBER,
            Query(q.gauge("count", d.POLICY, "digest"), "{{digest}}"),
        ),
        lines(
            "Requests in flight",
            "Requests now, streams included, of each replica. They differ by what"
            " clients hold open; one that stands far above the others does not drain.",
            NUMBER,
            Query(q.gauge("sum", d.REQUESTS_IN_FLIGHT, "instance"), "{{instance}}"),
        ),
    ]
