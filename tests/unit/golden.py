"""
The golden form of a chat stream (contracts 1.6), as a check of every frame of one.

Each line of it is what some client breaks on: see `gateway.translation.chat_stream`.
"""

from __future__ import annotations

from typing import Any, Final

from tests.unit.wire import STAMP, frames

FINISH_REASONS: Final = {
    "stop",
    "length",
    "tool_calls",
    "content_filter",
    "function_call",
}
# What a tool of each kind is called with.
CALLED_WITH: Final = {"function": "arguments", "custom": "input"}
CHUNK_KEYS: Final = {"id", "object", "created", "model", "choices"}


class ReadChoice:
    """What a client has of one choice at the end."""

    def __init__(self) -> None:
        self.content = ""
        self.finish_reason: str | None = None
        self.calls: list[dict[str, Any]] = []

    @property
    def arguments(self) -> list[str]:
        return [call[call["type"]][CALLED_WITH[call["type"]]] for call in self.calls]


class ReadStream:
    """A whole stream, read as a strict client reads it."""

    def __init__(self, written: bytes, *, wants_usage: bool) -> None:
        *chunks, done = frames(written)
        assert "[DONE]" == done
        assert "[DONE]" not in chunks
        self.choices: list[ReadChoice] = []
        self.usage: dict[str, Any] | None = None
        self.model = chunks[0]["model"]
        if wants_usage:
            self._read_usage(chunks.pop())
        for chunk in chunks:
            self._read_head(chunk, CHUNK_KEYS | ({"usage"} if wants_usage else set()))
            assert chunk.get("usage") is None
            for choice in chunk["choices"]:
                self._read_choice(choice)
        assert all(choice.finish_reason for choice in self.choices)
        assert self.choices

    def _read_head(self, chunk: dict[str, Any], keys: set[str]) -> None:
        assert keys == chunk.keys()
        head = (STAMP.answer_id, "chat.completion.chunk", STAMP.created_s, self.model)
        assert head == tuple(chunk[k] for k in ("id", "object", "created", "model"))

    def _read_usage(self, chunk: dict[str, Any]) -> None:
        self._read_head(chunk, CHUNK_KEYS | {"usage"})
        assert [] == chunk["choices"]
        usage = chunk["usage"]
        counts = usage["prompt_tokens"] + usage["completion_tokens"]
        assert usage["total_tokens"] == counts
        self.usage = usage

    def _read_choice(self, choice: dict[str, Any]) -> None:
        assert {"index", "delta", "logprobs", "finish_reason"} == choice.keys()
        index, delta = choice["index"], choice["delta"]
        assert isinstance(index, int)
        assert not isinstance(index, bool)
        if index == len(self.choices):
            opening = {"role": "assistant", "content": "", "refusal": None}
            assert (opening, None) == (delta, choice["finish_reason"])
            self.choices.append(ReadChoice())
            return
        read = self.choices[index]
        assert read.finish_reason is None, "nothing follows a finish reason"
        if choice["finish_reason"] is not None:
            assert {} == delta
            assert choice["finish_reason"] in FINISH_REASONS
            read.finish_reason = choice["finish_reason"]
            return
        self._read_delta(read, delta, choice["logprobs"])

    def _read_delta(self, read: ReadChoice, delta: dict[str, Any], probs: Any) -> None:
        assert delta or probs, "an empty delta says nothing"
        assert "role" not in delta
        if "content" in delta:
            assert delta["content"]
            read.content += delta["content"]
        for call in delta.get("tool_calls", ()):
            self._read_call(read, call)

    def _read_call(self, read: ReadChoice, call: dict[str, Any]) -> None:
        if call["index"] == len(read.calls):
            kind = call["type"]
            assert {"index", "id", "type", kind} == call.keys()
            assert {"name", CALLED_WITH[kind]} == call[kind].keys()
            assert call["id"]
            read.calls.append(call)
            return
        opened = read.calls[call["index"]]
        kind, field = opened["type"], CALLED_WITH[opened["type"]]
        assert {"index", kind} == call.keys()
        assert {field} == call[kind].keys()
        assert call[kind][field]
        opened[kind][field] += call[kind][field]
