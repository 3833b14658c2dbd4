"""
Loads the plan files of one directory into a plan book, all of them or none.

The form of a file is `Plan`'s, and besides: `concurrency: 2` is short for its limit,
and `workspaces` holds what single workspaces have differently. An override replaces the
whole field: there is no merging to reason about.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec

from policies.limit_fields import check_limits, spell_out_concurrency
from policies.model_patterns import find_pattern_problem
from policies.names import find_plan_name_problem, find_workspace_problem
from policies.plans import Plan
from policies.strict_fields import TextRule, check_fields
from policies.strict_yaml import (
    FileProblems,
    Findings,
    Problem,
    YamlValue,
    join_field,
    read_mapping,
)

# Some 2,000 workspaces with overrides in one file; the shipped plans have 2 KB.
MAX_PLAN_FILE_BYTES: Final = 1024 * 1024
MAX_TITLE_CHARS: Final = 100
# Enough for replicas to tell two books apart; nobody gains from forging one.
DIGEST_CHARS: Final = 12

_VARIABLE_FORM: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_URL_FORM: Final = re.compile(r"https?://[!-~]+")


class PlanProblems(FileProblems):
    """What is wrong with the plan files; no plan was taken."""


class PlanBook:
    """Every plan by name, with the overrides of single workspaces resolved."""

    def __init__(
        self,
        plans: Iterable[Plan],
        overrides: Mapping[tuple[str, str], Plan] | None = None,
    ) -> None:
        self._plans = {plan.plan: plan for plan in plans}
        self._overrides = dict(overrides or {})
        self.digest = self._compute_digest()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self._plans))

    @property
    def plans(self) -> tuple[Plan, ...]:
        """The plans without overrides, in the order of their names."""
        return tuple(self._plans[name] for name in self.names)

    @property
    def overrides(self) -> Mapping[tuple[str, str], Plan]:
        """The resolved plans of single workspaces, by plan name and workspace."""
        return self._overrides

    def plan_for(self, plan_name: str, workspace: str) -> Plan | None:
        """The limits this workspace lives under, or None for a plan nobody wrote."""
        own = self._overrides.get((plan_name, workspace))
        return own or self._plans.get(plan_name)

    def _compute_digest(self) -> str:
        # Of what the files mean, so a new comment or another order changes nothing.
        meaning = (self.plans, sorted(self._overrides.items()))
        encoded = msgspec.json.encode(meaning, order="deterministic")
        return hashlib.sha256(encoded).hexdigest()[:DIGEST_CHARS]


class _PlanFile(Plan, frozen=True, kw_only=True):
    workspaces: dict[str, dict[str, object]] = msgspec.field(default_factory=dict)


class _Draft:
    """One file on its way into the book, with what was found wrong in it."""

    def __init__(self, source: Traversable | Path) -> None:
        self.findings = Findings(source.name)
        read = read_mapping(
            source, max_bytes=MAX_PLAN_FILE_BYTES, findings=self.findings
        )
        self.fields = read or {}
        own_fields = self.fields.get("workspaces")
        self.own_fields = own_fields if isinstance(own_fields, dict) else {}
        if read is not None:
            self._check(source.name)

    def to_plan(self) -> Plan:
        return _to_plan(self.fields)

    def to_overrides(self) -> dict[tuple[str, str], Plan]:
        plans = (
            (workspace, _to_plan(self.fields | own))
            for workspace, own in self.own_fields.items()
            if isinstance(own, dict)
        )
        return {(plan.plan, workspace): plan for workspace, plan in plans}

    def _check(self, file_name: str) -> None:
        _check_plan_fields(self.fields, "", self.findings)
        name = self.fields.get("plan")
        if isinstance(name, str) and Path(file_name).stem != name:
            self.findings.add("plan", "must equal the file's name without its ending")
        for workspace, own in self.own_fields.items():
            field = join_field("workspaces", workspace)
            problem = find_workspace_problem(workspace)
            if problem:
                self.findings.add(field, f"as a workspace's name {problem}")
            if isinstance(own, dict):
                _check_plan_fields(
                    own, field, self.findings, leave_out=("plan", "workspaces")
                )
            else:
                self.findings.add(field, "must be a mapping of fields to values")


def load_plan_book(directory: Path | None) -> PlanBook:
    """
    Read every `.yaml` and `.yml` file of a directory; None reads the shipped plans.

    Raises PlanProblems with all mistakes of all files.
    """
    place: Traversable | Path = directory or files("policies") / "plans"
    drafts = [_Draft(source) for source in _list_files(place)]
    _check_names_differ(drafts)
    problems = [problem for draft in drafts for problem in draft.findings.problems]
    if problems:
        raise PlanProblems(problems)
    overrides: dict[tuple[str, str], Plan] = {}
    for draft in drafts:
        overrides |= draft.to_overrides()
    return PlanBook([draft.to_plan() for draft in drafts], overrides)


def _list_files(place: Traversable | Path) -> list[Traversable | Path]:
    try:
        found = [
            source
            for source in place.iterdir()
            if Path(source.name).suffix in (".yaml", ".yml")
            # A mounted ConfigMap keeps its versions in hidden places beside the files.
            and not source.name.startswith(".")
        ]
    except OSError as error:
        words = f"cannot be read: {error.strerror or type(error).__name__}"
        raise PlanProblems([Problem(str(place), "", words)]) from error
    if not found:
        raise PlanProblems([Problem(str(place), "", "holds no .yaml or .yml file")])
    return sorted(found, key=lambda source: source.name)


def _check_names_differ(drafts: Iterable[_Draft]) -> None:
    first_file: dict[str, str] = {}
    for draft in drafts:
        name = draft.fields.get("plan")
        if not isinstance(name, str):
            continue
        if name in first_file:
            draft.findings.add("plan", f"is also the plan of {first_file[name]}")
        first_file.setdefault(name, draft.findings.file)


def _to_plan(fields: Mapping[str, YamlValue]) -> Plan:
    known = {name: fields[name] for name in fields if name != "workspaces"}
    return msgspec.convert(known, Plan)


def _check_plan_fields(
    fields: dict[str, YamlValue],
    field: str,
    findings: Findings,
    *,
    leave_out: Collection[str] = (),
) -> None:
    spell_out_concurrency(fields, field, findings)
    check_fields(
        fields, _PlanFile, field, findings, rules=_TEXT_RULES, leave_out=leave_out
    )
    check_limits(fields, field, findings)
    if fields.get("models") == []:
        findings.add(
            join_field(field, "models"), "must name a model; leave it out to allow all"
        )


def _find_title_problem(title: str) -> str | None:
    if len(title) <= MAX_TITLE_CHARS and title.isprintable():
        return None
    return f"must be one line of at most {MAX_TITLE_CHARS} characters"


def _find_url_problem(url: str) -> str | None:
    problem = "must be http:// or https:// with a host, and no user, query or fragment"
    try:
        parts = urlsplit(url)
        is_plain = parts.port != 0 and "@" not in parts.netloc
    except ValueError:
        return problem
    is_whole = bool(_URL_FORM.fullmatch(url) and parts.hostname)
    has_more = "?" in url or "#" in url
    return None if is_whole and is_plain and not has_more else problem


def _find_variable_problem(variable: str) -> str | None:
    if _VARIABLE_FORM.fullmatch(variable):
        return None
    return "must be the name of an environment variable"


_TEXT_RULES: Final[dict[str, TextRule]] = {
    "plan": find_plan_name_problem,
    "title": _find_title_problem,
    "models": find_pattern_problem,
    "url": _find_url_problem,
    "api_key_env": _find_variable_problem,
}
