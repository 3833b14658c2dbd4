"""Histories of everything but budgets: a sample a minute."""

from __future__ import annotations

from typing import Final

from gateway.telemetry import definitions as d
from grafana.cases import HOST, Case, Line, one, with_outcomes


def _attempts(**outcomes: str) -> tuple[Line, ...]:
    return with_outcomes(d.UPSTREAM_ATTEMPTS, **outcomes)


def _lag(within_50_ms: str, within_250_ms: str) -> tuple[Line, ...]:
    bounds = {"0.05": within_50_ms, "0.25": within_250_ms, "+Inf": within_250_ms}
    name = f"{d.EVENT_LOOP_LAG.name}_bucket"
    return tuple(Line(name, f'le="{le}"', values) for le, values in bounds.items())


def _plans(first: str, second: str) -> tuple[Line, ...]:
    return (
        Line(d.POLICY.name, 'digest="old"', first, "a"),
        Line(d.POLICY.name, 'digest="new"', second, "b"),
    )


def _build(values: str, instance: str = "a") -> Line:
    return Line(d.BUILD.name, 'version="1.0.0"', values, instance)


_STORE: Final = (
    Case(
        "GatewayStoreUnavailable",
        "the store is away for good",
        one(d.STORE_DEGRADED, "0x5 1x10"),
        "9m",
        ("page",),
    ),
    Case(
        "GatewayStoreUnavailable",
        "one lost scrape's worth of outage",
        one(d.STORE_DEGRADED, "0x5 1 0x10"),
        "7m",
    ),
    Case(
        "GatewayStoreUnavailable",
        "all is well, without a namespace",
        one(d.STORE_DEGRADED, "0x20"),
        "9m",
        target=HOST,
    ),
    Case(
        "GatewayLeasesAbandoned",
        "a replica died with three requests",
        one(d.LEASES_ABANDONED, "0x10 3x30"),
        "15m",
        ("page",),
    ),
    Case(
        "GatewayLeasesAbandoned",
        "that was an hour ago",
        one(d.LEASES_ABANDONED, "0x10 3x90"),
        "70m",
    ),
    Case(
        "GatewayLeasesLost",
        "a lease is lost",
        one(d.LEASES_LOST, "0x10 1x30"),
        "15m",
        ("ticket",),
        HOST,
    ),
    Case("GatewayLeasesLost", "none is lost", one(d.LEASES_LOST, "4x60"), "30m"),
    Case(
        "GatewaySettlementLag",
        "the queue stands still although the store answers",
        (*one(d.QUEUE_OLDEST, "0x5 0+60x10"), *one(d.STORE_DEGRADED, "0x20")),
        "12m",
        ("page",),
    ),
    Case(
        "GatewaySettlementLag",
        "the store is away, which has an alert of its own",
        (*one(d.QUEUE_OLDEST, "0x5 0+60x10"), *one(d.STORE_DEGRADED, "0x5 1x15")),
        "12m",
    ),
    Case(
        "GatewaySettlementLag",
        "another replica has been cut off from the store for days",
        (
            *one(d.QUEUE_OLDEST, "0x5 0+60x10"),
            *one(d.STORE_DEGRADED, "0x20"),
            Line(d.QUEUE_OLDEST.name, "", "0x20", "b"),
            Line(d.STORE_DEGRADED.name, "", "1x20", "b"),
        ),
        "12m",
        ("page",),
    ),
    Case(
        "GatewaySettlementLag",
        "a minute and a half's worth is taken at once",
        (*one(d.QUEUE_OLDEST, "0x5 90 0x15"), *one(d.STORE_DEGRADED, "0x20")),
        "6m",
    ),
    Case(
        "GatewaySettlementLag",
        "what waited is taken",
        (*one(d.QUEUE_OLDEST, "0x5 30x15"), *one(d.STORE_DEGRADED, "0x20")),
        "12m",
    ),
    Case(
        "GatewaySettlementsLost",
        "the queue was full",
        one(d.SETTLEMENTS_LOST, "0x10 7x30"),
        "15m",
        ("ticket",),
    ),
    Case(
        "GatewaySettlementsLost",
        "nothing was given up",
        one(d.SETTLEMENTS_LOST, "0x60"),
        "30m",
        target=HOST,
    ),
    Case(
        "GatewayKeyChangesUnheard",
        "one of two replicas hears nothing",
        (
            *one(d.KEY_CHANGES_FOLLOWED, "1x30"),
            Line(d.KEY_CHANGES_FOLLOWED.name, "", "1x5 0x25", "b"),
        ),
        "20m",
        ("ticket",),
    ),
    Case(
        "GatewayKeyChangesUnheard",
        "nothing can be heard while the store is away",
        (
            *one(d.KEY_CHANGES_FOLLOWED, "1x5 0x25"),
            *one(d.STORE_DEGRADED, "0x5 1x25"),
        ),
        "20m",
    ),
    Case(
        "GatewayKeyChangesUnheard",
        "it connects anew",
        one(d.KEY_CHANGES_FOLLOWED, "1x5 0x5 1x20"),
        "20m",
    ),
)

