"""Structured output: schemas in, values out."""

# misc: to mypy, which has no pydantic here, its classes are Any.
# mypy: disable-error-code="import-not-found,misc"

from __future__ import annotations

import json

from openai import LengthFinishReasonError, pydantic_function_tool
from pydantic import BaseModel

from tests.clients.python.scenario import (
    HELLO,
    MODEL,
    ask,
    caught,
    connect,
    same,
    scenario,
)


class Day(BaseModel):
    sky: str
    degrees: float


class Forecast(BaseModel):
    city: str
    days: list[Day]


@scenario
def json_object() -> None:
    answer = ask(connect(), response_format={"type": "json_object"})

    assert isinstance(json.loads(answer.choices[0].message.content), dict)


@scenario
def parse() -> None:
    answer = connect().chat.completions.parse(
        model=MODEL, messages=HELLO, response_format=Forecast
    )

    message = answer.choices[0].message
    assert isinstance(message.parsed, Forecast)
    same(message.parsed, Forecast.model_validate_json(message.content))


@scenario
def parse_streamed() -> None:
    client = connect()

    with client.chat.completions.stream(
        model=MODEL, messages=HELLO, response_format=Forecast
    ) as stream:
        final = stream.get_final_completion()

    assert isinstance(final.choices[0].message.parsed, Forecast)


@scenario
def parse_tool_arguments() -> None:
    answer = connect().chat.completions.parse(
        model=MODEL, messages=HELLO, tools=[pydantic_function_tool(Forecast)]
    )

    (call,) = answer.choices[0].message.tool_calls
    assert isinstance(call.function.parsed_arguments, Forecast)


@scenario
def parse_cut_off() -> None:
    client = connect()

    caught(
        LengthFinishReasonError,
        client.chat.completions.parse,
        model=MODEL,
        messages=HELLO,
        response_format=Forecast,
        max_tokens=2,
    )
