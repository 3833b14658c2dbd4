"""The inference and playground routes, in every generation and stream form."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.simulator.text import count_tokens

from .harness import INFERENCE, MODEL, content_of, objects_of, simulated

ASK = {"prompt": "Hello there", "metadata": {"trace": [1, "a"]}}


async def test_inference_answers_generation_1() -> None:
    """The seed's answer: text, one total of tokens, model, latency, metadata."""
    async with simulated(ttft_ms=5) as (_, client):
        answer = (await client.post(INFERENCE, json=ASK)).json()

    assert list(answer) == ["text", "tokens", "model", "latency", "metadata"]
    assert count_tokens(answer["text"]) + 2 == answer["tokens"]
    assert (answer["model"], answer["latency"]) == (MODEL, 5)
    assert ASK["metadata"] == answer["metadata"]


async def test_inference_answers_generation_2() -> None:
    """The second generation counts input and output apart."""
    async with simulated(generation=2) as (_, client):
        answer = (await client.post(INFERENCE, json=ASK)).json()

    written = count_tokens(answer["text"])
    assert {"input": 2, "output": written} == answer["tokens"]


async def test_inference_answers_generation_3() -> None:
    """The third generation has OpenAI's usage and choices."""
    async with simulated(generation=3) as (_, client):
        answer = (await client.post(INFERENCE, json=ASK)).json()

    assert {"id", "model", "usage", "choices", "metadata"} == set(answer)
    choice = answer["choices"][0]
    written = count_tokens(choice["message"]["content"])
    assert (choice["index"], choice["finish_reason"]) == (0, "stop")
    assert {
        "prompt_tokens": 2,
        "completion_tokens": written,
        "total_tokens": written + 2,
    } == answer["usage"]


async def test_metadata_not_given_is_echoed_as_null() -> None:
    """Metadata defaults to null, as published."""
    async with simulated() as (_, client):
        answer = (await client.post(INFERENCE, json={"prompt": "Hi"})).json()

    assert answer["metadata"] is None


async def test_text_is_the_same_from_every_simulator_and_generation() -> None:
    """Two simulators with equal seeds say the same, whatever the generation."""
    async with simulated() as (_, first), simulated(generation=3) as (_, second):
        one = (await first.post(INFERENCE, json=ASK)).json()
        other = (await second.post(INFERENCE, json=ASK)).json()

    assert one["text"] == other["choices"][0]["message"]["content"]


async def test_model_id_may_have_its_slashes_escaped() -> None:
    """%2F and / name the same model."""
    path = INFERENCE.replace(MODEL, MODEL.replace("/", "%2F"))
    async with simulated() as (_, client):
        answer = (await client.post(path, json=ASK)).json()

    assert answer["model"] == MODEL


@pytest.mark.parametrize("field", ["maxTokens", "max_tokens"])
async def test_either_spelling_of_max_tokens_bounds_the_answer(field: str) -> None:
    """maxTokens and max_tokens are the same field."""
    async with simulated(generation=3) as (_, client):
        answer = (await client.post(INFERENCE, json={**ASK, field: 3})).json()

    assert answer["usage"]["completion_tokens"] == 3
    assert answer["choices"][0]["finish_reason"] == "length"


async def test_messages_are_as_good_as_a_prompt() -> None:
    """Messages with one text are answered like that text as a prompt."""
    messages = [{"role": "user", "content": [{"type": "text", "text": "Hello there"}]}]
    async with simulated() as (_, client):
        by_prompt = (await client.post(INFERENCE, json=ASK)).json()
        by_messages = (await client.post(INFERENCE, json={"messages": messages})).json()

    assert by_prompt["text"] == by_messages["text"]


@pytest.mark.parametrize(
    ("requires", "given"), [("prompt", "messages"), ("messages", "prompt")]
)
async def test_missing_what_is_required_is_refused(requires: str, given: str) -> None:
    """Each generation of the route insists on its own field."""
    values: dict[str, Any] = {
        "prompt": "Hi",
        "messages": [{"role": "user", "content": "Hi"}],
    }
    async with simulated(requires=requires) as (_, client):
        refused = await client.post(INFERENCE, json={given: values[given]})
        taken = await client.post(INFERENCE, json={requires: values[requires]})

    assert (refused.status_code, taken.status_code) == (400, 200)
    assert {"field": requires} == refused.json()["error"]["details"]


async def test_stream_of_chunks_says_what_the_whole_answer_says() -> None:
    """OpenAI's chunks: role first, finish_reason last, the same text in between."""
    async with simulated() as (_, client):
        whole = (await client.post(INFERENCE, json=ASK)).json()
        answer = await client.post(INFERENCE, json={**ASK, "stream": True})

    chunks = objects_of(answer.text)
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert whole["text"] == content_of(chunks)


@pytest.mark.parametrize("form", ["text", "token", "delta"])
async def test_stream_of_small_objects_carries_the_text(form: str) -> None:
    """The other forms carry one token each under their own name."""
    async with simulated(stream_form=form) as (_, client):
        whole = (await client.post(INFERENCE, json=ASK)).json()
        answer = await client.post(INFERENCE, json={**ASK, "stream": True})

    events = objects_of(answer.text)
    assert all([form] == list(event) for event in events)
    assert whole["text"] == "".join(event[form] for event in events)


async def test_model_that_cannot_stream_answers_with_plain_json() -> None:
    """stream: true gets the whole answer, labelled as JSON."""
    async with simulated(stream_form="json") as (_, client):
        answer = await client.post(INFERENCE, json={**ASK, "stream": True})

    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["text"]


async def test_playground_answers_like_inference() -> None:
    """The playground takes the model in its body and answers the same."""
    async with simulated() as (_, client):
        inferred = await client.post(INFERENCE, json=ASK)
        played = await client.post(
            "/v1/playground/inference", json={"modelId": MODEL, **ASK}
        )

    assert inferred.json() == played.json()


async def test_answer_lengths_follow_their_knob() -> None:
    """--answer-tokens fixes the length when its ends are equal."""
    async with simulated(answer_tokens_min=700, answer_tokens_max=700) as (_, client):
        answer = (await client.post(INFERENCE, json=ASK)).json()

    assert answer["tokens"] == 702


async def test_pace_is_kept_by_whole_answers_and_streams() -> None:
    """Time to first token and tokens per second bound an answer's time from below."""
    knobs = {"ttft_ms": 50, "tokens_per_second": 100, "generation": 3}
    body = {**ASK, "maxTokens": 10}
    async with simulated(**knobs) as (_, client):
        whole = await client.post(INFERENCE, json=body)
        stream = await client.post(INFERENCE, json={**body, "stream": True})

    assert whole.elapsed.total_seconds() >= 0.15
    assert stream.elapsed.total_seconds() >= 0.15
