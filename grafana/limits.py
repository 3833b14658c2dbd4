"""*Who is near which limit?* Decisions, workspaces, reservations and leases."""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.builders import dashboard

from gateway.telemetry import definitions as d
from grafana import queries as q
from grafana.alerts import SETTLEMENT_LAG_S
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

UID: Final = "llmtune-gateway-limits"
# As many lines as a person tells apart.
_MOST_LINES: Final = 10
_ADMITTED: Final = 'decision="admitted"'
_REJECTED: Final = 'decision="rejected"'


def _top(expr: str) -> str:
    return f"topk({_MOST_LINES}, {expr})"


_DECISIONS: Final = (
    lines(
        "Admission decisions",
        "Requests admitted and rejected, by plan. Normal is few rejections. A plan"
        " whose rejections follow its requests is one that its clients outgrew.",
        REQUESTS_PER_SECOND,
        Query(q.rate(d.ADMISSIONS, "plan", "decision"), "{{plan}} {{decision}}"),
    ),
    lines(
        "Rejections by limit",
        "429s by plan, binding limit and reason. Normal is rate and concurrency,"
        " which pass by waiting. quota lasts to the window's end, and too_large"
        " never passes: tell that client.",
        REQUESTS_PER_SECOND,
        Query(
            q.rate(d.REJECTIONS, "plan", "limit", "reason"),
            "{{plan}} {{limit}} {{reason}}",
        ),
    ),
    lines(
        "Share of admissions near a limit",
        "Admitted requests that left a limit at 80 % or more, by plan and limit."
        " Normal is a few per cent at peaks. What stays high will be rejections"
        " next: raise the limit, or tell the client.",
        SHARE,
        Query(
            q.share(
                q.rate(d.NEAR_LIMIT, "plan", "limit"),
                q.rate(d.ADMISSIONS, "plan", where=_ADMITTED),
                "limit",
            ),
            "{{plan}} {{limit}}",
        ),
        most=1,
    ),
    lines(
        "Shadow rejections",
        "Requests that a limit in shadow would have refused. Normal is what was"
        " expected of the new limit. Enforce it when this is low enough.",
        REQUESTS_PER_SECOND,
        Query(q.rate(d.SHADOW_REJECTIONS, "plan", "limit"), "{{plan}} {{limit}}"),
    ),
)


_REFUSED: Final = q.rate(d.WORKSPACE_REQUESTS, "workspace", where=_REJECTED)
_ASKED: Final = q.rate(d.WORKSPACE_REQUESTS, "workspace")
_USED: Final = q.gauge("max", d.WORKSPACE_USED, "workspace", "limit")
_WORKSPACES: Final = (
    lines(
        "Fullest limits by workspace",
        "How much of a limit the busiest workspaces have used, reservations"
        " included. Normal is below 80 %. At 100 % the next request is refused;"
        " above it an answer was longer than reserved.",
        SHARE,
        Query(_top(_USED), "{{workspace}} {{limit}}"),
    ),
    lines(
        "Requests by workspace",
        "The busiest workspaces, and all others together as _other. Normal is a"
        " steady order. A newcomer at the top is a batch job or a loop.",
        REQUESTS_PER_SECOND,
        Query(_top(_ASKED), "{{workspace}}"),
    ),
    lines(
        "Share of rejections by workspace",
        "Of a busy workspace's requests, those that were refused. Normal is 0. At"
        " 100 % its client retries without waiting, or its quota is spent.",
        SHARE,
        Query(_top(q.share(_REFUSED, _ASKED)), "{{workspace}}"),
        most=1,
    ),
    lines(
        "Tokens by workspace",
        "Tokens settled of the busiest workspaces. Normal is a steady order; who"
        " leads here and not in requests has long prompts or answers.",
        PER_SECOND,
        Query(_top(q.rate(d.WORKSPACE_TOKENS, "workspace")), "{{workspace}}"),
    ),
)


_RESERVATIONS: Final = (
    lines(
        "Reservation ratio",
        "Tokens used over tokens reserved. Normal is 30 to 100 % at the median. Far"
        " below, clients are refused for tokens that they never use: they should"
        " say max_tokens; above, limits are exceeded by top-ups.",
        SHARE,
        Query(q.quantile(0.5, d.RESERVATION_RATIO), "p50"),
        Query(q.quantile(0.95, d.RESERVATION_RATIO), "p95"),
    ),
    spread(
        "Spread of the reservation ratio",
        "The same as a heatmap. Normal is one band below 1. Two bands are clients"
        " that bound their answers and clients that do not.",
        SHARE,
        q.buckets(d.RESERVATION_RATIO),
    ),
)


_LEASES: Final = (
    lines(
        "Leases held",
        "Leases by replica. Normal is even, and follows work in flight. A replica"
        " that only gains has requests that do not end.",
        NUMBER,
        Query(q.gauge("sum", d.LEASES_HELD, "instance"), "{{instance}}"),
    ),
    lines(
        "Leases that ended badly",
        "Abandoned: a replica died or was cut off. Lost: the store forgot a lease"
        " whose request ran on. Normal is 0; otherwise see the runbooks of"
        " GatewayLeasesAbandoned and GatewayLeasesLost.",
        PER_SECOND,
        Query(q.rate(d.LEASES_ABANDONED), "abandoned"),
        Query(q.rate(d.LEASES_LOST), "lost"),
    ),
    lines(
        "Lease renewals",
        "Renewals that the store took, by replica. Normal is a third of a lease's"
        " ttl for each long request. Nothing, while leases are held, is a store"
        " that cannot be reached.",
        PER_SECOND,
        Query(q.rate(d.LEASES_RENEWED, "instance"), "{{instance}}"),
    ),
)

_WITHOUT_STORE: Final = (
    lines(
        "Decisions without the store",
        "Admissions by what stood in for the store. Normal is none. share bounds"
        " the overshoot, open bounds nothing, closed is a 503; the formula is in"
        " docs/store-failure.md.",
        REQUESTS_PER_SECOND,
        Query(q.rate(d.DEGRADED_DECISIONS, "mode", "outcome"), "{{mode}} {{outcome}}"),
    ),
    lines(
        "Settlements that wait",
        "Settlements the store has not taken, by replica. Normal is a handful that"
        " comes and goes. A slope is a store that is away or too slow.",
        NUMBER,
        Query(q.gauge("sum", d.QUEUE_DEPTH, "instance"), "{{instance}}"),
    ),
    lines(
        "Age of the oldest settlement",
        "How long the oldest of them has waited. Normal is below a second. Above a"
        " minute although the store answers: see the runbook of"
        " GatewaySettlementLag.",
        SECONDS,
        Query(q.gauge("max", d.QUEUE_OLDEST, "instance"), "{{instance}}"),
        alert_above=SETTLEMENT_LAG_S,
    ),
)


def build() -> dashboard.Dashboard:
    rows = [
        Row("Decisions", _DECISIONS),
        Row("Workspaces", _WORKSPACES),
        Row("Reservations", _RESERVATIONS),
        Row("Leases", _LEASES),
        Row("Without the store", _WITHOUT_STORE),
    ]
    return board(UID, "LLMTune gateway: limits", "Who is near which limit?", rows)
