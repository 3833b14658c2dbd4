"""Tool calls, which LLMTune takes by its chat dialect."""

# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import json
from typing import Any, Final

from tests.clients.python.scenario import HELLO, MODEL, ask, connect, same, scenario
from tests.clients.python.streams import check_form

WEATHER: Final = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city", "days"],
        },
    },
}
CLOCK: Final = {
    "type": "function",
    "function": {
        "name": "get_time",
        "parameters": {
            "type": "object",
            "properties": {"zone": {"type": "string"}},
            "required": ["zone"],
        },
    },
}

QUERY: Final = {
    "type": "custom",
    "custom": {"name": "run_query", "description": "Runs a query, as plain text."},
}


def check_weather(call: Any) -> None:
    same("function", call.type)
    same("get_weather", call.function.name)
    same({"city", "days"}, set(json.loads(call.function.arguments)))
    assert call.id


@scenario
def tool_call() -> None:
    choice = ask(connect(), tools=[WEATHER]).choices[0]

    same("tool_calls", choice.finish_reason)
    (call,) = choice.message.tool_calls
    check_weather(call)


@scenario
def tool_call_streamed() -> None:
    client = connect()
    (whole,) = ask(client, tools=[WEATHER]).choices[0].message.tool_calls

    chunks = list(ask(client, tools=[WEATHER], stream=True))

    check_form(chunks)
    same("tool_calls", chunks[-1].choices[0].finish_reason)
    deltas = [call for c in chunks for call in c.choices[0].delta.tool_calls or ()]
    same({0}, {delta.index for delta in deltas})
    # Named once, or clients that join the pieces read "get_weatherget_weather".
    same([whole.id], [delta.id for delta in deltas if delta.id])
    same(["function"], [delta.type for delta in deltas if delta.type])
    names = [d.function.name for d in deltas if d.function.name]
    same(["get_weather"], names)
    same(whole.function.arguments, "".join(d.function.arguments for d in deltas))


@scenario
def tool_calls_parallel() -> None:
    answer = ask(connect(), tools=[WEATHER, CLOCK], parallel_tool_calls=True)

    first, second = answer.choices[0].message.tool_calls
    check_weather(first)
    same("get_time", second.function.name)
    assert first.id != second.id


@scenario
def tool_calls_parallel_streamed() -> None:
    client = connect()
    fields = {"tools": [WEATHER, CLOCK], "parallel_tool_calls": True}

    with client.chat.completions.stream(
        model=MODEL, messages=HELLO, **fields
    ) as stream:
        events = list(stream)
        final = stream.get_final_completion()

    done = [e for e in events if e.type == "tool_calls.function.arguments.done"]
    same(["get_weather", "get_time"], [event.name for event in done])
    whole = ask(client, **fields).choices[0].message.tool_calls
    built = final.choices[0].message.tool_calls
    same([call.id for call in whole], [call.id for call in built])
    same(
        [call.function.arguments for call in whole],
        [call.function.arguments for call in built],
    )
    same("tool_calls", final.choices[0].finish_reason)


@scenario
def tool_choice_named() -> None:
    named = {"type": "function", "function": {"name": "get_time"}}

    answer = ask(connect(), tools=[WEATHER, CLOCK], tool_choice=named)

    (call,) = answer.choices[0].message.tool_calls
    same("get_time", call.function.name)


@scenario
def tool_call_custom() -> None:
    choice = ask(connect(), tools=[QUERY]).choices[0]

    same("tool_calls", choice.finish_reason)
    (call,) = choice.message.tool_calls
    same(("custom", "run_query"), (call.type, call.custom.name))
    assert call.custom.input
    assert call.id


@scenario
def tool_round_trip() -> None:
    client = connect()
    first = ask(client, tools=[WEATHER]).choices[0].message
    result = {
        "role": "tool",
        "tool_call_id": first.tool_calls[0].id,
        "content": '{"sky": "clear"}',
    }

    # The message object itself goes back, its content null, as in OpenAI's own guide.
    last = ask(client, messages=[*HELLO, first, result], tools=[WEATHER]).choices[0]

    same("stop", last.finish_reason)
    assert last.message.content
