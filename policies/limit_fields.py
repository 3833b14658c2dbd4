"""
What a file may say of limits beyond their form: alike for a plan's and for a key's.

`concurrency: 2` is short for its limit, no dimension is limited twice, and no bucket
takes years to refill.
"""

from __future__ import annotations

from typing import Final

from policies.plans import RATE_PERIOD_S
from policies.strict_yaml import Findings, YamlValue, join_field

# A bucket that refills for longer than a year is a quota written in the wrong place,
# and its end would not fit the 53 bits in which a Lua ledger counts microseconds.
MAX_REFILL_DAYS: Final = 366


def spell_out_concurrency(
    fields: dict[str, YamlValue], field: str, findings: Findings
) -> None:
    """Replace the short form of a concurrency limit by the whole one, in place."""
    short = fields.get("concurrency")
    if short is None or isinstance(short, dict):
        return
    if isinstance(short, int) and not isinstance(short, bool):
        fields["concurrency"] = {"limit": short}
        return
    del fields["concurrency"]
    findings.add(
        join_field(field, "concurrency"),
        "must be a whole number, or a mapping such as {limit: 2, shadow: true}",
    )


def check_limits(fields: dict[str, YamlValue], field: str, findings: Findings) -> None:
    """Add a problem for every rate or quota that cannot be counted as it is written."""
    for group in ("rates", "quotas"):
        limits = fields.get(group)
        if isinstance(limits, list):
            _check_group(limits, join_field(field, group), findings)


def _check_group(limits: list[YamlValue], field: str, findings: Findings) -> None:
    first_index: dict[tuple[YamlValue, YamlValue], int] = {}
    for index, limit in enumerate(limits):
        if not isinstance(limit, dict):
            continue
        of, per = limit.get("of"), limit.get("per")
        if not isinstance(of, str) or not isinstance(per, str):
            continue
        # Usage is kept by what is counted and how long, so two would share one counter.
        first = first_index.setdefault((of, per), index)
        if first != index:
            findings.add(f"{field}[{index}]", f"limits the same as {field}[{first}]")
        problem = _find_burst_problem(limit)
        if problem:
            findings.add(f"{field}[{index}].burst", problem)


def _find_burst_problem(rate: dict[str, YamlValue]) -> str | None:
    limit, burst = rate.get("limit"), rate.get("burst")
    period_s = next((s for per, s in RATE_PERIOD_S.items() if per == rate["per"]), 0)
    if not isinstance(limit, int) or not isinstance(burst, int) or limit < 1:
        return None
    refill_days = burst * period_s // limit // 86_400
    if refill_days <= MAX_REFILL_DAYS:
        return None
    return (
        f"would take {refill_days} days to refill, and {MAX_REFILL_DAYS} are the most; "
        "a budget over a long time is a quota"
    )
