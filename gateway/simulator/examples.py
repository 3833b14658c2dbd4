"""
A value that a JSON schema allows, always the same one for the same schema.

Good enough for tools and structured output: objects, arrays, enums, bounds, common
formats, `$ref` within the schema, and the combinators by their first branch.
Patterns and `multipleOf` are not honoured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

Schema: TypeAlias = Any
Value: TypeAlias = Any

# Recursive schemas have no end of their own.
MAX_DEPTH: Final = 5
# Ten properties that each refer to the whole schema would make 10**8 values.
MAX_VALUES: Final = 2_000
MAX_ITEMS: Final = 16
MAX_LENGTH: Final = 1_024

FORMATS: Final = {
    "date": "2026-01-15",
    "date-time": "2026-01-15T09:30:00Z",
    "time": "09:30:00Z",
    "duration": "PT15M",
    "email": "ada@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/",
    "url": "https://example.com/",
    "uuid": "3f2b8c1e-5d4a-4f6b-9a7c-0e1d2c3b4a59",
}


def example_of(schema: Schema) -> Value:
    return Example(schema).value(schema, "value", depth=0)


class Example:
    """Builds one value; counts what it builds, so that no schema can make it huge."""

    def __init__(self, root: Schema) -> None:
        self._root = root
        self._built = 0

    def value(self, schema: Schema, name: str, depth: int) -> Value:
        self._built += 1
        # The schema demands an endless value; an incomplete one has to do.
        if depth > 4 * MAX_DEPTH or self._built > 2 * MAX_VALUES:
            return None
        if not isinstance(schema, Mapping):
            return name
        schema = self._resolved(schema)
        if "const" in schema:
            return schema["const"]
        if options := non_empty_list(schema, "enum"):
            return options[0]
        for combinator in ("anyOf", "oneOf"):
            if branches := non_empty_list(schema, combinator):
                branch = branches[0] if depth < MAX_DEPTH else ending(branches)
                return self.value(merged(schema, branch), name, depth + 1)
        if branches := non_empty_list(schema, "allOf"):
            return self.value(merged(schema, *branches), name, depth + 1)
        return self._of_type(schema, name, depth)

    def _resolved(self, schema: Mapping[str, Schema]) -> Mapping[str, Schema]:
        # A chain of references that never ends is cut where depth is.
        for _ in range(MAX_DEPTH):
            reference = schema.get("$ref")
            if not isinstance(reference, str):
                break
            target = lookup(self._root, reference)
            schema = merged(schema, target)
        return schema

    def _of_type(self, schema: Mapping[str, Schema], name: str, depth: int) -> Value:
        match type_of(schema):
            case "object":
                return self._object(schema, depth)
            case "array":
                return self._array(schema, name, depth)
            case "integer":
                return int(number_in(schema, 1))
            case "number":
                return number_in(schema, 1.5)
            case "boolean":
                return True
            case "null":
                return None
            case _:
                return string_in(schema, name)

    def _object(self, schema: Mapping[str, Schema], depth: int) -> Value:
        properties = schema.get("properties")
        if not isinstance(properties, Mapping):
            properties = {}
        required = non_empty_list(schema, "required")
        names = [name for name in required if isinstance(name, str)]
        if depth < MAX_DEPTH and self._built < MAX_VALUES:
            names = list(dict.fromkeys([*properties, *names]))
        return {n: self.value(properties.get(n), n, depth + 1) for n in names}

    def _array(self, schema: Mapping[str, Schema], name: str, depth: int) -> Value:
        wanted = min(whole(schema, "minItems", 0), MAX_ITEMS)
        if depth < MAX_DEPTH and self._built < MAX_VALUES:
            wanted = max(wanted, min(1, whole(schema, "maxItems", 1)))
        items = schema.get("items")
        return [self.value(items, name, depth + 1) for _ in range(wanted)]


def ending(branches: list[Schema]) -> Schema:
    """The branch by which a recursive schema ends, if it has one."""
    nulls = (b for b in branches if isinstance(b, Mapping) and b.get("type") == "null")
    return next(nulls, branches[0])


def type_of(schema: Mapping[str, Schema]) -> str:
    named = schema.get("type")
    if isinstance(named, list):
        # Nullable types list "null" somewhere; a real value is the better example.
        named = next((one for one in named if one != "null"), "null")
    if isinstance(named, str):
        return named
    hints: dict[str, Callable[[], bool]] = {
        "object": lambda: "properties" in schema or "required" in schema,
        "array": lambda: "items" in schema,
        "number": lambda: "minimum" in schema or "maximum" in schema,
    }
    return next((kind for kind, holds in hints.items() if holds()), "string")


def lookup(root: Schema, reference: str) -> Schema:
    """What a local JSON pointer such as `#/$defs/Node` points at; `{}` if nothing."""
    target = root
    for step in reference.removeprefix("#").strip("/").split("/"):
        if not step:
            continue
        key = step.replace("~1", "/").replace("~0", "~")
        if not isinstance(target, Mapping) or key not in target:
            return {}
        target = target[key]
    return target


def merged(schema: Mapping[str, Schema], *others: Schema) -> dict[str, Schema]:
    """`schema` with its combinators and reference replaced by what they lead to."""
    replaced = ("$ref", "anyOf", "oneOf", "allOf")
    whole_schema = {key: v for key, v in schema.items() if key not in replaced}
    for other in others:
        if isinstance(other, Mapping):
            properties = {
                **mapping(whole_schema, "properties"),
                **mapping(other, "properties"),
            }
            whole_schema |= other
            if properties:
                whole_schema["properties"] = properties
    return whole_schema


def mapping(schema: Mapping[str, Schema], key: str) -> Mapping[str, Schema]:
    found = schema.get(key)
    return found if isinstance(found, Mapping) else {}


def non_empty_list(schema: Mapping[str, Schema], key: str) -> list[Schema]:
    found = schema.get(key)
    return found if isinstance(found, list) else []


def whole(schema: Mapping[str, Schema], key: str, default: int) -> int:
    found = schema.get(key)
    return found if isinstance(found, int) and found >= 0 else default


def number_in(schema: Mapping[str, Schema], preferred: float) -> float:
    low, high = bound(schema, "minimum"), bound(schema, "maximum")
    above, below = bound(schema, "exclusiveMinimum"), bound(schema, "exclusiveMaximum")
    if above is not None:
        low = above + 1 if below is None or above + 1 < below else (above + below) / 2
    if below is not None:
        high = below - 1 if low is None or below - 1 >= low else low
    if low is not None and preferred < low:
        preferred = math.ceil(low) if high is None or math.ceil(low) <= high else low
    if high is not None and preferred > high:
        preferred = high
    return preferred


def bound(schema: Mapping[str, Schema], key: str) -> float | None:
    found = schema.get(key)
    # Draft 4 wrote `exclusiveMinimum: true` beside a minimum.
    if isinstance(found, bool) or not isinstance(found, int | float):
        return None
    return found


def string_in(schema: Mapping[str, Schema], name: str) -> str:
    given = schema.get("format")
    text = FORMATS.get(given, name) if isinstance(given, str) else name
    shortest = min(whole(schema, "minLength", 0), MAX_LENGTH)
    longest = whole(schema, "maxLength", MAX_LENGTH)
    return text.ljust(shortest, "x")[:longest]
