"""
What clients were promised, and how fast the promise is used up.

Several windows at once, as in the SRE workbook ("Alerting on SLOs", chapter 5): the
long one says that it matters, the short one that it still goes on. The windows are one
table; rules and alerts are made from it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from gateway.telemetry import definitions as d
from gateway.telemetry.definition import PREFIX
from grafana import queries as q
from grafana.alerts import LEAST_FAILURES, Alert, Condition, Severity
from grafana.queries import DEPLOYMENT, Scope, everyone

# Scrapers and probes ask too, and are always answered.
CLIENTS_ROUTES: Final = 'route=~"/v1/.*"'
# What a client did wrong, was told to wait for or did not wait for is none of these.
FAILED: Final = "failed|unavailable|upstream_error"
FAILED_REQUESTS: Final = f'{CLIENTS_ROUTES},outcome=~"{FAILED}"'
# A bound of the histogram's, written the same in every exposition format.
TTFT_WITHIN_S: Final = "2.5"


class Burn(NamedTuple):
    """How many times too fast the budget burns, looked at over which windows."""

    rate: float
    long: str
    short: str
    lasting: str
    severity: Severity


# 14.4 times spends 2 % of thirty days' budget in an hour, 6 times 5 % in six hours, and
# 3 times 10 % in a day; at once it is gone on the last day.
FAST: Final = (
    Burn(14.4, "1h", "5m", "2m", "page"),
    Burn(6, "6h", "30m", "15m", "page"),
)
SLOW: Final = (
    Burn(3, "1d", "2h", "1h", "ticket"),
    Burn(1, "3d", "6h", "3h", "ticket"),
)
# A twentieth of all streams may be late, so that nothing can burn 14.4 times as fast
# without nearly every stream being late.
LATE: Final = (
    Burn(6, "6h", "30m", "15m", "ticket"),
    Burn(1, "3d", "6h", "3h", "ticket"),
)


class Objective(NamedTuple):
    """A share of events that must be good, and the events that are not."""

    alert: str
    # As in the names of its recorded series.
    noun: str
    objective: float
    bad: Callable[[Callable[..., str], Scope], str]
    all: Callable[[Scope], str]
    burns: tuple[Burn, ...]
    summary: str
    description: str

    @property
    def budget(self) -> float:
        return round(1 - self.objective, 6)

    def recorded_share(self, window: str) -> str:
        return f"namespace_job:{PREFIX}{self.noun}:ratio_rate{window}"

    def recorded_number(self, window: str) -> str:
        return f"namespace_job:{PREFIX}{self.noun}:increase{window}"


def _failed(count: Callable[..., str], scope: Scope) -> str:
    return count(d.REQUESTS, *DEPLOYMENT, where=FAILED_REQUESTS, scope=scope)


def _late(count: Callable[..., str], scope: Scope) -> str:
    started = count(d.FIRST_TOKEN, *DEPLOYMENT, scope=scope)
    in_time = count(
        d.FIRST_TOKEN,
        *DEPLOYMENT,
        where=f'le="{TTFT_WITHIN_S}"',
        scope=scope,
        of="_bucket",
    )
    return f"{started} - {in_time}"


OBJECTIVES: Final = (
    Objective(
        "GatewayErrorBudgetBurn",
        "requests_failed",
        0.999,
        _failed,
        lambda scope: q.rate(
            d.REQUESTS, *DEPLOYMENT, where=CLIENTS_ROUTES, scope=scope
        ),
        (*FAST, *SLOW),
        "Clients' requests fail through no fault of theirs.",
        "The share of requests that failed here, were not taken, or failed at LLMTune"
        " uses up the error budget of 0.1 % of thirty days too fast.",
    ),
    Objective(
        "GatewayLatencyBudgetBurn",
        "first_tokens_late",
        0.95,
        _late,
        lambda scope: q.rate(d.FIRST_TOKEN, *DEPLOYMENT, scope=scope),
        LATE,
        "Clients wait too long for the first token.",
        "The share of streams whose first event took longer than"
        f" {TTFT_WITHIN_S} seconds uses up its budget of 5 % of thirty days too"
        " fast.",
    ),
)


class Recording(NamedTuple):
    """A series that is computed ahead, because alerts ask for it every minute."""

    record: str
    expr: str
    window: str


def recordings() -> list[Recording]:
    """Each window's share, and of the long ones how many that were."""
    made = []
    for goal in OBJECTIVES:
        windows = dict.fromkeys(w for b in goal.burns for w in (b.short, b.long))
        for window in windows:
            scope = everyone(window)
            bad = q.or_zero(goal.bad(q.rate, scope), goal.all(scope))
            share = q.share(bad, goal.all(scope))
            made.append(Recording(goal.recorded_share(window), share, window))
        for window in dict.fromkeys(burn.long for burn in goal.burns):
            number = goal.bad(q.increase, everyone(window))
            made.append(Recording(goal.recorded_number(window), number, window))
    return made


def burn_alerts() -> list[Alert]:
    """One rule for each row of a table; all of one objective have one name."""
    return [_alert(goal, burn) for goal in OBJECTIVES for burn in goal.burns]


def _alert(goal: Objective, burn: Burn) -> Alert:
    bound = f"> {burn.rate * goal.budget:.6g}"
    return Alert(
        goal.alert,
        burn.severity,
        burn.lasting,
        (
            Condition(goal.recorded_share(burn.long), bound),
            Condition(goal.recorded_share(burn.short), bound),
            Condition(goal.recorded_number(burn.long), f">= {LEAST_FAILURES}"),
        ),
        goal.summary,
        goal.description,
        window=burn.long,
    )
