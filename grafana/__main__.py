"""
Writes what is generated: `python -m grafana [--runbooks URL] [--output FOLDER]`.

Dashboards go to `dashboards/`, rules to `rules/`, and their cases to `tests/`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from grafana import budget_cases, limits, overview, rules, symptom_cases, upstream
from grafana.cases import case_file

HERE: Final = Path(__file__).parent
BOARDS: Final = {
    "overview": overview.build,
    "limits": limits.build,
    "upstream": upstream.build,
}
RECORDING: Final = "rules/recording.yaml"
ALERTS: Final = "rules/alerts.yaml"
# By file: the cases, and how often there is a sample and an evaluation. Days of a
# minute each would take promtool minutes.
CASES: Final = {
    "tests/symptoms.yaml": (symptom_cases.CASES, "1m"),
    "tests/budgets-hours.yaml": (budget_cases.HOURS, "1m"),
    "tests/budgets-days.yaml": (budget_cases.DAYS, "5m"),
}


def generated(runbooks: str = rules.RUNBOOKS) -> dict[str, str]:
    """Every file's text, by its path below this folder."""
    encoder = JSONEncoder(sort_keys=True, indent=2)
    files = {
        f"dashboards/{name}.json": encoder.encode(build().build()) + "\n"
        for name, build in BOARDS.items()
    }
    files[RECORDING] = rules.to_yaml(rules.recording_file())
    files[ALERTS] = rules.to_yaml(rules.alert_file(runbooks))
    rule_files = [f"../{RECORDING}", f"../{ALERTS}"]
    for name, (cases, every) in CASES.items():
        tests = case_file(rule_files, cases, every=every, evaluated=every)
        files[name] = rules.to_yaml(tests)
    return files


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
