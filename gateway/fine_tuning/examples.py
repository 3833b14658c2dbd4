"""Training files: whether every line is an example to learn from."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from gateway.fine_tuning.record import JobError

# Checked beside the event loop, so many bytes at a time.
CHECKED_TOGETHER: Final = 1024 * 1024
# As much as any line takes, besides what it says, until it is checked.
_LINE_OVERHEAD: Final = 256
MAX_LINE_BYTES: Final = 8 * 1024 * 1024
MAX_COMPLAINT_CHARS: Final = 200
_PARAM: Final = "training_file"


class _Message(msgspec.Struct, frozen=True):
    role: Literal["developer", "system", "user", "assistant", "tool", "function"]
    content: Any = None
    tool_calls: Any = None
    function_call: Any = None


class _Example(msgspec.Struct, frozen=True):
    messages: Annotated[list[_Message], Meta(min_length=1)]


_decode: Final = msgspec.json.Decoder(_Example).decode


async def find_problem(lines: AsyncIterator[bytes]) -> JobError | None:
    """What is wrong with the first wrong line; None if nothing is."""
    count = number = size = 0
    together: list[tuple[int, bytes]] = []
    async for line in lines:
        number += 1
        if not line.strip():
            continue
        count += 1
        size += len(line) + _LINE_OVERHEAD
        together.append((number, line))
        if size >= CHECKED_TOGETHER:
            problem = await asyncio.to_thread(_first_problem, together)
            if problem is not None:
                return problem
            together, size = [], 0
    if count == 0:
        return JobError("empty_file", "The training file has no example.", _PARAM)
    return await asyncio.to_thread(_first_problem, together)


def _first_problem(lines: list[tuple[int, bytes]]) -> JobError | None:
    for number, raw in lines:
        problem = _problem_of(raw)
        if problem is not None:
            message = f"Line {number} of the training file is no example: {problem}"
            return JobError("invalid_training_file", message, _PARAM)
    return None


def _problem_of(raw: bytes) -> str | None:
    if len(raw) > MAX_LINE_BYTES:
        return f"it is longer than {MAX_LINE_BYTES} bytes."
    try:
        example = _decode(raw)
    except msgspec.ValidationError as error:
        return f"{str(error)[:MAX_COMPLAINT_CHARS]}."
    except (ValueError, RecursionError):
        return "it is not valid JSON."
    if not any(map(_is_answer, example.messages)):
        return "no message is an assistant's answer, and nothing can be learned."
    return None


def _is_answer(message: _Message) -> bool:
    said = message.content or message.tool_calls or message.function_call
    return message.role == "assistant" and bool(said)
