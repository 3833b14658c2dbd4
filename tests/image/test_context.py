"""What a build is sent: nothing but what is named, whatever lies around."""

from __future__ import annotations

from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
RULES: Final = [
    line
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
]
ALLOWED: Final = {"gateway", "policies", "image/locks", "pyproject.toml", "README.md"}


def test_everything_is_left_out_first() -> None:
    """Keys files, .git, tests and caches need no rule of their own."""
    assert "*" == RULES[0]


def test_only_what_the_build_copies_is_let_in() -> None:
    """And all of it is there."""
    assert ALLOWED == {rule[1:] for rule in RULES if rule.startswith("!")}
    assert all((ROOT / path).exists() for path in ALLOWED)


def test_bytecode_of_this_machine_stays_here() -> None:
    """The last rule that fits decides, so these come after what is let in."""
    assert ["**/__pycache__", "**/*.pyc"] == RULES[-2:]


def test_what_is_let_in_holds_no_secret() -> None:
    """Neither keys nor certificates lie in the folders that go in."""
    folders = [ROOT / path for path in ALLOWED if (ROOT / path).is_dir()]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]

    assert not [
        path for path in files if path.suffix in {".pem", ".key", ".p12", ".env"}
    ]
