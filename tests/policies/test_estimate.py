"""How many tokens are expected, and how expectations learn."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.estimate import (
    PRIOR_OUTPUT_TOKENS,
    TOKENS_PER_IMAGE,
    TOKENS_PER_MESSAGE,
    TOKENS_PER_REPLY,
    OutputEstimator,
    estimate_input_tokens,
    estimate_text_tokens,
    estimate_usage,
    split_total,
)
from policies.ledger import Usage
from policies.plans import Plan, RequestBounds

OPEN = Plan(plan="open")


def bounded(max_output_tokens: int) -> Plan:
    return Plan(
        plan="bounded", request=RequestBounds(max_output_tokens=max_output_tokens)
    )


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        pytest.param("", 0, id="empty"),
        pytest.param("a", 1, id="one-rounds-up"),
        pytest.param("abcd", 1, id="four"),
        pytest.param("abcde", 2, id="five"),
        pytest.param("漢字", 2, id="one-each-for-cjk"),
        pytest.param("é", 1, id="two-bytes"),
        pytest.param("😀", 2, id="four-bytes"),
        pytest.param("abc漢", 2, id="mixed-adds-before-rounding"),
        pytest.param("\ud800", 1, id="lone-surrogate"),
    ],
)
def test_text_is_estimated(text: str, tokens: int) -> None:
    assert estimate_text_tokens(text) == tokens


@given(st.text())
def test_estimate_is_what_counting_characters_would_give(text: str) -> None:
    ascii_chars = sum(character < "\x80" for character in text)
    other_bytes = len(text.encode("utf-8", "surrogatepass")) - ascii_chars

    assert estimate_text_tokens(text) == -(-(ascii_chars * 3 + other_bytes * 4) // 12)


@pytest.mark.parametrize("character", ["a", "é", "漢", "aé"])
def test_long_prompt_is_estimated_without_looping_in_python(character: str) -> None:
    text = character * (1024 * 1024 // len(character.encode()))

    fastest_s = min(time_of(text) for _ in range(5))

    # 1 to 2 ms on an idle core; a loop over the characters needs 40 and more.
    assert fastest_s < 0.02


def time_of(text: str) -> float:
    started = time.perf_counter()
    estimate_text_tokens(text)
    return time.perf_counter() - started


def test_prompt_is_its_texts_and_what_is_around_them() -> None:
    expected = 1 + 2 + 2 * TOKENS_PER_MESSAGE + TOKENS_PER_REPLY + 3 * TOKENS_PER_IMAGE

    assert estimate_input_tokens(1 + 2, messages=2, images=3) == expected


def test_reservation_counts_every_choice() -> None:
    assert estimate_usage(100, 50, choices=3) == Usage(requests=1, tokens=250)


@given(st.integers(0, 2**40), st.integers(-5, 2**40), st.integers(-5, 2**40))
def test_split_adds_up_and_leaves_some_input(
    total: int, input_estimate: int, output_estimate: int
) -> None:
    input_tokens, output_tokens = split_total(total, input_estimate, output_estimate)

    assert input_tokens + output_tokens == total
    assert output_tokens >= 0
    assert input_tokens >= min(total, 1)


@pytest.mark.parametrize(
    ("total", "estimates", "split"),
    [
        pytest.param(100, (30, 10), (75, 25), id="proportional"),
        pytest.param(3, (1, 1), (2, 1), id="half-rounds-to-input"),
        pytest.param(100, (0, 10), (1, 99), id="input-is-never-nothing"),
        pytest.param(100, (0, 0), (100, 0), id="nothing-known"),
        pytest.param(0, (5, 5), (0, 0), id="nothing-used"),
        pytest.param(-7, (5, 5), (0, 0), id="nonsense"),
    ],
)
def test_split_is_proportional(
    total: int, estimates: tuple[int, int], split: tuple[int, int]
) -> None:
    assert split_total(total, *estimates) == split


def test_unknown_pair_is_expected_to_use_the_documented_default() -> None:
    assert OutputEstimator().expect("w", "m", OPEN) == PRIOR_OUTPUT_TOKENS


def test_expectation_never_exceeds_what_the_plan_allows() -> None:
    assert OutputEstimator().expect("w", "m", bounded(300)) == 300


def test_first_answers_cannot_lower_the_expectation() -> None:
    estimator = OutputEstimator()

    for _ in range(4):
        estimator.learn("w", "m", 10)

    assert estimator.expect("w", "m", OPEN) == PRIOR_OUTPUT_TOKENS


def test_long_answer_raises_the_expectation_at_once() -> None:
    estimator = OutputEstimator()

    estimator.learn("w", "m", 5000)

    assert estimator.expect("w", "m", OPEN) == 5000


def test_workspaces_and_models_are_learned_apart() -> None:
    estimator = OutputEstimator()

    for _ in range(10):
        estimator.learn("w", "m", 10)

    assert estimator.expect("w", "m", OPEN) == 10
    assert estimator.expect("w", "other", OPEN) == PRIOR_OUTPUT_TOKENS
    assert estimator.expect("other", "m", OPEN) == PRIOR_OUTPUT_TOKENS


@pytest.mark.parametrize("seed", range(5))
def test_expectation_covers_nineteen_of_twenty_answers(seed: int) -> None:
    answers = random.Random(seed)
    estimator = OutputEstimator()
    covered = 0

    for _ in range(5000):
        tokens = int(answers.lognormvariate(5, 1))
        covered += tokens <= estimator.expect("w", "m", OPEN)
        estimator.learn("w", "m", tokens)

    assert 0.93 < covered / 5000 < 0.97


def test_expectation_follows_a_workload_that_changes() -> None:
    answers = random.Random(1)
    estimator = OutputEstimator()

    for _ in range(1000):
        estimator.learn("w", "m", answers.randint(900, 1000))
    for _ in range(60):
        estimator.learn("w", "m", answers.randint(9000, 10_000))
    risen = estimator.expect("w", "m", OPEN)
    for _ in range(2000):
        estimator.learn("w", "m", answers.randint(90, 100))

    assert risen > 8000
    assert estimator.expect("w", "m", OPEN) < 200


def test_expectation_rises_again_after_empty_answers() -> None:
    estimator = OutputEstimator()

    for _ in range(10_000):
        estimator.learn("w", "m", 0)
    assert estimator.expect("w", "m", OPEN) == 1
    for _ in range(200):
        estimator.learn("w", "m", 500)

    assert 450 < estimator.expect("w", "m", OPEN) < 550


def test_pair_not_used_for_longest_is_forgotten() -> None:
    estimator = OutputEstimator(max_pairs=2)
    for model in "abc":
        for _ in range(10):
            estimator.learn("w", model, 10)
            # Asking keeps the first one fresh.
            estimator.expect("w", "a", OPEN)

    assert len(estimator) == 2
    assert estimator.expect("w", "a", OPEN) == 10
    assert estimator.expect("w", "b", OPEN) == PRIOR_OUTPUT_TOKENS
