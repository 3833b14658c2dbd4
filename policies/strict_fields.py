"""
Checks what a file says against a struct's form, field by field.

msgspec stops at the first mistake; an operator wants all of them. Once this finds
nothing, `msgspec.convert` cannot fail.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from difflib import get_close_matches
from functools import lru_cache
from typing import Annotated, Final, TypeAlias

import msgspec
from msgspec import Meta, inspect

from policies.strict_yaml import Findings, YamlValue, join_field

# What is wrong with a text, or None. Applies to every text in the field of that name.
TextRule: TypeAlias = Callable[[str], str | None]

_ZONED_TIME: Final = Annotated[datetime, Meta(tz=True)]


def check_fields(
    mapping: Mapping[str, YamlValue],
    kind: type[msgspec.Struct],
    field: str,
    findings: Findings,
    *,
    rules: Mapping[str, TextRule],
    leave_out: Collection[str] = (),
) -> None:
    """Add a problem for every field that is unknown, missing or of a wrong form."""
    _Check(findings, rules).check_mapping(mapping, _form_of(kind), field, leave_out)


class _Check:
    def __init__(self, findings: Findings, rules: Mapping[str, TextRule]) -> None:
        self._findings = findings
        self._rules = rules

    def check_mapping(
        self,
        mapping: Mapping[str, YamlValue],
        form: inspect.StructType,
        field: str,
        leave_out: Collection[str] = (),
    ) -> None:
        known = {known.name: known for known in form.fields}
        for name, value in mapping.items():
            path = join_field(field, name)
            if name in known and name not in leave_out:
                self._check_value(value, known[name].type, path, name)
            else:
                allowed = [other for other in known if other not in leave_out]
                self._findings.add(path, _name_the_closest(name, allowed))
        for name, wanted in known.items():
            if wanted.required and name not in mapping and name not in leave_out:
                self._findings.add(join_field(field, name), "is missing")

    def _check_value(
        self, value: YamlValue, form: inspect.Type, path: str, name: str
    ) -> None:
        if isinstance(form, inspect.UnionType):
            if value is None and form.includes_none:
                return
            form = next(t for t in form.types if not isinstance(t, inspect.NoneType))
        if isinstance(form, inspect.StructType) and isinstance(value, dict):
            self.check_mapping(value, form, path)
        elif isinstance(form, inspect.VarTupleType) and isinstance(value, list):
            for index, item in enumerate(value):
                self._check_value(item, form.item_type, f"{path}[{index}]", name)
        elif not _is_of_form(value, form):
            self._findings.add(path, f"must be {_in_words(form)}")
        elif isinstance(value, str) and name in self._rules:
            problem = self._rules[name](value)
            if problem is not None:
                self._findings.add(path, problem)


@lru_cache(maxsize=16)
def _form_of(kind: type[msgspec.Struct]) -> inspect.StructType:
    form = inspect.type_info(kind)
    assert isinstance(form, inspect.StructType)  # noqa: S101  # narrows for mypy
    return form


def _is_of_form(value: YamlValue, form: inspect.Type) -> bool:
    match form:
        case inspect.IntType(ge=least, le=most):
            # A bool is an int to Python, and a mistake to an operator.
            if isinstance(value, bool) or not isinstance(value, int):
                return False
            return (least is None or value >= least) and (most is None or value <= most)
        case inspect.LiteralType(values=values):
            return value in values
        case inspect.StrType():
            return isinstance(value, str)
        case inspect.BoolType():
            return isinstance(value, bool)
        case inspect.DictType():
            return isinstance(value, dict)
        case inspect.DateTimeType():
            return _is_zoned_time(value)
        case _:
            return False


def _is_zoned_time(value: YamlValue) -> bool:
    try:
        msgspec.convert(value, _ZONED_TIME)
    except msgspec.ValidationError:
        return False
    return isinstance(value, str)


def _in_words(form: inspect.Type) -> str:
    match form:
        case inspect.IntType(ge=least, le=most):
            return f"a whole number from {least} to {most}"
        case inspect.LiteralType(values=values):
            return f"one of {', '.join(map(str, values))}"
        case inspect.StrType():
            return "text; quote it if it looks like a number"
        case inspect.BoolType():
            return "true or false"
        case inspect.DateTimeType():
            return "a time with its zone, such as 2027-01-31T00:00:00Z"
        case inspect.VarTupleType():
            return "a list"
        case _:
            return "a mapping of fields to values"


def _name_the_closest(name: str, allowed: list[str]) -> str:
    close = get_close_matches(name, allowed, n=1)
    if close:
        return f"is not a field; did you mean {close[0]}?"
    return f"is not a field; there are {', '.join(allowed)}"
