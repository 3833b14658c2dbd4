from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.simulator.examples import example_of

NODE = {
    "type": "object",
    "properties": {"next": {"anyOf": [{"$ref": "#/$defs/N"}, {"type": "null"}]}},
    "required": ["next"],
}


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        pytest.param({"type": "string"}, "value", id="string"),
        pytest.param({"type": "string", "format": "date"}, "2026-01-15", id="format"),
        pytest.param({"type": "string", "minLength": 7}, "valuexx", id="min-length"),
        pytest.param({"type": "string", "maxLength": 2}, "va", id="max-length"),
        pytest.param({"enum": ["b", "a"]}, "b", id="enum"),
        pytest.param({"const": 7}, 7, id="const"),
        pytest.param({"type": "integer", "minimum": 40}, 40, id="minimum"),
        pytest.param({"type": "integer", "maximum": -4}, -4, id="maximum"),
        pytest.param({"type": "integer", "exclusiveMinimum": 5}, 6, id="exclusive"),
        pytest.param({"type": ["null", "boolean"]}, True, id="nullable"),
        pytest.param({"type": "null"}, None, id="null"),
        pytest.param(
            {"type": "array", "items": {"type": "integer"}, "minItems": 2},
            [1, 1],
            id="array",
        ),
        pytest.param({"allOf": [{"type": "integer"}, {"minimum": 9}]}, 9, id="all-of"),
        pytest.param(
            {"$ref": "#/$defs/A", "$defs": {"A": {"const": 1}}}, 1, id="reference"
        ),
        pytest.param(True, "value", id="anything"),
    ],
)
def test_example_satisfies_its_schema(schema: Any, value: Any) -> None:
    assert value == example_of(schema)


def test_example_between_two_exclusive_bounds_is_between_them() -> None:
    example = example_of(
        {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}
    )

    assert 0 < example < 1


def test_example_has_every_property_named_for_it() -> None:
    properties = {"city": {"type": "string"}, "days": {"type": "integer"}}

    assert example_of({"properties": properties}) == {"city": "city", "days": 1}


@pytest.mark.parametrize(
    "schema",
    [
        pytest.param({"$ref": "#"}, id="refers-to-itself"),
        pytest.param({**NODE, "$defs": {"N": NODE}}, id="list-node"),
        pytest.param(
            {
                "properties": {str(n): {"$ref": "#"} for n in range(20)},
                "required": [str(n) for n in range(20)],
            },
            id="exponential",
        ),
        pytest.param(
            {"type": "array", "minItems": 10**9, "items": {"$ref": "#"}}, id="endless"
        ),
    ],
)
def test_example_of_an_endless_schema_is_bounded(schema: Any) -> None:
    assert len(json.dumps(example_of(schema))) < 1_000_000
