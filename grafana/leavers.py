"""
Clients that wait and leave without an answer, as a silent upstream makes them.

It is given minutes for its first byte (GATEWAY_UPSTREAM_FIRST_BYTE_TIMEOUT_S), because
a whole answer is generated within them. Clients leave sooner; then no attempt has
failed, and nothing else here counts against anybody.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from gateway.telemetry import definitions as d
from grafana import queries as q
from grafana.alerts import LEAST_FAILURES, Alert, Condition
from grafana.queries import DEPLOYMENT, everyone

LEAVING_SHARE: Final = 0.5
# Who has read enough, or types on, leaves sooner; no client's time-out is as short. As
# each format of an exposition writes the bound.
AT_ONCE: Final = 'le=~"10|10.0"'
# What LLMTune generates. Lists of models, and 429s of those who may not wait beside
# others, would hide it.
_GENERATING: Final = 'route=~"/v1/.*(completions|inference)"'
_LEFT: Final = f'{_GENERATING},outcome="client_gone"'
_WINDOW: Final = everyone("10m")

_ENDED: Final = q.rate(
    d.REQUESTS,
    *DEPLOYMENT,
    where=f'{_GENERATING},outcome=~"ok|client_gone"',
    scope=_WINDOW,
)


def _left_late(count: Callable[..., str]) -> str:
    left = count(d.REQUEST_DURATION, *DEPLOYMENT, where=_LEFT, scope=_WINDOW)
    at_once = count(
        d.REQUEST_DURATION,
        *DEPLOYMENT,
        where=f"{_LEFT},{AT_ONCE}",
        scope=_WINDOW,
        of="_bucket",
    )
    return q.or_zero(f"{left} - {at_once}", _ENDED)


LEAVERS: Final = (
    Alert(
        "GatewayClientsGiveUp",
        "page",
        "2m",
        (
            Condition(q.share(_left_late(q.rate), _ENDED), f"> {LEAVING_SHARE}"),
            Condition(_left_late(q.increase), f">= {LEAST_FAILURES}"),
        ),
        "Most clients leave after they waited in vain.",
        "More than half of those who waited for an answer left without one, after ten"
        " seconds at least. An upstream that takes requests and is silent looks like"
        " this: nothing has failed yet.",
    ),
)