_UPSTREAM: Final = (
    Case(
        "GatewayUpstreamFailing",
        "a third of all attempts time out",
        _attempts(ok="0+20x30", timeout="0x10 10+10x20"),
        "25m",
        ("page",),
    ),
    Case(
        "GatewayUpstreamFailing",
        "no connection to it can be made",
        _attempts(connect_failed="0+10x30"),
        "25m",
        ("page",),
        HOST,
    ),
    Case(
        "GatewayUpstreamFailing",
        "requests are wrong and keys refused",
        _attempts(ok="0+1x30", refused="0+20x30", key_refused="0+20x30"),
        "25m",
    ),
    Case(
        "GatewayUpstreamFailing",
        "one attempt in ten fails",
        _attempts(ok="0+90x30", overloaded="0+10x30"),
        "25m",
    ),
    Case(
        "GatewayUpstreamFailing",
        "it fails for a minute",
        _attempts(ok="0+20x30", hung_up="0x10 40x20"),
        "13m",
    ),
    Case(
        "GatewayUpstreamFailing",
        "the only attempt of an hour fails",
        _attempts(ok="0x60", timeout="0x50 1x10"),
        "55m",
    ),
    Case(
        "GatewayUpstreamFailing",
        "nothing is attempted",
        _attempts(ok="9x30", timeout="9x30"),
        "25m",
    ),
)

_OPERATION: Final = (
    Case(
        "GatewayPlansDisagree",
        "a replica keeps its old plans",
        _plans("1x40", "1x40"),
        "25m",
        ("page",),
    ),
    Case(
        "GatewayPlansDisagree",
        "a roll-out took five minutes",
        _plans("1x10 stale", "_x5 1x55"),
        "50m",
        target=HOST,
    ),
    Case(
        "GatewayPlansDisagree",
        "the last old replica drains for ten minutes, and is scraped until its end",
        _plans("1x17 stale", "_x5 1x35"),
        "17m",
    ),
    Case(
        "GatewayReloadRefused",
        "a plan file is wrong",
        one(d.RELOAD_REFUSED, "0x5 1x30", 'what="plans"'),
        "15m",
        ("ticket",),
    ),
    Case(
        "GatewayReloadRefused",
        "it is put right at once",
        one(d.RELOAD_REFUSED, "0x5 1x2 0x30", 'what="plans"'),
        "15m",
    ),
    Case(
        "GatewayEventLoopSaturated",
        "a tenth of all looks is late",
        _lag("0+216x30", "0+240x30"),
        "20m",
        ("ticket",),
        HOST,
    ),
    Case(
        "GatewayEventLoopSaturated",
        "one in a hundred is",
        _lag("0+238x30", "0+240x30"),
        "20m",
    ),
    Case(
        "GatewayReplicaDown",
        "one of two does not answer",
        (
            _build("1x10 _x20"),
            _build("1x30", "b"),
            Line("up", "", "1x10 0x20"),
            Line("up", "", "1x30", "b"),
        ),
        "20m",
        ("ticket",),
    ),
    Case(
        "GatewayReplicaDown",
        "it has not answered for hours",
        (
            _build("1x10 stale _x300"),
            _build("1x300", "b"),
            Line("up", "", "1x10 0x300"),
            Line("up", "", "1x300", "b"),
        ),
        "250m",
        ("ticket",),
    ),
    Case(
        "GatewayReplicaDown",
        "one was scaled away, with its target",
        (
            _build("1x10 _x20"),
            _build("1x30", "b"),
            Line("up", "", "1x10 _x20"),
            Line("up", "", "1x30", "b"),
        ),
        "20m",
    ),
    Case(
        "GatewayReplicaDown",
        "something that is not ours is down",
        (_build("1x30"), Line("up", "", "1x30"), Line("up", "", "0x30", "database")),
        "20m",
        target=HOST,
    ),
    Case(
        "GatewayAbsent",
        "the last replica is gone",
        (_build("1x10 _x60"),),
        "30m",
        ("page",),
        HOST,
    ),
    Case(
        "GatewayAbsent",
        "one of two is left",
        (_build("1x10 _x60"), _build("1x70", "b")),
        "30m",
    ),
    Case(
        "GatewayAbsent",
        "all start anew within three minutes",
        (_build("1x10 stale _x3 1x30"),),
        "13m",
    ),
    Case("GatewayAbsent", "there never was one", (), "30m"),
)

