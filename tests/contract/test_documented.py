"""What the README says is what the code does: settings, defaults, metrics, commands."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any, Final

import msgspec

from gateway import __version__
from gateway.app import Gateway
from gateway.settings import Settings, variable_of
from gateway.telemetry import definitions
from gateway.telemetry.definition import PREFIX, Definition
from gateway.telemetry.definitions import DEFINITIONS

ROOT: Final = Path(__file__).parents[2]
README: Final = (ROOT / "README.md").read_text(encoding="utf-8")


def rows(first_cell: str) -> dict[str, list[str]]:
    """The table rows whose first cell matches, by that cell."""
    found = {}
    for line in README.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and re.fullmatch(first_cell, cells[0]):
            found[cells[0].strip("`")] = cells[1:]
    return found


def written(default: Any) -> str:
    """A default as the table writes it."""
    if default is None or default == ():
        return ""
    return f"`{default:g}`" if isinstance(default, float) else f"`{default}`"


def test_every_setting_is_in_the_readme_with_its_default() -> None:
    """An operator configures from the table, so it must be whole and true."""
    documented = rows(r"`GATEWAY_\w+`")
    fields = {variable_of(f.name): f for f in msgspec.structs.fields(Settings)}

    assert set(fields) == set(documented)
    for name, field in fields.items():
        expected = written(field.default)
        if name == "GATEWAY_PLANS_DIR":
            expected = "the shipped plans"
        assert documented[name][0] == expected, name


def test_every_metric_is_in_the_readme() -> None:
    """Dashboards and alerts are written from the table."""
    assert {d.name for d in DEFINITIONS} == set(rows(r"`llmtune_gateway_\w+`"))


async def test_every_metric_is_exposed_from_the_start() -> None:
    """All families, with a store, before the first request."""
    suffix = {"counter": "_total", "info": "_info"}
    # Nothing connects before it is asked; a store has metrics from the start.
    gateway = Gateway(Settings(store_url="redis://127.0.0.1:1"))
    exposed = {
        metric.name + suffix.get(metric.type, "")
        for metric in gateway.telemetry.registry.collect()
        if metric.name.startswith(PREFIX)
    }
    await gateway.ledger.aclose()
    await gateway.transport.aclose()

    assert exposed == {d.name for d in DEFINITIONS}


def test_metric_labels_are_closed_sets_or_bounded() -> None:
    """What a caller can make up is named only while it is among the busiest."""
    closed = {"route", "outcome", "plan", "limit", "reason", "decision", "direction"}
    closed |= {"kind", "what", "mode", "call", "state", "peer", "digest", "version"}
    bounded = {"model", "workspace"}

    used = {label for each in DEFINITIONS for label in each.labels}
    assert used == closed | bounded


def test_every_definition_is_exposed_and_nothing_else() -> None:
    """A name that is only defined would stand on dashboards that stay empty."""
    sources = [
        path.read_text("utf-8")
        for path in (ROOT / "gateway").rglob("*.py")
        if path.name != "definitions.py"
    ]
    named = {
        name
        for name, value in vars(definitions).items()
        if isinstance(value, Definition)
    }

    assert {n for n in named if any(f"d.{n}" in text for text in sources)} == named


def test_the_readmes_commands_exist() -> None:
    """Both commands of the first page are targets of the Makefile."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")

    for target in re.findall(r"^make (\w+)", README, flags=re.MULTILINE):
        assert f"\n{target}:" in makefile


def test_ci_runs_what_a_person_runs() -> None:
    """No test runs in CI only, and none is left out of it."""
    commands = [
        line
        for line in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith(("#", "set ", "cd "))
    ]

    assert commands == ["make check test"]


def test_lock_files_name_no_address() -> None:
    """They install from any index, hash-checked; see decision 0004."""
    for name in ("requirements.lock", "requirements-dev.lock"):
        text = (ROOT / name).read_text(encoding="utf-8")
        pins = re.findall(
            r"^[a-z0-9-]+(?:\[.+\])?==\S+ .*\\$", text, flags=re.MULTILINE
        )
        assert "://" not in text
        assert len(pins) <= text.count("--hash=sha256:")


def test_the_package_has_one_version() -> None:
    """The distribution's version is the package's."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

    assert project["tool"]["hatch"]["version"]["path"] == "gateway/__init__.py"
    assert re.fullmatch(r"\d+\.\d+\.\d+", __version__)
