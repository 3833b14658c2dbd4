"""
Histories of error budgets: hours of a sample a minute, and days of one in five.
"""

from __future__ import annotations

from typing import Final

from gateway.telemetry import definitions as d
from grafana.cases import HOST, Case, Line, with_outcomes

CHAT: Final = 'route="/v1/chat/completions"'


def _requests(**outcomes: str) -> tuple[Line, ...]:
    return with_outcomes(d.REQUESTS, CHAT, **outcomes)


def _streams(started: str, in_time: str) -> tuple[Line, ...]:
    name = d.FIRST_TOKEN.name
    return (
        Line(f"{name}_count", 'model="_other"', started),
        Line(f"{name}_bucket", 'model="_other",le="2.5"', in_time),
    )


HOURS: Final = (
    Case(
        "GatewayErrorBudgetBurn",
        "one request in five fails for a quarter of an hour after a quiet one",
        _requests(ok="0+80x100", upstream_error="0x60 20+20x40"),
        "1h15m",
        ("page/1h",),
    ),
    Case(
        "GatewayErrorBudgetBurn",
        "eight in five hundred fail for an hour",
        _requests(ok="0+492x100", failed="0+8x100"),
        "1h15m",
        ("page/1h", "page/6h", "ticket/1d"),
    ),
    Case(
        "GatewayErrorBudgetBurn",
        "a replica that dies after each few requests counts from 0 again and again",
        _requests(
            ok="0+10x59 _ 1 4 _ 1 4 _ 1 4 _ 1 4", failed="0x59 _ 1 9 _ 1 9 _ 1 9 _ 1 9"
        ),
        "1h11m",
        ("page/1h",),
    ),
    Case(
        "GatewayErrorBudgetBurn",
        "clients are refused, mistaken, unknown or gone, which is not our failure",
        _requests(
            ok="0+10x90",
            rejected="0+50x90",
            invalid="0+50x90",
            unauthorized="0+50x90",
            client_gone="0+50x90",
        ),
        "80m",
    ),
    Case(
        "GatewayErrorBudgetBurn",
        "half of almost nothing fails",
        _requests(ok="0x60 1x30", failed="0x60 1x15 2x15"),
        "80m",
    ),
    Case(
        "GatewayErrorBudgetBurn",
        "nobody asks",
        _requests(ok="5x90", failed="5x90"),
        "80m",
    ),
    Case(
        "GatewayErrorBudgetBurn",
        "what failed for five minutes is over",
        _requests(ok="0+100x100", failed="0x60 10+10x5 60x30"),
        "1h16m",
    ),
    Case(
        "GatewayErrorBudgetBurn",
        "probes fail, which are no clients",
        (
            *_requests(ok="0+100x90"),
            Line(d.REQUESTS.name, 'route="/readyz",outcome="unavailable"', "0+9x90"),
        ),
        "80m",
    ),
)

DAYS: Final = (
    Case(
        "GatewayErrorBudgetBurn",
        "one in a hundred fails for six hours, without a namespace",
        _requests(ok="0+990x400", failed="0x288 10+10x80"),
        "29h45m",
        ("page/6h", "ticket/3d"),
        HOST,
    ),
    Case(
        "GatewayErrorBudgetBurn",
        "four in a thousand fail for a day",
        _requests(ok="0+996x800", unavailable="0x432 4+4x300"),
        "60h",
        ("ticket/1d", "ticket/3d"),
    ),
    Case(
        "GatewayErrorBudgetBurn",
        "three in two thousand fail for three days",
        _requests(ok="0+1997x900", failed="0+3x900"),
        "73h",
        ("ticket/3d",),
    ),
    Case(
        "GatewayErrorBudgetBurn",
        "one in two thousand fails, as the objective allows",
        _requests(ok="0+1999x900", failed="0+1x900"),
        "73h",
    ),
    Case(
        "GatewayLatencyBudgetBurn",
        "two streams in five are late for six hours",
        _streams("0+100x400", "0+100x288 28860+60x80"),
        "30h",
        ("ticket/6h",),
        HOST,
    ),
    Case(
        "GatewayLatencyBudgetBurn",
        "one in twelve is late for three days",
        _streams("0+120x900", "0+110x900"),
        "73h",
        ("ticket/3d",),
    ),
    Case(
        "GatewayLatencyBudgetBurn",
        "one in thirty is late, as the objective allows",
        _streams("0+120x900", "0+116x900"),
        "73h",
    ),
    Case(
        "GatewayLatencyBudgetBurn", "nobody streams", _streams("70x150", "0x150"), "10h"
    ),
)
