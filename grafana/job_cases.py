"""Histories of long jobs: a sample a minute."""

from __future__ import annotations

from typing import Final

from gateway.telemetry import definitions as d
from grafana.cases import HOST, Case, Line, one, with_outcomes

HOUR_S: Final = 3600


def _overdue(values: str, kind: str = "batches", instance: str = "a") -> Line:
    return Line(d.WORK_OVERDUE.name, f'kind="{kind}"', values, instance)


def _oldest(kind: str, state: str, from_s: int) -> tuple[Line, ...]:
    """An oldest job that grows older by a minute a minute."""
    labels = f'kind="{kind}",state="{state}"'
    return one(d.LIVE_JOBS_OLDEST, f"{from_s}+60x60", labels)


def _stored(**outcomes: str) -> tuple[Line, ...]:
    return with_outcomes(d.STORAGE_CALLS, 'call="put"', **outcomes)


_WORK: Final = (
    Case(
        "GatewayWorkOverdue",
        "nobody drives, which both replicas see",
        (_overdue("0x5 0+60x20"), _overdue("0x5 0+60x20", instance="b")),
        "14m",
        ("page",),
    ),
    Case(
        "GatewayWorkOverdue",
        "deliveries alone stand still, without a namespace",
        (_overdue("1x30"), _overdue("0x5 0+60x25", "webhooks")),
        "20m",
        ("page",),
        HOST,
    ),
    Case(
        "GatewayWorkOverdue",
        "a burst of work takes four minutes",
        (_overdue("0x5 60 120 180 240 120 0x20"),),
        "12m",
    ),
    Case(
        "GatewayWorkOverdue",
        "all replicas were away for an hour and work it off within a minute",
        (_overdue("_x5 3600 4 0x20"),),
        "5m",
    ),
    Case(
        "GatewayWorkFailing",
        "one batch fails every five seconds",
        with_outcomes(d.WORK, 'kind="batches"', done="0+5x30", failed="0x10 12+12x20"),
        "15m",
        ("ticket",),
    ),
    Case(
        "GatewayWorkFailing",
        "the store is away, which is no failure of ours",
        with_outcomes(
            d.WORK, 'kind="batches"', failed="2x30", store_unavailable="0+12x30"
        ),
        "20m",
        target=HOST,
    ),
)

_STORAGE: Final = (
    Case(
        "GatewayStorageFailing",
        "the volume is full",
        _stored(ok="0+20x30", unavailable="0x10 10+10x20"),
        "20m",
        ("page",),
    ),
    Case(
        "GatewayStorageFailing",
        "it fails whenever the one waiting batch tries again",
        _stored(ok="7x30", unavailable="0+12x30"),
        "20m",
        ("page",),
        HOST,
    ),
    Case(
        "GatewayStorageFailing",
        "it fails for a moment",
        _stored(ok="0+20x30", unavailable="0x10 40x20"),
        "12m",
    ),
    Case(
        "GatewayStorageFailing",
        "one call in twenty fails",
        _stored(ok="0+190x30", unavailable="0+10x30"),
        "20m",
    ),
    Case(
        "GatewayStorageFailing",
        "files are asked for that are gone",
        _stored(ok="0+1x30", missing="0+100x30", unavailable="3x30"),
        "20m",
    ),
    Case(
        "GatewayStorageFailing",
        "the only call of an hour fails",
        _stored(ok="5x60", unavailable="0x50 1x10"),
        "52m",
    ),
)

