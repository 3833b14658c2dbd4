"""
Upstream events to OpenAI's chat completion chunks, in the one form every client
accepts.

The form (each line of it breaks some client when missing):
- `id`, `object`, `created` and `model` are the same in every chunk;
- a choice opens with its role, once; choices open in index order;
- a tool call's id, type and name come once, afterwards only pieces of its arguments;
- a choice ends with an empty delta and a finish reason;
- usage comes last, only if asked for, and is null in every chunk before;
- then `[DONE]`, and nothing after it.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from gateway.errors import UpstreamError
from gateway.translation.answer import (
    CALLED_WITH,
    answered_model,
    clean_tool_calls,
    decode_answer,
    default_finish,
    kind_of_call,
    read_choices,
    usage_of,
)
from gateway.translation.answer import Choice as WholeChoice
from gateway.translation.events import (
    Piece,
    decode_event,
    plain_text_of,
    read_event,
)
from gateway.translation.functions import as_function_delta, as_function_reason
from gateway.translation.port import Stamp, TokenDemand
from gateway.translation.usage import StreamMeter, TokenUsage

_encode: Final = msgspec.json.Encoder().encode

DONE_FRAME: Final = b"data: [DONE]\n\n"


class _Choice:
    """How far one choice of the stream has come."""

    __slots__ = ("calls", "finish_reason", "last_call", "opened_calls")

    def __init__(self) -> None:
        self.finish_reason: str | None = None
        # The place of each tool call, by every index and id upstream gave it.
        self.calls: dict[str | int, int] = {}
        self.opened_calls = 0
        self.last_call = 0


class ChatStream:
    """Writes the chunks of one streamed chat completion."""

    __slots__ = (
        "_choices",
        "_head",
        "_input_estimate",
        "_max_tokens",
        "_meter",
        "_model",
        "_speaks_functions",
        "_stamp",
        "_tail",
        "_text_head",
        "_text_tail",
        "_wants_usage",
    )

    def __init__(
        self,
        stamp: Stamp,
        *,
        model: str,
        demand: TokenDemand,
        wants_usage: bool,
        speaks_functions: bool = False,
    ) -> None:
        """`speaks_functions` is for callers that know `function_call` and no tools."""
        self._stamp = stamp
        self._model = model
        self._input_estimate = demand.text_tokens
        self._max_tokens = demand.max_output_tokens
        self._wants_usage = wants_usage
        self._speaks_functions = speaks_functions
        self._meter = StreamMeter(demand.text_tokens, demand.most_output_tokens)
        self._choices: list[_Choice] = []
        self._head = b""
        # Null until the last chunk, as clients that asked for usage expect.
        self._tail = b',"usage":null}\n\n' if wants_usage else b"}\n\n"
        # What stands around a text of the first choice: nearly every frame of a stream
        # is that, and written from its parts in 0.3 us instead of 1.5.
        self._text_head = b""
        self._text_tail = b'},"logprobs":null,"finish_reason":null}]' + self._tail

    @property
    def usage(self) -> TokenUsage:
        return self._meter.usage

    def feed(self, data: bytes) -> bytes:
        said = decode_event(data)
        if self._choices and self._choices[0].finish_reason is None:
            text = plain_text_of(said)
            if text is not None:
                self._meter.add(text)
                return b"".join((self._text_head, _encode(text), self._text_tail))
        event = read_event(said)
        self._note_head(event.model)
        frames = b"".join([self._write(piece) for piece in event.pieces])
        self._meter.note(event.reported)
        return frames

    def feed_whole(self, body: bytes) -> bytes:
        answer = decode_answer(body)
        choices = read_choices(answer)
        usage = usage_of(answer, choices, self._input_estimate)
        self._note_head(answered_model(answer, self._model))
        frames = []
        for choice in choices:
            reason = choice.finish_reason or default_finish(
                choice, usage, self._max_tokens
            )
            frames.append(self._write(_piece_of_whole(choice, reason)))
        self._meter.settle(usage)
        return b"".join(frames)

    def finish(self, *, is_marked: bool) -> bytes:
        is_whole = self._choices and all(c.finish_reason for c in self._choices)
        if not is_whole and not is_marked:
            raise UpstreamError(
                "The upstream ended its stream before the answer's end.",
                fault="cut_short",
            )
        # An empty but finished answer is still an answer: clients want a role and an
        # end.
        frames = [self._open_to(0)] if not self._choices else []
        frames += [
            self._close(index, choice)
            for index, choice in enumerate(self._choices)
            if choice.finish_reason is None
        ]
        if self._wants_usage:
            counts = _encode(self.usage.to_openai())
            frames += [self._head, b'[],"usage":', counts, b"}\n\n"]
        frames.append(DONE_FRAME)
        return b"".join(frames)

    def _note_head(self, model: str | None) -> None:
        if self._head:
            # The first event's model stays: clients drop a chunk whose head changes.
            return
        head = {
            "id": self._stamp.answer_id,
            "object": "chat.completion.chunk",
            "created": self._stamp.created_s,
            "model": model or self._model,
        }
        self._head = b"data: " + _encode(head)[:-1] + b',"choices":'
        self._text_head = self._head + b'[{"index":0,"delta":{"content":'

    def _chunk(
        self,
        index: int,
        delta: dict[str, Any],
        *,
        logprobs: dict[str, Any] | None = None,
        finish_reason: str | None = None,
    ) -> bytes:
        if self._speaks_functions:
            as_function_delta(delta)
            finish_reason = as_function_reason(finish_reason)
        choice = {
            "index": index,
            "delta": delta,
            "logprobs": logprobs,
            "finish_reason": finish_reason,
        }
        return b"".join((self._head, b"[", _encode(choice), b"]", self._tail))

    def _write(self, piece: Piece) -> bytes:
        frames = [self._open_to(piece.index)]
        choice = self._choices[piece.index]
        if choice.finish_reason is not None:
            # Nothing can follow a finish reason; an upstream that goes on is not heard.
            return frames[0]
        # Metered only here: what is not sent on is not charged.
        self._meter.add(piece.text)
        if piece.extras:
            self._meter.add(_encode(piece.extras).decode())
        delta = _delta_of(piece, choice)
        if delta or piece.logprobs:
            frames.append(self._chunk(piece.index, delta, logprobs=piece.logprobs))
        if piece.finish_reason is not None:
            choice.finish_reason = piece.finish_reason
            frames.append(
                self._chunk(piece.index, {}, finish_reason=piece.finish_reason)
            )
        return b"".join(frames)

    def _open_to(self, index: int) -> bytes:
        """
        Open every choice up to this one: SDKs index into a list as choices appear.
        """
        if index < len(self._choices):
            return b""
        if not self._head:
            self._note_head(None)
        # openai-node throws where no role ever came, so a choice opens with it.
        frames = []
        for missing in range(len(self._choices), index + 1):
            self._choices.append(_Choice())
            opening = {"role": "assistant", "content": "", "refusal": None}
            frames.append(self._chunk(missing, opening))
        return b"".join(frames)

    def _close(self, index: int, choice: _Choice) -> bytes:
        # The limit is each choice's, the usage all choices' together.
        each = self._max_tokens
        is_cut = each and self.usage.output_tokens >= each * len(self._choices)
        # Strict clients throw without a reason, so the likeliest is named.
        reason = "tool_calls" if choice.opened_calls else "length" if is_cut else "stop"
        choice.finish_reason = reason
        return self._chunk(index, {}, finish_reason=reason)


def _piece_of_whole(choice: WholeChoice, reason: str) -> Piece:
    extras = {k: v for k, v in choice.message.items() if v is not None}
    return Piece(choice.index, choice.text or "", extras, choice.logprobs, reason)


def _delta_of(piece: Piece, choice: _Choice) -> dict[str, Any]:
    delta: dict[str, Any] = {"content": piece.text} if piece.text else {}
    for name, value in piece.extras.items():
        if name == "tool_calls":
            calls = _tool_call_deltas(value, choice)
            if calls:
                delta[name] = calls
        else:
            delta[name] = value
    return delta


def _tool_call_deltas(calls: Any, choice: _Choice) -> list[dict[str, Any]]:
    deltas = []
    for call in calls if isinstance(calls, list) else ():
        if isinstance(call, dict):
            deltas += _tool_call_delta(call, choice)
    return deltas


def _tool_call_delta(call: dict[str, Any], choice: _Choice) -> list[dict[str, Any]]:
    identities = _identities_of(call)
    place = _place_of(identities, choice)
    kind = kind_of_call(call)
    called, field = call.get(kind), CALLED_WITH[kind]
    called = called if isinstance(called, dict) else {}
    delta: dict[str, Any] = {}
    if place is None:
        # The name often comes before any arguments: an opening without them is whole.
        complete = clean_tool_calls([{**call, kind: {field: "", **called}}])
        if not complete:
            return []  # no name yet: nothing a client could open a call with
        place = choice.opened_calls
        choice.opened_calls += 1
        delta = complete[0]
        if not call.get("id") or not isinstance(call["id"], str):
            delta["id"] = f"call_{place}"
    elif isinstance(called.get(field), str) and called[field]:
        delta = {kind: {field: called[field]}}
    choice.last_call = place
    # By index and by id: upstreams repeat either, or neither.
    choice.calls |= dict.fromkeys(identities, place)
    return [{"index": place, **delta}] if delta else []


def _identities_of(call: dict[str, Any]) -> list[str | int]:
    """What tells one tool call from another: its index and its id, where given."""
    index, call_id = call.get("index"), call.get("id")
    identities: list[str | int] = []
    if isinstance(index, int) and not isinstance(index, bool):
        identities.append(index)
    if isinstance(call_id, str) and call_id:
        identities.append(call_id)
    return identities


def _place_of(identities: list[str | int], choice: _Choice) -> int | None:
    """The open call that a delta goes on with: nameless ones with the last; or None."""
    if not identities:
        return choice.last_call if choice.opened_calls else None
    places = [choice.calls[known] for known in identities if known in choice.calls]
    *_, newest = identities
    if isinstance(newest, str) and newest not in choice.calls:
        # An id not seen before at an index whose call has another: some upstreams give
        # every call the index 0.
        with_id = {place for k, place in choice.calls.items() if isinstance(k, str)}
        places = [place for place in places if place not in with_id]
    return places[0] if places else None
