"""
LLMTune's whole answers to OpenAI's: three generations and the chat shape in, one out.

What clients validate strictly is always present (`refusal`, `logprobs`, a finish reason
they know); what they do not know is passed through.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from gateway.errors import UpstreamError
from gateway.translation.faults import error_in_answer
from gateway.translation.functions import as_function_call, as_function_reason
from gateway.translation.port import Stamp, WholeAnswer
from gateway.translation.usage import TokenUsage, reported_usage
from policies.estimate import estimate_text_tokens

_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder().decode

FINISH_REASONS: Final = frozenset(
    {"stop", "length", "tool_calls", "content_filter", "function_call"}
)
# As many as a request may ask for; each one opens its predecessors in a stream.
MAX_CHOICES: Final = 128

# What other stacks say for the same; strict clients refuse a word they do not know.
_FINISH_ALIASES: Final = {
    "max_tokens": "length",
    "max_length": "length",
    "tool_use": "tool_calls",
    "tool_call": "tool_calls",
    "safety": "content_filter",
}


class Choice(msgspec.Struct):
    """One choice, freed from its generation."""

    index: int
    text: str | None
    finish_reason: str | None
    # The other members of an OpenAI message: tool_calls, refusal, reasoning_content...
    message: dict[str, Any] = {}
    logprobs: dict[str, Any] | None = None


def to_finish_reason(value: Any) -> str | None:
    """OpenAI's word for an upstream's finish reason; None if it gives none."""
    if not isinstance(value, str) or not value:
        return None
    word = value.lower()
    return word if word in FINISH_REASONS else _FINISH_ALIASES.get(word, "stop")


def to_index(value: Any, position: int) -> int:
    """A choice's index, or its position where the index is none."""
    is_index = isinstance(value, int) and not isinstance(value, bool)
    return value if is_index and 0 <= value < MAX_CHOICES else position


def decode_answer(body: bytes) -> dict[str, Any]:
    """The JSON object of an upstream answer, or UpstreamError."""
    try:
        answer = _decode(body)
    except (ValueError, RecursionError):
        raise UpstreamError("The upstream's answer is not valid JSON.") from None
    if not isinstance(answer, dict):
        raise UpstreamError("The upstream's answer is not a JSON object.")
    if answer.get("error"):
        raise error_in_answer(answer)
    return answer


def read_choices(answer: dict[str, Any]) -> list[Choice]:
    """The choices of an answer of any generation."""
    choices = answer.get("choices")
    if isinstance(choices, list):
        if not choices:
            raise UpstreamError("The upstream's answer has no choices.")
        read = [_read_choice(c, i) for i, c in enumerate(choices)]
        # SDKs find a choice by its place in the array, whatever its index says.
        return sorted(read, key=lambda choice: choice.index)
    text = answer.get("text")
    if isinstance(text, str):
        reason = answer.get("finish_reason", answer.get("finishReason"))
        return [Choice(0, text, to_finish_reason(reason))]
    raise UpstreamError("The upstream's answer has neither text nor choices.")


def _read_choice(choice: Any, position: int) -> Choice:
    if not isinstance(choice, dict):
        raise UpstreamError("A choice of the upstream's answer is not an object.")
    message = choice.get("message")
    if not isinstance(message, dict):
        # Older generations put the text beside the index, without a message.
        message = {"content": choice.get("text")}
    content = message.get("content")
    if content is not None and not isinstance(content, str):
        raise UpstreamError("A choice of the upstream's answer has no text.")
    logprobs = choice.get("logprobs")
    index = choice.get("index")
    return Choice(
        index=to_index(index, position),
        text=content,
        finish_reason=to_finish_reason(choice.get("finish_reason")),
        message=_other_members(message),
        logprobs=logprobs if isinstance(logprobs, dict) else None,
    )


def _other_members(message: dict[str, Any]) -> dict[str, Any]:
    others = {k: v for k, v in message.items() if k not in {"role", "content"}}
    if not isinstance(others.get("refusal"), str):
        others.pop("refusal", None)
    if "tool_calls" in others:
        calls = clean_tool_calls(others.pop("tool_calls"))
        if calls:
            others["tool_calls"] = calls
    return others


# Where each kind of tool call carries what the tool is called with.
CALLED_WITH: Final = {"function": "arguments", "custom": "input"}


def kind_of_call(call: dict[str, Any]) -> str:
    """Whose call this is; the pieces of a stream name no type."""
    return "custom" if isinstance(call.get("custom"), dict) else "function"


