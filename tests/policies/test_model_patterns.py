"""Which model ids a pattern names."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.model_patterns import find_pattern_problem, matches_any
from policies.plans import Plan


@pytest.mark.parametrize(
    ("pattern", "model", "is_match"),
    [
        pytest.param("*", "anything/at-all", True, id="star"),
        pytest.param("*", "", True, id="star-empty"),
        pytest.param("gpt-4o", "gpt-4o", True, id="exact"),
        pytest.param("gpt-4o", "gpt-4o-mini", False, id="exact-is-no-prefix"),
        pytest.param("gpt-4o", "GPT-4o", False, id="case"),
        pytest.param("meta/*", "meta/llama-3/70b", True, id="star-crosses-slashes"),
        pytest.param("meta/*", "meta/", True, id="star-of-nothing"),
        pytest.param("meta/*", "metal/x", False, id="prefix"),
        pytest.param("*-mini", "openai/gpt-4o-mini", True, id="suffix"),
        pytest.param("*-mini", "gpt-4o-mini-2024", False, id="suffix-only"),
        pytest.param("a*b*c", "a-b-c", True, id="embedded"),
        pytest.param("a*b*c", "a-c-b", False, id="embedded-order"),
        pytest.param("aa*aa", "aaa", False, id="ends-do-not-overlap"),
        pytest.param("a*b*b", "ab", False, id="middle-and-end-do-not-overlap"),
        pytest.param("gpt-4.1", "gpt-4x1", False, id="dot-is-a-dot"),
    ],
)
def test_pattern_names_model(pattern: str, model: str, is_match: bool) -> None:
    assert matches_any([pattern], model) is is_match


@given(
    pattern=st.text("ab/*", max_size=8),
    model=st.text("ab/", max_size=10),
)
def test_pattern_matches_as_a_regular_expression_would(
    pattern: str, model: str
) -> None:
    expression = ".*".join(map(re.escape, pattern.split("*")))

    assert matches_any([pattern], model) is bool(re.fullmatch(expression, model))


def test_plan_allows_a_model_that_any_of_its_patterns_names() -> None:
    plan = Plan(plan="p", models=("gpt-4o", "meta/*"))

    assert matches_any(plan.models, "gpt-4o")
    assert matches_any(plan.models, "meta/llama")
    assert not matches_any(plan.models, "mistral")


def test_pattern_of_many_stars_against_a_long_id_is_fast() -> None:
    assert find_pattern_problem("*a*a*a*b") is None

    started = time.perf_counter()
    matches_any(["*a*a*a*b"], "a" * 100_000)

    assert time.perf_counter() - started < 0.1
