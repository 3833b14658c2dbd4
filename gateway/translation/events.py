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

# With one of these a small event may say more than its text; null and false say
# nothing.
_TELLING: Final = frozenset({"usage", "done", *_FINISH_NAMES})
_NO_EXTRAS: Final = frozenset({"role", "content"})


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


def decode_event(data: bytes) -> dict[str, Any]:
    """An event's data, or UpstreamError for an error or garbage."""
    try:
        said = _decode(data)
    except (ValueError, RecursionError):
        raise UpstreamError("The upstream sent an event that is not JSON.") from None
    if not isinstance(said, dict):
        raise UpstreamError("The upstream sent an event that is not an object.")
    if said.get("error"):
        raise error_in_answer(said)
    return said


def plain_text_of(said: dict[str, Any]) -> str | None:
    """
    The text of an event that adds some to the first choice and says nothing else.

    Nearly all events of a stream do only that, and are told in 0.5 us, where reading
    one takes 3. None where there may be more: `read_event` reads every event.
    """
    if len(said) == 1:
        # LLMTune's own form, and the commonest: 0.5 us less.
        ((name, only),) = said.items()
        if name in _TEXT_NAMES and type(only) is str:
            return only or None
    choices = said.get("choices")
    if choices is None:
        text = None if _is_telling(said) else _text_of_small(said)
    elif isinstance(choices, list) and len(choices) == 1 and said.get("usage") is None:
        text = _plain_text_of_choice(choices[0])
    else:
        return None
    return text if isinstance(text, str) and text else None


def _is_telling(said: dict[str, Any]) -> bool:
    # The first look is one call into C, and most events end there.
    return not _TELLING.isdisjoint(said) and any(
        said.get(name) not in (None, False) for name in _TELLING
    )


def _plain_text_of_choice(choice: Any) -> Any:
    if not isinstance(choice, dict) or choice.get("index") != 0:
        return None
    if choice.get("finish_reason") is not None or choice.get("logprobs") is not None:
        return None
    delta = choice.get("delta")
    if not isinstance(delta, dict) or (len(delta) > 1 and _extras_of(delta)):
        return None
    return delta.get("content")


def read_event(said: dict[str, Any]) -> Event:
    """Read a decoded event, whatever it says, or raise UpstreamError for garbage."""
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
        extras=_extras_of(delta),
        logprobs=logprobs if isinstance(logprobs, dict) else None,
        finish_reason=to_finish_reason(choice.get("finish_reason")),
    )


def _extras_of(delta: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in delta.items() if v is not None and k not in _NO_EXTRAS}


def _text_of_small(said: dict[str, Any]) -> Any:
    for name in _TEXT_NAMES:
        text = said.get(name)
        if text is not None:
            return text
    return ""


def _pieces_of_small(said: dict[str, Any]) -> list[Piece]:
    text = _text_of_small(said)
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