_WEBHOOKS: Final = (
    Case(
        "GatewayWebhooksRefused",
        "the secret was changed at one end",
        with_outcomes(d.WEBHOOKS, results="0+5x10 50x30", forged="0x10 5+5x30"),
        "35m",
        ("ticket",),
    ),
    Case(
        "GatewayWebhooksRefused",
        "they are signed no more, without a namespace",
        with_outcomes(d.WEBHOOKS, unsigned="0+2x40"),
        "30m",
        ("ticket",),
        HOST,
    ),
    Case(
        "GatewayWebhooksRefused",
        "a stranger posts beside many results",
        with_outcomes(d.WEBHOOKS, results="0+20x40", unsigned="0+10x40"),
        "35m",
    ),
    Case(
        "GatewayWebhooksRefused",
        "a stranger tries it thrice",
        with_outcomes(d.WEBHOOKS, results="9x40", forged="0x20 3x20"),
        "28m",
    ),
    Case(
        "GatewayWebhooksRefused",
        "everything is repeated",
        with_outcomes(d.WEBHOOKS, repeated="0+20x40", forged="2x40"),
        "30m",
    ),
    Case(
        "GatewayDeliveriesDead",
        "a receiver has answered 410",
        with_outcomes(d.WEBHOOK_DELIVERIES, delivered="0+1x90", dead="0x30 1x60"),
        "45m",
        ("ticket",),
    ),
    Case(
        "GatewayDeliveriesDead",
        "a receiver's name leads into our network",
        with_outcomes(d.WEBHOOK_DELIVERIES, refused_target="0x30 1x60"),
        "45m",
        ("ticket",),
        HOST,
    ),
    Case(
        "GatewayDeliveriesDead",
        "that was two hours ago, and is retried since",
        with_outcomes(d.WEBHOOK_DELIVERIES, dead="0x10 1x170", retried="0+1x180"),
        "150m",
    ),
    Case(
        "GatewayDeliveriesFailing",
        "a busy receiver has been down for hours",
        with_outcomes(d.WEBHOOK_DELIVERIES, delivered="0+1x180", retried="0+3x180"),
        "100m",
        ("ticket",),
    ),
    Case(
        "GatewayDeliveriesFailing",
        "all attempts fail, without a namespace",
        with_outcomes(d.WEBHOOK_DELIVERIES, delivered="4x180", retried="0+1x180"),
        "100m",
        ("ticket",),
        HOST,
    ),
    Case(
        "GatewayDeliveriesFailing",
        "one receiver in ten is down",
        with_outcomes(d.WEBHOOK_DELIVERIES, delivered="0+9x180", retried="0+1x180"),
        "100m",
    ),
    Case(
        "GatewayDeliveriesFailing",
        "the only event of a day has no luck",
        with_outcomes(d.WEBHOOK_DELIVERIES, delivered="4x180", retried="0x60 1 2x120"),
        "100m",
    ),
)

_JOBS: Final = (
    Case(
        "GatewayBatchResultsMissing",
        "the one chunk of the one batch is sent twice again",
        (
            Line(d.BATCH_CHUNKS_SENT.name, 'kind="first"', "0x10 1x70"),
            Line(d.BATCH_CHUNKS_SENT.name, 'kind="again"', "0x20 1x10 2x60"),
        ),
        "40m",
        ("ticket",),
    ),
    Case(
        "GatewayBatchResultsMissing",
        "LLMTune does not reach us, without a namespace",
        (
            Line(d.BATCH_CHUNKS_SENT.name, 'kind="first"', "0+1x90"),
            Line(d.BATCH_CHUNKS_SENT.name, 'kind="again"', "0+2x90"),
        ),
        "80m",
        ("ticket",),
        HOST,
    ),
    Case(
        "GatewayBatchResultsMissing",
        "one chunk in ten is late",
        (
            Line(d.BATCH_CHUNKS_SENT.name, 'kind="first"', "0+9x90"),
            Line(d.BATCH_CHUNKS_SENT.name, 'kind="again"', "0+1x90"),
        ),
        "80m",
    ),
    Case(
        "GatewayBatchResultsMissing",
        "that was this morning",
        (
            Line(d.BATCH_CHUNKS_SENT.name, 'kind="first"', "9x200"),
            Line(d.BATCH_CHUNKS_SENT.name, 'kind="again"', "0x20 5x180"),
        ),
        "150m",
    ),
    Case(
        "GatewayBatchNearExpiry",
        "a batch is three hours from its end",
        _oldest("batches", "in_progress", 21 * HOUR_S),
        "10m",
        ("ticket",),
    ),
    Case(
        "GatewayBatchNearExpiry",
        "fine-tunes may take so long",
        (
            *_oldest("batches", "in_progress", 18 * HOUR_S),
            *_oldest("fine_tunes", "running", 30 * HOUR_S),
        ),
        "10m",
        target=HOST,
    ),
    Case(
        "GatewayFineTuneStuck",
        "LLMTune does not begin with it",
        _oldest("fine_tunes", "queued", 6 * HOUR_S),
        "10m",
        ("ticket/6h",),
    ),
    Case(
        "GatewayFineTuneStuck",
        "nobody hears of its end",
        _oldest("fine_tunes", "running", 7 * 24 * HOUR_S),
        "10m",
        ("ticket/7d",),
        HOST,
    ),
    Case(
        "GatewayFineTuneStuck",
        "one waits for an hour, and one trains for two days",
        (
            *_oldest("fine_tunes", "queued", HOUR_S),
            *_oldest("fine_tunes", "running", 48 * HOUR_S),
        ),
        "10m",
    ),
)

CASES: Final = (*_WORK, *_STORAGE, *_WEBHOOKS, *_JOBS)
