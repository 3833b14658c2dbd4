"""
What a span tells of request and answer bodies, and their text where that was asked for.

Read from the caller's side, where every route speaks OpenAI's words or LLMTune's own.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, TypeAlias

import msgspec

# Of each attribute with text: what collectors and backends still take.
MOST_TEXT: Final = 16 * 1024

# What an attribute can hold, since not every route looks at all of these: the exporter
# would log a traceback of any other. The outermost are beyond what msgspec checks.
Whole: TypeAlias = Annotated[int, msgspec.Meta(gt=-(2**63), lt=2**63 - 1)]


class Parameters(msgspec.Struct, kw_only=True):
    """What a request asks for, beside its text."""

    max_tokens: Whole | None = None
    max_completion_tokens: Whole | None = None
    max_tokens_camel: Whole | None = msgspec.field(default=None, name="maxTokens")
    temperature: float | None = None
    top_p: float | None = None
    top_k: float | None = None
    seed: Whole | None = None
    choices: Whole | None = msgspec.field(default=None, name="n")
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    # Empty unless text may be kept.
    text: str = msgspec.field(default="", name="")


class _Asked(msgspec.Struct):
    messages: list[dict[str, Any]] = []
    prompt: Any = None


class _Message(msgspec.Struct):
    content: Any = None


class _Choice(msgspec.Struct):
    finish_reason: str | None = None
    message: _Message | None = None
    delta: _Message | None = None
    text: str | None = None
    index: int = 0


class Answer(msgspec.Struct):
    """A whole answer, OpenAI's or LLMTune's own."""

    id: str | None = None
    model: str | None = None
    choices: list[_Choice] = []
    text: str | None = None


# The convention's words for how an answer ended of which nobody says it.
_WHOLE: Final = "stop"
_CUT: Final = "error"

_parameters: Final = msgspec.json.Decoder(Parameters)
_asked: Final = msgspec.json.Decoder(_Asked)
_answer: Final = msgspec.json.Decoder(Answer)
_encode: Final = msgspec.json.Encoder().encode

_ID: Final = re.compile(rb'"id":"([\x21\x23-\x5b\x5d-\x7e]{1,128})"')
_MODEL: Final = re.compile(rb'"model":"([\x20\x21\x23-\x5b\x5d-\x7e]{1,256})"')


def read_parameters(raw: bytes, *, keeps_text: bool) -> Parameters:
    """What a good body asks for; nothing where the gateway is more lenient than we."""
    try:
        found = _parameters.decode(raw)
        if keeps_text:
            found.text = _input_messages(_asked.decode(raw))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Parameters()
    return found


def read_answer(body: bytes) -> Answer:
    """A whole answer, as far as it is one."""
    try:
        return _answer.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Answer()


def read_head(frame: bytes) -> Answer:
    """Id and model of a stream, from its first frame."""
    found_id, found_model = _ID.search(frame), _MODEL.search(frame)
    return Answer(
        id=found_id.group(1).decode() if found_id else None,
        model=found_model.group(1).decode() if found_model else None,
    )


def _input_messages(asked: _Asked) -> str:
    if asked.messages:
        spoken = [(str(m.get("role")), m.get("content")) for m in asked.messages]
    else:
        spoken = [("user", asked.prompt)]
    return _encode(_messages(spoken)).decode()


def output_messages(answer: Answer) -> str:
    """A whole answer's text, in the convention's form."""
    if not answer.choices:
        return _output([(answer.text, _WHOLE)])
    return _output(
        [
            (
                choice.text if choice.message is None else choice.message.content,
                choice.finish_reason or _WHOLE,
            )
            for choice in answer.choices
        ]
    )


def streamed_messages(frames: list[bytes], reasons: list[str]) -> str:
    """
    The text of a stream's first frames, choice by choice.

    `reasons` are why choices ended, where that came after those frames.
    """
    texts: dict[int, str] = {}
    ends: dict[int, str] = {}
    for line in b"".join(frames).split(b"\n"):
        if not line.startswith(b"data: {"):
            continue
        # The last line may be cut.
        for choice in read_answer(line.removeprefix(b"data: ")).choices:
            text = choice.delta.content if choice.delta is not None else choice.text
            texts[choice.index] = texts.get(choice.index, "") + str(text or "")
            if choice.finish_reason:
                ends[choice.index] = choice.finish_reason
    last = reasons[-1] if reasons else _CUT
    return _output([(texts[at], ends.get(at, last)) for at in sorted(texts)])


def _output(spoken: list[tuple[Any, str]]) -> str:
    messages = _messages([("assistant", text) for text, _ in spoken])
    # Without a reason it is none of the convention's.
    for message, (_, reason) in zip(messages, spoken, strict=False):
        message["finish_reason"] = reason[:64]
    return _encode(messages).decode()


def _messages(spoken: list[tuple[str, Any]]) -> list[dict[str, Any]]:
    left = MOST_TEXT
    messages: list[dict[str, Any]] = []
    for role, content in spoken:
        parts = []
        for text in _texts(content):
            parts.append({"type": "text", "content": text[:left]})
            left -= len(text)
            if left <= 0:
                break
        messages.append({"role": role[:64], "parts": parts})
        if left <= 0:
            break
    return messages


def _texts(content: Any) -> list[str]:
    if isinstance(content, str):
        return [content]
    parts = content if isinstance(content, list) else []
    texts = [part.get("text") if isinstance(part, dict) else part for part in parts]
    # Images and the like are not text, and are left out.
    return [text for text in texts if isinstance(text, str)]
