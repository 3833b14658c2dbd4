"""
Reads YAML an operator wrote and names every mistake in it: file, field, problem.

Narrower than YAML on purpose: no anchors, no tags, one document, every field once, and
the scalars of YAML 1.2, so that `no` is a word and `1:30` is not 90. Values are never
quoted in a problem: a pasted secret must not reach a log.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final, TypeAlias

import msgspec
import yaml

# What YAML can say once anchors and tags are refused.
YamlValue: TypeAlias = (
    "bool | int | float | str | list[YamlValue] | dict[str, YamlValue] | None"
)

# Plans nest 4 deep. Deeper input is a mistake or an attack on the parser's stack.
MAX_DEPTH: Final = 16
# Python refuses to convert longer digit strings, with an error that is not about YAML.
MAX_NUMBER_CHARS: Final = 40
# A longer field name is no field of ours; it may be a key pasted in the wrong place.
MAX_SHOWN_NAME_CHARS: Final = 32

_HUGE: Final = int("9" * MAX_NUMBER_CHARS)
_SHOWABLE_NAME: Final = re.compile(r"[A-Za-z0-9_.-]+")


class Problem(msgspec.Struct, frozen=True):
    """One mistake in one file. An empty field means the file as a whole."""

    file: str
    field: str
    problem: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.file, self.field, self.problem) if part)


class FileProblems(Exception):
    """Everything that is wrong with the files of one load; nothing of it was taken."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__(problems)
        self.problems = tuple(problems)

    def __str__(self) -> str:
        return "\n".join(map(str, self.problems))


class Findings:
    """Collects the problems of one file."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.problems: list[Problem] = []

    def add(self, field: str, problem: str) -> None:
        self.problems.append(Problem(self.file, field, problem))


def read_mapping(
    source: Traversable | Path, *, max_bytes: int, findings: Findings
) -> dict[str, YamlValue] | None:
    """The file's top-level mapping, or None where not even that could be read."""
    text = _read_text(source, max_bytes, findings)
    if text is None:
        return None
    node = _compose(text, findings)
    if node is None:
        return None
    if not isinstance(node, yaml.MappingNode):
        findings.add("", "must be a mapping of fields to values")
        return None
    return _to_mapping(node, "", findings)


def join_field(parent: str, name: str) -> str:
    """The path of a field as it is shown, without repeating what may be a secret."""
    if len(name) > MAX_SHOWN_NAME_CHARS or not _SHOWABLE_NAME.fullmatch(name):
        name = "?"
    return f"{parent}.{name}" if parent else name


# libyaml where the wheel has it: ten times faster on a large keys file.
class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # the base is chosen at run time
    # Starts empty: YAML 1.1 would read `no` as false, 010 as 8 and 1:30 as 90.
    yaml_implicit_resolvers: Mapping[str, list[tuple[str, re.Pattern[str]]]] = {}


for _tag, _form, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    # Underscores as YAML 1.1 had them: 2_000_000 is easier to read than 2000000.
    ("int", r"[-+]?(0|[1-9][0-9]*(_[0-9]+)*)", list("-+0123456789")),
    (
        "float",
        r"[-+]?([0-9]+)?\.?[0-9]+([eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan",
        list("-+.0123456789"),
    ),
):
    # Anchored, because the resolver only asks whether the text begins like this.
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_form})\Z"), _first
    )


def _read_text(
    source: Traversable | Path, max_bytes: int, findings: Findings
) -> str | None:
    try:
        with source.open("rb") as opened:
            content = opened.read(max_bytes + 1)
    except OSError as error:
        findings.add("", f"cannot be read: {error.strerror or type(error).__name__}")
        return None
    if len(content) > max_bytes:
        findings.add("", f"must have at most {max_bytes} bytes")
        return None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        findings.add("", f"must be UTF-8 text; byte {error.start + 1} is not")
        return None


def _compose(text: str, findings: Findings) -> yaml.Node | None:
    try:
        refusal = _refuse_events(text)
        node: yaml.Node | None = None
        if refusal is None:
            node = yaml.compose(text, Loader=_Loader)
            refusal = None if node else "must not be empty"
    except yaml.MarkedYAMLError as error:
        # Only the parser's own words: its snippet would quote the file.
        line = _line_of(error.problem_mark)
        words = error.problem or "syntax error"
        node, refusal = None, f"is not YAML: {words} in line {line}"
    except yaml.YAMLError:
        node, refusal = None, "is not YAML: it holds characters that YAML forbids"
    if refusal is not None:
        findings.add("", refusal)
    return node


def _refuse_events(text: str) -> str | None:
    """
    Look at the flat stream of events first.

    Building the tree recurses, and follows aliases: a file that nests or refers to
    itself a million times must be refused before that.
    """
    depth = documents = 0
    for event in yaml.parse(text, Loader=_Loader):
        line = _line_of(event.start_mark)
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            return f"must not use anchors or aliases, as line {line} does"
        if getattr(event, "tag", None):
            return f"must not use tags, as line {line} does"
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                return f"must nest at most {MAX_DEPTH} deep; line {line} nests deeper"
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                return f"must hold one document; line {line} starts another"
    return None


def _line_of(mark: object) -> int:
    # libyaml's mark and PyYAML's own have no type in common, and either may be missing.
    return int(getattr(mark, "line", 0)) + 1


def _to_value(node: yaml.Node, field: str, findings: Findings) -> YamlValue:
    if isinstance(node, yaml.MappingNode):
        return _to_mapping(node, field, findings)
    if isinstance(node, yaml.SequenceNode):
        return [
            _to_value(item, f"{field}[{index}]", findings)
            for index, item in enumerate(node.value)
        ]
    return _to_scalar(node.tag.rpartition(":")[2], str(node.value))


def _to_mapping(
    node: yaml.MappingNode, field: str, findings: Findings
) -> dict[str, YamlValue]:
    mapping: dict[str, YamlValue] = {}
    for name_node, value_node in node.value:
        line = _line_of(name_node.start_mark)
        if not isinstance(name_node, yaml.ScalarNode):
            findings.add(field, f"holds a field whose name is not text in line {line}")
            continue
        name = str(name_node.value)
        path = join_field(field, name)
        if name in mapping:
            findings.add(path, f"is given twice, again in line {line}")
        elif value_node.value == "" and value_node.tag.endswith(":null"):
            # Taken as null it would silently lift the limit somebody forgot to type.
            findings.add(path, f"has no value in line {line}")
        else:
            mapping[name] = _to_value(value_node, path, findings)
    return mapping


def _to_scalar(kind: str, text: str) -> YamlValue:
    match kind:
        case "null":
            return None
        case "bool":
            return text.lower() == "true"
        case "int" if len(text) <= MAX_NUMBER_CHARS:
            return int(text)
        case "int":
            # Keeps sign and size: the field's own range will refuse it.
            return -_HUGE if text.startswith("-") else _HUGE
        case "float":
            return float(text.replace(".inf", "inf").replace(".nan", "nan"))
        case _:
            return text
