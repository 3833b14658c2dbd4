"""Histories of clients that leave: a sample a minute."""

from __future__ import annotations

from typing import Final

from gateway.telemetry import definitions as d
from grafana.budget_cases import CHAT
from grafana.cases import HOST, Case, Line, with_outcomes


def _ended(ok: str, gone: str, gone_at_once: str) -> tuple[Line, ...]:
    name, left = d.REQUEST_DURATION.name, f'{CHAT},outcome="client_gone"'
    return (
        *with_outcomes(d.REQUESTS, CHAT, ok=ok, client_gone=gone),
        Line(f"{name}_count", left, gone),
        Line(f"{name}_bucket", f'{left},le="10.0"', gone_at_once),
    )


CASES: Final = (
    Case(
        "GatewayClientsGiveUp",
        "LLMTune takes requests and is silent",
        _ended("0+60x30 1800x30", "0x30 1+40x30", "0x60"),
        "40m",
        ("page",),
    ),
    Case(
        "GatewayClientsGiveUp",
        "nobody has ever had an answer, and clients try again against a full plan",
        (
            *_ended("0x30", "0+3x30", "0x30"),
            *with_outcomes(d.REQUESTS, CHAT, rejected="0+200x30"),
        ),
        "20m",
        ("page",),
        HOST,
    ),
    Case(
        "GatewayClientsGiveUp",
        "people type on, and each key they press takes a request back",
        _ended("0+10x60", "0+90x60", "0+89x60"),
        "40m",
    ),
    Case(
        "GatewayClientsGiveUp",
        "one in three stops a long answer",
        _ended("0+60x60", "0+30x60", "0x60"),
        "40m",
    ),
    Case(
        "GatewayClientsGiveUp",
        "the only client of a night gives up",
        _ended("5x60", "0x30 1x30", "0x60"),
        "40m",
    ),
    Case("GatewayClientsGiveUp", "nobody asks", _ended("9x60", "9x60", "0x60"), "40m"),
)
