"""The clients under test are exactly the ones that were named, from any registry."""

from __future__ import annotations

import json
import re

import pytest

from tests.clients.prepare import NODE_SOURCES, NODE_VERSION, PYTHON_VERSIONS, lock_of


@pytest.mark.parametrize("version", PYTHON_VERSIONS)
def test_every_requirement_has_its_hash(version: str) -> None:
    """What is installed tomorrow is what is installed today."""
    lock = lock_of(version).read_text()
    requirements = re.split(r"\n(?=\S)", lock.strip())

    assert f"openai=={version}" in lock
    unhashed = [each for each in requirements if "--hash=sha256:" not in each]
    assert [] == unhashed


@pytest.mark.parametrize("version", PYTHON_VERSIONS)
def test_requirements_name_no_index(version: str) -> None:
    """A company's own index serves as well as the public one."""
    assert "://" not in lock_of(version).read_text()


def test_node_packages_are_pinned_by_hash_and_not_by_address() -> None:
    """The same for npm."""
    lock = json.loads((NODE_SOURCES / "package-lock.json").read_text())
    packages = {name: entry for name, entry in lock["packages"].items() if name}

    assert NODE_VERSION == packages["node_modules/openai"]["version"]
    assert all("integrity" in entry for entry in packages.values())
    assert not any("resolved" in entry for entry in packages.values())