def clean_tool_calls(calls: Any) -> list[dict[str, Any]]:
    """Complete tool calls as strict clients want them; what is no call is dropped."""
    if not isinstance(calls, list):
        return []
    clean = []
    for position, call in enumerate(calls):
        if not isinstance(call, dict):
            continue
        kind = kind_of_call(call)
        called, field = call.get(kind), CALLED_WITH[kind]
        if not isinstance(called, dict) or not isinstance(called.get("name"), str):
            continue
        given = called.get(field)
        if not isinstance(given, str):
            # Some models answer arguments as an object; OpenAI's are always JSON text.
            empty = "{}" if kind == "function" else ""
            given = empty if given is None else _encode(given).decode()
        call_id = call.get("id")
        clean.append(
            {
                "id": call_id if isinstance(call_id, str) else f"call_{position}",
                "type": kind,
                kind: {"name": called["name"], field: given},
            }
        )
    return clean


def usage_of(
    answer: dict[str, Any], choices: list[Choice], input_estimate: int
) -> TokenUsage:
    """The usage of a whole answer, estimated where it is not reported."""

    def output_estimate() -> int:
        return sum(map(_estimated_tokens, choices))

    reported = reported_usage(answer, input_estimate, output_estimate)
    if reported is not None:
        return reported
    return TokenUsage(input_estimate, output_estimate(), is_reported=False)


def _estimated_tokens(choice: Choice) -> int:
    tokens = estimate_text_tokens(choice.text or "")
    if choice.message:
        tokens += estimate_text_tokens(_encode(choice.message).decode())
    return tokens


# What a text ends with that was not cut off; quotes and brackets may come after it.
_SENTENCE_ENDS: Final = (".", "!", "?", "\u3002", "```", "}", "]")
# Half of an estimate's usual error on both sides of the truth: nearer to 1 an answer
# that was cut passes for whole, much lower a short one for cut.
_NEARLY: Final = 0.75


def default_finish(choice: Choice, usage: TokenUsage, max_tokens: int | None) -> str:
    """
    The finish reason of an answer that names none.

    Where the tokens are our own estimate, an answer that nearly fills its limit counts
    as cut if it also ends in the middle of a sentence.
    """
    if choice.message.get("tool_calls"):
        return "tool_calls"
    if max_tokens is None:
        return "stop"
    is_full = usage.output_tokens >= max_tokens
    if not is_full and not usage.is_reported:
        is_nearly_full = usage.output_tokens >= _NEARLY * max_tokens
        ends_open = not _text_end(choice.text).endswith(_SENTENCE_ENDS)
        is_full = is_nearly_full and ends_open
    return "length" if is_full else "stop"


def _text_end(text: str | None) -> str:
    return (text or "")[-16:].rstrip().rstrip("\"')*_\u201d")


def to_chat_completion(
    body: bytes,
    stamp: Stamp,
    *,
    model: str,
    input_estimate: int,
    max_tokens: int | None,
    speaks_functions: bool = False,
) -> WholeAnswer:
    """
    An upstream answer as OpenAI's `chat.completion`.

    `speaks_functions` is for callers that know `function_call` and no tool calls.
    """
    answer = decode_answer(body)
    choices = read_choices(answer)
    usage = usage_of(answer, choices, input_estimate)
    for choice in choices:
        reason = choice.finish_reason or default_finish(choice, usage, max_tokens)
        choice.finish_reason = reason
        if speaks_functions:
            as_function_call(choice.message)
            choice.finish_reason = as_function_reason(reason)
    completion = {
        "id": stamp.answer_id,
        "object": "chat.completion",
        "created": stamp.created_s,
        "model": answered_model(answer, model),
        "choices": [
            {
                "index": choice.index,
                "message": {
                    "role": "assistant",
                    "content": choice.text,
                    "refusal": None,
                    **choice.message,
                },
                "logprobs": choice.logprobs,
                "finish_reason": choice.finish_reason,
            }
            for choice in choices
        ],
        "usage": usage.to_openai(),
        **carried_members(answer),
    }
    return WholeAnswer(_encode(completion), usage)


def answered_model(answer: dict[str, Any], asked: str) -> str:
    """The model the upstream says it used, or the one that was asked for."""
    model = answer.get("model")
    return model if isinstance(model, str) and model else asked


def carried_members(answer: dict[str, Any]) -> dict[str, Any]:
    """Optional top-level members of OpenAI's answer that are passed through as sent."""
    carried: dict[str, Any] = {}
    for name in ("system_fingerprint", "service_tier"):
        if isinstance(answer.get(name), str):
            carried[name] = answer[name]
    if isinstance(answer.get("metadata"), dict):
        carried["metadata"] = answer["metadata"]
    return carried
