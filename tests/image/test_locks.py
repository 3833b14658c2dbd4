"""The image's lock files: whole, hashed, and in step with what tests run against."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
LOCKS: Final = ROOT / "image" / "locks"
PROJECT: Final = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
NAMES: Final = ("build", "runtime", "sbom")


def requirements(path: Path) -> dict[str, str]:
    """The pinned version of every package."""
    pins = re.findall(r"^([\w.-]+)==(\S+)", path.read_text("utf-8"), re.MULTILINE)
    return dict(pins)


def name_of(requirement: str) -> str:
    match = re.match(r"[\w.-]+", requirement)
    assert match is not None
    return match[0].lower()


@pytest.mark.parametrize("name", NAMES)
def test_every_requirement_has_its_hash_and_no_address(name: str) -> None:
    """What is installed tomorrow is what is installed today, from any index."""
    text = (LOCKS / f"{name}.lock").read_text(encoding="utf-8")
    entries = [each for each in re.split(r"\n(?=\S)", text.strip()) if "==" in each]

    assert entries
    assert [] == [each for each in entries if "--hash=sha256:" not in each]
    assert "://" not in text


def test_the_image_has_every_extra() -> None:
    """Whoever runs it cannot install what is missing."""
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = {name_of(each) for extra in extras.values() for each in extra}

    assert wanted <= set(requirements(LOCKS / "runtime.lock"))


def test_the_image_runs_the_versions_of_the_run_time_lock() -> None:
    """The extras move no version of what all else is installed from."""
    plain = requirements(ROOT / "requirements.lock")
    image = requirements(LOCKS / "runtime.lock")

    assert plain.items() <= image.items()


def test_the_image_runs_the_versions_that_tests_run() -> None:
    """Where both have a package."""
    tested = requirements(ROOT / "requirements-dev.lock")
    image = requirements(LOCKS / "runtime.lock")
    differing = {
        name for name in tested if image.get(name, tested[name]) != tested[name]
    }

    assert set() == differing


def test_the_builder_is_what_the_project_asks_for() -> None:
    """It builds without isolation, so nothing else would notice."""
    asked = {name_of(each) for each in PROJECT["build-system"]["requires"]}

    assert asked <= set(requirements(LOCKS / "build.lock"))


def test_make_renews_them() -> None:
    """One command for all locks, and every extra in it."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")

    assert "image/locks/runtime.lock" in makefile
    for extra in PROJECT["project"]["optional-dependencies"]:
        assert f"--extra {extra}" in makefile