# promtool's clock begins at 0, so that an expiry is as far away as its number.
_EXPIRY: Final = (
    Case(
        "GatewayKeyNearExpiry",
        "six days are left",
        one(d.KEY_EXPIRY, f"{6 * 86_400}x30"),
        "10m",
        ("ticket",),
    ),
    Case(
        "GatewayKeyNearExpiry",
        "an hour is left",
        one(d.KEY_EXPIRY, "3600x30"),
        "10m",
        ("ticket", "page"),
        HOST,
    ),
    Case(
        "GatewayKeyNearExpiry",
        "thirty hours are left",
        one(d.KEY_EXPIRY, f"{30 * 3600}x30"),
        "10m",
        ("ticket",),
    ),
    Case(
        "GatewayKeyNearExpiry",
        "eight days are left",
        one(d.KEY_EXPIRY, f"{8 * 86_400}x30"),
        "10m",
    ),
    Case(
        "GatewayStoredKeyNearExpiry",
        "one of two replicas has met a key with six days left",
        (
            Line(d.STORED_KEY_EXPIRY.name, "", f"{90 * 86_400}x30", "a"),
            Line(d.STORED_KEY_EXPIRY.name, "", f"_x5 {6 * 86_400}x30", "b"),
        ),
        "15m",
        ("ticket",),
    ),
    Case(
        "GatewayStoredKeyNearExpiry",
        "eight days are left",
        one(d.STORED_KEY_EXPIRY, f"{8 * 86_400}x30"),
        "20m",
    ),
    Case(
        "GatewayStoredKeyNearExpiry",
        "it is rotated, and not looked at any more",
        one(d.STORED_KEY_EXPIRY, f"{6 * 86_400}x5 _x30"),
        "20m",
        target=HOST,
    ),
    Case(
        "GatewayCertificateNearExpiry",
        "thirteen days are left",
        one(d.CERTIFICATE_EXPIRY, f"{13 * 86_400}x30", 'peer="upstream"'),
        "10m",
        ("ticket",),
    ),
    Case(
        "GatewayCertificateNearExpiry",
        "four days are left",
        one(d.CERTIFICATE_EXPIRY, f"{4 * 86_400}x30", 'peer="store"'),
        "10m",
        ("ticket",),
    ),
    Case(
        "GatewayCertificateNearExpiry",
        "two days are left",
        one(d.CERTIFICATE_EXPIRY, f"{2 * 86_400}x30", 'peer="upstream"'),
        "10m",
        ("ticket", "page"),
    ),
    Case(
        "GatewayCertificateNearExpiry",
        "fifteen days are left",
        one(d.CERTIFICATE_EXPIRY, f"{15 * 86_400}x30", 'peer="upstream"'),
        "10m",
    ),
)

CASES: Final = (*_STORE, *_UPSTREAM, *_OPERATION, *_EXPIRY)
