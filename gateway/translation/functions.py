"""
`functions` and `function_call`, which OpenAI has deprecated and clients still send.

LLMTune knows only `tools`: functions go up as tools, and a tool call comes back as the
one function call that such clients can read.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from gateway.schemas.openai import (
    AssistantMessage,
    ChatRequest,
    FunctionMessage,
)

_encode: Final = msgspec.json.Encoder().encode
_raw_list: Final = msgspec.json.Decoder(list[msgspec.Raw])


def with_tools(request: ChatRequest, fields: dict[str, msgspec.Raw]) -> None:
    """Put tools in place of the functions in a body that goes upstream."""
    functions = _raw_list.decode(fields.pop("functions"))
    tools = [{"type": "function", "function": function} for function in functions]
    fields["tools"] = msgspec.Raw(_encode(tools))
    choice = request.function_call
    fields.pop("function_call", None)
    if isinstance(choice, dict):
        choice = {"type": "function", "function": choice}
    if choice is not None:
        fields["tool_choice"] = msgspec.Raw(_encode(choice))


def with_tool_messages(
    message: AssistantMessage | FunctionMessage, fields: dict[str, Any]
) -> None:
    """Put a tool call, or its result, in place of a function's in one message."""
    if isinstance(message, FunctionMessage):
        fields |= {"role": "tool", "tool_call_id": _call_id(message.name)}
        fields.pop("name", None)
    elif message.function_call is not None:
        called = fields.pop("function_call")
        call_id = _call_id(message.function_call.name)
        fields["tool_calls"] = [{"id": call_id, "type": "function", "function": called}]


def _call_id(name: str) -> str:
    # Functions have no ids: the name ties a result to its call, as it did for OpenAI.
    return f"call_{name}"


def as_function_call(message: dict[str, Any]) -> None:
    """Put a function call in place of the tool calls of a whole message."""
    calls = [c for c in message.pop("tool_calls", ()) if c["type"] == "function"]
    if calls:
        message["function_call"] = calls[0]["function"]


def as_function_delta(delta: dict[str, Any]) -> None:
    """The same for a piece of one: the first call's pieces, and no other's."""
    for call in delta.pop("tool_calls", ()):
        if call["index"] == 0 and "function" in call:
            delta["function_call"] = call["function"]


def as_function_reason(finish_reason: str | None) -> str | None:
    return "function_call" if finish_reason == "tool_calls" else finish_reason
