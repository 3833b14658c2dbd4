"""
Writes what is generated: `python -m grafana [--runbooks URL] [--output FOLDER]`.

Dashboards go to `dashboards/`, rules to `rules/`, and their cases to `tests/`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from grafana import (
    budget_cases,
    cases,
    job_cases,
    jobs,
    leaver_cases,
    limits,
    overview,
    rules,
    symptom_cases,
    upstream,
)

HERE: Final = Path(__file__).parent
BOARDS: Final = {
    "overview": overview.build,
    "limits": limits.build,
    "upstream": upstream.build,
    "jobs": jobs.build,
}
RECORDING: Final = "rules/recording.yaml"
ALERTS: Final = "rules/alerts.yaml"
CASES: Final = "tests/alerts.yaml"
BUDGET_CASES: Final = "tests/budgets.yaml"


def generated(runbooks: str = rules.RUNBOOKS) -> dict[str, str]:
    """Every file's text, by its path below this folder."""
    encoder = JSONEncoder(sort_keys=True, indent=2)
    files = {
        f"dashboards/{name}.json": encoder.encode(build().build()) + "\n"
        for name, build in BOARDS.items()
    }
    files[RECORDING] = rules.to_yaml(rules.recording_file())
    files[ALERTS] = rules.to_yaml(rules.alert_file(runbooks))
    files[CASES] = _cases(
        (
            *(*symptom_cases.CASES, *leaver_cases.CASES),
            *(*job_cases.CASES, *budget_cases.HOURS),
        ),
        every="1m",
        evaluated="1m",
    )
    # Three days of minutes would be minutes of work for promtool.
    files[BUDGET_CASES] = _cases(budget_cases.DAYS, every="5m", evaluated="15m")
    return files


def _cases(found: Sequence[cases.Case], *, every: str, evaluated: str) -> str:
    files = [f"../{name}" for name in (RECORDING, ALERTS)]
    written = cases.case_file(files, found, every=every, evaluated=evaluated)
    return rules.to_yaml(written)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write dashboards, rules and cases.")
    parser.add_argument(
        "--runbooks",
        default=rules.RUNBOOKS,
        help="where docs/runbooks.md can be read, for the alerts' runbook_url",
    )
    parser.add_argument("--output", type=Path, default=HERE)
    options = parser.parse_args()
    for name, text in generated(options.runbooks).items():
        file = options.output / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        print(file)


if __name__ == "__main__":
    main()
