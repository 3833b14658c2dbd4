"""
A Dockerfile as data: stages of instructions.

Knows comments, continued lines and global arguments. No heredocs and no escape
directive, which ours has not and a test forbids.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

import msgspec

_FROM: Final = re.compile(r"(?P<base>\S+)(?:\s+AS\s+(?P<name>\S+))?", re.IGNORECASE)


class Instruction(msgspec.Struct, frozen=True):
    """`word` in capitals, and the rest as one line."""

    word: str
    rest: str

    def exec_form(self) -> list[str] | None:
        """The list of a command in exec form; None for the shell's form."""
        try:
            words: Any = json.loads(self.rest)
        except ValueError:
            return None
        return words if isinstance(words, list) else None


class Stage(msgspec.Struct, frozen=True):
    """One FROM and what follows it."""

    name: str
    base: str
    instructions: list[Instruction]

    def all_of(self, word: str) -> list[Instruction]:
        return [each for each in self.instructions if each.word == word]

    def only(self, word: str) -> Instruction:
        """The one instruction of this kind: two would hide each other."""
        (found,) = self.all_of(word)
        return found


class Dockerfile(msgspec.Struct, frozen=True):
    """`arguments` are the global ones, with their defaults; None has none."""

    arguments: dict[str, str | None]
    stages: list[Stage]

    @property
    def final(self) -> Stage:
        return self.stages[-1]

    def stage(self, name: str) -> Stage:
        (found,) = [stage for stage in self.stages if stage.name == name]
        return found


def parse_dockerfile(text: str) -> Dockerfile:
    arguments: dict[str, str | None] = {}
    stages: list[Stage] = []
    for each in parse_instructions(text):
        if each.word == "FROM":
            match = _FROM.fullmatch(each.rest)
            if match is None:
                raise ValueError(f"FROM {each.rest}")
            stages.append(Stage(match["name"] or "", match["base"], []))
        elif stages:
            stages[-1].instructions.append(each)
        else:
            name, equals, default = each.rest.partition("=")
            arguments[name] = default if equals else None
    return Dockerfile(arguments, stages)


def parse_instructions(text: str) -> list[Instruction]:
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    found = []
    for line in joined.splitlines():
        if line.strip():
            word, _, rest = line.strip().partition(" ")
            found.append(Instruction(word.upper(), rest.strip()))
    return found
