"""
What wakes somebody, and what is looked at in the morning.

An alert names what clients or operators notice, never a cause, and says whether it
pages or is a ticket. None selects a job: the prefix of the metrics is ours, and
deployments are kept apart by namespace and job. Texts hold no templates, so that a
chart can carry them.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple, TypeAlias

from gateway.telemetry import definitions as d
from gateway.telemetry.definition import Definition
from grafana import queries as q
from grafana.queries import DEPLOYMENT, everyone

Severity: TypeAlias = Literal["page", "ticket"]

# The bounds that dashboards draw too.
UPSTREAM_FAILING_SHARE: Final = 0.2
SETTLEMENT_LAG_S: Final = 60
LOOP_LAG_S: Final = 0.1
# A few failures of a quiet night are no reason to get up.
LEAST_FAILURES: Final = 10
# LLMTune says that the request, the caller's key or the caller's pace is at fault.
NOT_ITS_FAULT: Final = "ok|refused|key_refused"

DAY_S: Final = 86_400
# Of the store there may be thousands, each with an owner: for the next working day.
STORED_KEY_EXPIRY_DAYS: Final = 7
# Renewing a key takes a person; a certificate should have renewed itself long before.
KEY_EXPIRY_DAYS: Final[tuple[tuple[Severity, int], ...]] = (("ticket", 7), ("page", 1))
CERTIFICATE_EXPIRY_DAYS: Final[tuple[tuple[Severity, int], ...]] = (
    ("ticket", 14),
    ("page", 3),
)


class Condition(NamedTuple):
    """An expression that has a value while all is well, and when it does not do."""

    value: str
    comparison: str

    def __str__(self) -> str:
        # Comparisons bind less tightly than arithmetic and more tightly than `and`.
        return f"{self.value}\n{self.comparison}"


class Alert(NamedTuple):
    """One rule. Several may have one name, and differ in severity or window."""

    name: str
    severity: Severity
    # How long it must hold: long enough for a scrape or two to fail.
    lasting: str
    conditions: tuple[Condition, ...]
    summary: str
    description: str
    # What silences it: another alert that says the same thing better.
    unless: Condition | None = None
    window: str = ""

    @property
    def expr(self) -> str:
        said = "\nand\n".join(str(condition) for condition in self.conditions)
        return said if self.unless is None else f"{said}\nunless\n{self.unless}"

    @property
    def parts(self) -> tuple[str, ...]:
        """What must have a value on a healthy deployment, for the alert to work."""
        silenced = () if self.unless is None else (self.unless.value,)
        return (*(condition.value for condition in self.conditions), *silenced)

    @property
    def key(self) -> str:
        """What tells it from others of its name."""
        return f"{self.severity}/{self.window}" if self.window else self.severity


def _grew(metric: Definition, window: str) -> Condition:
    return Condition(q.increase(metric, *DEPLOYMENT, scope=everyone(window)), "> 0")


def _is_set(metric: Definition) -> Condition:
    return Condition(q.gauge("max", metric, *DEPLOYMENT, scope=everyone("")), "== 1")


def _with_a_store(fold: str, metric: Definition) -> str:
    """
    A gauge of the replicas whose store answers.

    Of each by itself: one that is cut off for days must not hide another's trouble.
    """
    here = q.series(metric, scope=everyone(""))
    away = q.series(d.STORE_DEGRADED, scope=everyone(""))
    own = ", ".join((*DEPLOYMENT, "instance"))
    return f"{fold} by (namespace, job) ({here} unless on ({own}) ({away} == 1))"


# A store that comes and goes is away: each gap is shorter than this.
_STORE_AWAY_LATELY: Final = Condition(
    f"max by (namespace, job) (max_over_time({d.STORE_DEGRADED.name}[1m]))", "== 1"
)
_FAILED_ATTEMPTS: Final = f'outcome!~"{NOT_ITS_FAULT}"'
_LAG: Final = q.quantile(
    0.95, d.EVENT_LOOP_LAG, *DEPLOYMENT, "instance", scope=everyone("5m")
)
_PLANS: Final = (
    f"count by (namespace, job) (count by (namespace, job, digest)"
    f" ({q.series(d.POLICY, scope=everyone(''))} == 1))"
)

STORE: Final = (
    Alert(
        "GatewayStoreUnavailable",
        "page",
        "2m",
        (_STORE_AWAY_LATELY,),
        "Limits are not decided in the store.",
        "A replica at least cannot use its store. Plans are enforced as their"
        " on_store_failure says: by each replica's share, not at all, or with 503s.",
    ),
    Alert(
        "GatewayLeasesAbandoned",
        "page",
        "0m",
        (_grew(d.LEASES_ABANDONED, "10m"),),
        "Requests ended without anybody to settle them.",
        "Leases ran out that nobody renewed: a replica died or was cut off from the"
        " store while it answered, and its clients' streams broke.",
    ),
    Alert(
        "GatewayLeasesLost",
        "ticket",
        "0m",
        (_grew(d.LEASES_LOST, "15m"),),
        "Requests run on without their place under their limits.",
        "The store no longer had leases whose requests still ran: it lost data, or"
        " renewals did not reach it within a lease's ttl.",
    ),
    Alert(
        "GatewaySettlementLag",
        "page",
        "2m",
        (Condition(_with_a_store("max", d.QUEUE_OLDEST), f"> {SETTLEMENT_LAG_S}"),),
        "Usage reaches the store a minute late although the store answers.",
        "Reservations stand instead of what was used, so that clients are refused too"
        " early, and usage is lost if the queue fills or the process ends.",
    ),
    Alert(
        "GatewaySettlementsLost",
        "ticket",
        "0m",
        (_grew(d.SETTLEMENTS_LOST, "15m"),),
        "Usage was never charged as it was.",
        "Settlements were given up: the queue was full, or a process ended before the"
        " store took them. Their reservations stand as the charge.",
    ),
    Alert(
        "GatewayKeyChangesUnheard",
        "ticket",
        "10m",
        (Condition(_with_a_store("min", d.KEY_CHANGES_FOLLOWED), "== 0"),),
        "Revoked keys work until the cache's ttl.",
        "A replica at least does not hear of changed keys, although its store answers.",
    ),
)

UPSTREAM: Final = (
    Alert(
        "GatewayUpstreamFailing",
        "page",
        "5m",
        (
            Condition(
                q.share(
                    q.rate(
                        d.UPSTREAM_ATTEMPTS,
                        *DEPLOYMENT,
                        where=_FAILED_ATTEMPTS,
                        scope=everyone("5m"),
                    ),
                    q.rate(d.UPSTREAM_ATTEMPTS, *DEPLOYMENT, scope=everyone("5m")),
                ),
                f"> {UPSTREAM_FAILING_SHARE}",
            ),
            Condition(
                q.increase(
                    d.UPSTREAM_ATTEMPTS,
                    *DEPLOYMENT,
                    where=_FAILED_ATTEMPTS,
                    scope=everyone("5m"),
                ),
                f">= {LEAST_FAILURES}",
            ),
        ),
        "LLMTune fails more than a fifth of what it is asked.",
        "Attempts fail, time out or are turned away. One retry hides some of them;"
        " what is left are 502s, 503s and 504s.",
    ),
)

OPERATION: Final = (
    Alert(
        "GatewayPlansDisagree",
        "page",
        # The last old replica of a roll-out may drain for ten minutes, and be scraped.
        "20m",
        (Condition(_PLANS, "> 1"),),
        "What a client may do depends on the replica that it meets.",
        "Replicas of one deployment enforce different plans for longer than a roll-out"
        " or a reload takes.",
    ),
    Alert(
        "GatewayReloadRefused",
        "ticket",
        "5m",
        (_is_set(d.RELOAD_REFUSED),),
        "A changed plan or keys file is not in force.",
        "The newest version of a file was refused and an older one goes on: new limits"
        " do not hold, new keys do not work, and removed ones still do.",
    ),
    Alert(
        "GatewayEventLoopSaturated",
        "ticket",
        "10m",
        (Condition(f"max by (namespace, job) ({_LAG})", f"> {LOOP_LAG_S}"),),
        "A replica has more to do than one core can.",
        "Every event of every stream of that replica waits this long once more, and"
        " more requests make it worse for all.",
    ),
    Alert(
        "GatewayReplicaDown",
        "ticket",
        "5m",
        (
            Condition(
                "count by (namespace, job) ((up == 0) and on (namespace, job, instance)"
                f" {q.recent(d.BUILD, '1d')})",
                "> 0",
            ),
        ),
        "A replica cannot be scraped.",
        "It was there within the day and its target still is. The others carry its"
        " load; what it held was cut.",
    ),
    Alert(
        "GatewayAbsent",
        "page",
        "5m",
        (Condition(f"group by (namespace, job) ({q.recent(d.BUILD, '6h')})", "== 1"),),
        "No replica can be scraped.",
        "A deployment that was there within six hours shows nothing any more: clients"
        " may get no answer at all. This ends after six hours, whether or not it is"
        " back.",
        unless=Condition(
            q.gauge("group", d.BUILD, *DEPLOYMENT, scope=everyone("")), "== 1"
        ),
    ),
)


def _left(metric: Definition) -> str:
    soonest = q.gauge("min", metric, *DEPLOYMENT, scope=everyone(""))
    return f"{soonest} - time()"


EXPIRY: Final = (
    *(
        Alert(
            "GatewayKeyNearExpiry",
            severity,
            "5m",
            (Condition(_left(d.KEY_EXPIRY), f"< {days * DAY_S}"),),
            f"A client's key stops working within {days} days."
            if days > 1
            else "A client's key stops working within a day.",
            "The next key of the keys file is about to expire; whoever uses it gets"
            " 401s from then on.",
        )
        for severity, days in KEY_EXPIRY_DAYS
    ),
    Alert(
        "GatewayStoredKeyNearExpiry",
        "ticket",
        "5m",
        (Condition(_left(d.STORED_KEY_EXPIRY), f"< {STORED_KEY_EXPIRY_DAYS * DAY_S}"),),
        f"A client's key stops working within {STORED_KEY_EXPIRY_DAYS} days.",
        "A key of the store that is in use is about to expire, and has not been"
        " rotated; whoever uses it gets 401s from then on.",
    ),
    *(
        Alert(
            "GatewayCertificateNearExpiry",
            severity,
            "5m",
            (Condition(_left(d.CERTIFICATE_EXPIRY), f"< {days * DAY_S}"),),
            f"A certificate in use expires within {days} days.",
            "From then on handshakes with that peer fail, and with them every request"
            " that needs it.",
        )
        for severity, days in CERTIFICATE_EXPIRY_DAYS
    ),
)
