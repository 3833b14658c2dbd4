"""Who is near which limit? Admissions, the busiest workspaces, and their leases."""

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
)


def build() -> dashboard.Dashboard:
    return board(
        "llmtune-gateway-limits",
        "LLMTune gateway: limits",
        "Who is near which limit?",
        (
            Row("Plans", _plans()),
            Row("Workspaces", _workspaces()),
            Row("Reservations and leases", _leases()),
            Row("While the store is away", _store()),
        ),
    )


def _plans() -> list[Panel]:
    near = q.rate(d.NEAR_LIMIT, "plan", "limit")
    admitted = q.rate(d.ADMISSIONS, "plan", where='decision="admitted"')
    return [
        lines(
            "Admissions by plan",
            "Decisions a second. Rejected of a plan that grows with admitted is a"
            " plan that is outgrown; alone it is a client that does not back off.",
            REQUESTS_PER_SECOND,
            Query(q.rate(d.ADMISSIONS, "plan", "decision"), "{{plan}} {{decision}}"),
        ),
        lines(
            "Rejections by limit and reason",
            "Which limit bound, and why: rate, concurrency, quota, or too_large,"
            " which no waiting helps.",
            REQUESTS_PER_SECOND,
            Query(
                q.rate(d.REJECTIONS, "plan", "limit", "reason"),
                "{{plan}} {{limit}} {{reason}}",
            ),
        ),
        lines(
            "Near-limit share",
            "Admitted requests after which 80 % of a limit were used. It rises before"
            " rejections do: the time to talk about a larger plan.",
            SHARE,
            Query(
                f"{near}\n/ on (plan) group_left ()\n({admitted} > 0)",
                "{{plan}} {{limit}}",
            ),
        ),
        lines(
            "Shadow rejections",
            "What shadow limits would have refused. None, and the limit can be"
            " enforced without anybody noticing.",
            REQUESTS_PER_SECOND,
            Query(q.rate(d.SHADOW_REJECTIONS, "plan", "limit"), "{{plan}} {{limit}}"),
        ),
    ]


def _workspaces() -> list[Panel]:
    used = q.gauge("max", d.WORKSPACE_USED, "workspace", "limit")
    return [
        lines(
            "Most used limits",
            "Of the busiest workspaces, the ten limits that were used most at their"
            " last decision. At 1 the next request is refused.",
            SHARE,
            Query(f"topk(10, {used})", "{{workspace}} {{limit}}"),
        ),
        lines(
            "Requests by workspace",
            "Decisions of the busiest workspaces; all others are _other. One that"
            " takes over is visible here before it is in anybody's bill.",
            REQUESTS_PER_SECOND,
            Query(q.rate(d.WORKSPACE_REQUESTS, "workspace"), "{{workspace}}"),
            is_stacked=True,
        ),
        lines(
            "Rejections by workspace",
            "Who is refused. A steady line is a client that does not back off: its"
            " access lines name the key.",
            REQUESTS_PER_SECOND,
            Query(
                q.rate(d.WORKSPACE_REQUESTS, "workspace", where='decision="rejected"'),
                "{{workspace}}",
            ),
        ),
        lines(
            "Tokens by workspace",
            "Tokens settled a second, in and out together.",
            PER_SECOND,
            Query(q.rate(d.WORKSPACE_TOKENS, "workspace"), "{{workspace}}"),
            is_stacked=True,
        ),
    ]


def _leases() -> list[Panel]:
    return [
        lines(
            "Reservation ratio",
            "Tokens settled over tokens reserved. Around 1 is a good estimate; far"
            " below, callers ask for more output than they use and wait for it.",
            NUMBER,
            *(
                Query(q.quantile(part, d.RESERVATION_RATIO), f"p{part * 100:g}")
                for part in (0.1, 0.5, 0.9)
            ),
        ),
        lines(
            "Leases held",
            "Requests that hold a place of their plan's concurrency, by replica.",
            NUMBER,
            Query(q.gauge("sum", d.LEASES_HELD, "instance"), "{{instance}}"),
            is_stacked=True,
        ),
        lines(
            "Leases renewed, lost and abandoned",
            "Renewals follow the long requests. Abandoned are those of replicas that"
            " died; lost are of requests that still run and are charged too little.",
            PER_SECOND,
            Query(q.rate(d.LEASES_RENEWED), "renewed"),
            Query(q.rate(d.LEASES_LOST), "lost"),
            Query(q.rate(d.LEASES_ABANDONED), "abandoned"),
        ),
    ]


def _store() -> list[Panel]:
    return [
        lines(
            "Replicas that decide alone",
            "1 for each replica that does not reach the store: it enforces its share"
            " of every plan. 0 is normal.",
            NUMBER,
            Query(q.gauge("sum", d.STORE_DEGRADED, "instance"), "{{instance}}"),
        ),
        lines(
            "Decisions without the store",
            "Admissions by a share, or as the plan says. None is normal; undecided"
            " are 503s.",
            REQUESTS_PER_SECOND,
            Query(
                q.rate(d.DEGRADED_DECISIONS, "mode", "outcome"), "{{mode}} {{outcome}}"
            ),
        ),
        lines(
            "Settlement queue",
            "How long the oldest settlement waits for the store. It grows while the"
            " store is away and falls to 0 within seconds of its return.",
            SECONDS,
            Query(q.gauge("max", d.QUEUE_OLDEST, "instance"), "{{instance}}"),
            alert_above=60,
        ),
    ]
