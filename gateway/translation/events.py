"""
One upstream stream event of any form, read into what it adds to the answer.

OpenAI chunks (`choices[].delta`), or small objects that carry `text`, `token` or
`delta`.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from gateway.errors import UpstreamError
from gateway.translation.answer import to_finish_reason, to_index
from gateway.translation.faults import error_in_answer

_decode: Final = msgspec.json.Decoder().decode

DONE: Final = b"[DONE]"

# In this order: where an event has several, the first is what the others repeat.
_TEXT_NAMES: Final = ("text", "token", "delta", "content")
_FINISH_NAMES: Final = ("finish_reason", "finishReason", "stop_reason")


class Piece(msgspec.Struct):
    """What one event adds to one choice."""

    index: int = 0
    text: str = ""
    # Other members of an OpenAI delta: tool_calls, refusal, reasoning_content...
    extras: dict[str, Any] = {}
    logprobs: dict[str, Any] | None = None
    finish_reason: str | None = None


class Event(msgspec.Struct):
    """One event, freed from its form."""

    pieces: list[Piece]
    # The event itself where it reports usage, for `usage.reported_usage`.
    reported: dict[str, Any] | None = None
    model: str | None = None


def read_event(data: bytes) -> Event:
    """Read an event's data, or raise UpstreamError for an error or garbage."""
    try:
        said = _decode(data)
    except (ValueError, RecursionError):
        raise UpstreamError("The upstream sent an event that is not JSON.") from None
    if not isinstance(said, dict):
        raise UpstreamError("The upstream sent an event that is not an object.")
    if said.get("error"):
        raise error_in_answer(said)
    model = said.get("model")
    choices = said.get("choices")
    if choices is None:
        pieces = _pieces_of_small(said)
    elif isinstance(choices, list):
        pieces = [_piece_of_choice(c, i) for i, c in enumerate(choices)]
    else:
        raise UpstreamError("The upstream sent an event whose choices are no array.")
    return Event(
        pieces, _reported(said, pieces), model if isinstance(model, str) else None
    )


def _reported(said: dict[str, Any], pieces: list[Piece]) -> dict[str, Any] | None:
    if isinstance(said.get("usage"), dict):
        return said
    # A bare `tokens` beside text counts that piece; at the end it counts the answer.
    is_end = not any(piece.text for piece in pieces)
    return said if is_end and "tokens" in said else None


def _piece_of_choice(choice: Any, position: int) -> Piece:
    if not isinstance(choice, dict):
        raise UpstreamError("The upstream sent a choice that is not an object.")
    delta = choice.get("delta")
    if not isinstance(delta, dict):
        message = choice.get("message")
        delta = (
            message if isinstance(message, dict) else {"content": choice.get("text")}
        )
    index, text = choice.get("index"), delta.get("content")
    logprobs = choice.get("logprobs")
    return Piece(
        index=to_index(index, position),
        text=text if isinstance(text, str) else "",
        extras={
            k: v
            for k, v in delta.items()
            if k not in {"role", "content"} and v is not None
        },
        logprobs=logprobs if isinstance(logprobs, dict) else None,
        finish_reason=to_finish_reason(choice.get("finish_reason")),
    )


def _pieces_of_small(said: dict[str, Any]) -> list[Piece]:
    text = next((t for t in map(said.get, _TEXT_NAMES) if t is not None), "")
    if isinstance(text, dict):
        text = text.get("text", text.get("content"))
    reason = next((r for r in map(said.get, _FINISH_NAMES) if r), None)
    if reason is None and said.get("done") is True:
        reason = "stop"
    if not isinstance(text, str):
        text = ""
    if not text and reason is None:
        return []
    return [Piece(text=text, finish_reason=to_finish_reason(reason))]
