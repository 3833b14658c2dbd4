"""Streamed chat completions, raw and by the helper."""

# mypy: disable-error-code="import-not-found"

from __future__ import annotations

from typing import Any

from tests.clients.python.scenario import (
    HELLO,
    MODEL,
    SLOW_URL,
    ask,
    check_usage,
    connect,
    same,
    scenario,
    text_of,
)


def check_form(chunks: list[Any]) -> None:
    """The form that every client needs: one identity, one role, one end a choice."""
    identities = {(c.id, c.created, c.model, c.object) for c in chunks}
    same(1, len(identities))
    same("chat.completion.chunk", chunks[0].object)
    choices = [choice for chunk in chunks for choice in chunk.choices]
    for index in {choice.index for choice in choices}:
        mine = [choice for choice in choices if choice.index == index]
        same(["assistant"], [c.delta.role for c in mine if c.delta.role])
        same("assistant", mine[0].delta.role)
        same(1, len([c for c in mine if c.finish_reason]))
        assert mine[-1].finish_reason


@scenario
def stream() -> None:
    client = connect()

    chunks = list(ask(client, stream=True))

    check_form(chunks)
    same(ask(client).choices[0].message.content, text_of(chunks))
    same("stop", chunks[-1].choices[0].finish_reason)
    assert all(chunk.usage is None for chunk in chunks)


@scenario
def stream_with_usage() -> None:
    options = {"include_usage": True}

    *chunks, last = ask(connect(), stream=True, stream_options=options)

    check_form(chunks)
    assert all(chunk.usage is None for chunk in chunks)
    same([], last.choices)
    check_usage(last.usage)


@scenario
def stream_helper() -> None:
    client = connect()

    with client.chat.completions.stream(
        model=MODEL, messages=HELLO, stream_options={"include_usage": True}
    ) as stream:
        events = list(stream)
        final = stream.get_final_completion()

    content = final.choices[0].message.content
    deltas = [event.delta for event in events if event.type == "content.delta"]
    same(content, "".join(deltas))
    same([content], [e.content for e in events if e.type == "content.done"])
    same(ask(client).choices[0].message.content, content)
    same("stop", final.choices[0].finish_reason)
    same("assistant", final.choices[0].message.role)
    check_usage(final.usage)


@scenario
def stream_helper_n() -> None:
    client = connect()

    with client.chat.completions.stream(model=MODEL, messages=HELLO, n=2) as stream:
        final = stream.get_final_completion()

    whole = ask(client, n=2)
    same(
        [choice.message.content for choice in whole.choices],
        [choice.message.content for choice in final.choices],
    )


@scenario
def stream_through_pings() -> None:
    client = connect(base_url=SLOW_URL)
    with client.chat.completions.with_streaming_response.create(
        model=MODEL, messages=HELLO, stream=True
    ) as response:
        lines = [line for line in response.iter_lines() if line]
    # Without them this scenario would prove nothing.
    assert any(line.startswith(":") for line in lines)

    chunks = list(ask(client, stream=True))

    check_form(chunks)
    same(ask(client).choices[0].message.content, text_of(chunks))


@scenario
def streaming_response() -> None:
    client = connect()

    with client.chat.completions.with_streaming_response.create(
        model=MODEL, messages=HELLO, stream=True
    ) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        chunks = list(response.parse())

    check_form(chunks)
