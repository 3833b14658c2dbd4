"""Which tools an answer calls, and with what arguments."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import Final

import msgspec

from gateway.simulator.errors import bad_request
from gateway.simulator.examples import example_of
from gateway.simulator.replies import encode_json
from gateway.simulator.requests import ChatRequest, Tool, ToolChoice
from gateway.simulator.streams import Delta
from gateway.simulator.text import split_tokens

# Shows that a client can tell parallel calls apart; more would only be more.
PARALLEL_CALLS: Final = 2

CALL_OPENING: Final = b'{"role":"assistant","content":null}'


class ToolCall(msgspec.Struct, frozen=True):
    """One call; its arguments (or a custom tool's input) in tokens."""

    id: str
    tool: Tool
    pieces: Sequence[str]
    is_finished: bool = True

    @property
    def arguments(self) -> str:
        return "".join(self.pieces)

    def body(self) -> dict[str, object]:
        return {
            "id": self.id,
            "type": self.tool.type,
            self.tool.type: {
                "name": self.tool.name,
                self._argument_field: self.arguments,
            },
        }

    def deltas(self, index: int) -> Iterator[Delta]:
        """The first names the call, later ones carry only more of the arguments."""
        kind, field = self.tool.type, self._argument_field
        named = {
            "index": index,
            "id": self.id,
            "type": kind,
            kind: {"name": self.tool.name, field: ""},
        }
        yield Delta(encode_json({"tool_calls": [named]}))
        for piece in self.pieces:
            more = {"index": index, kind: {field: piece}}
            yield Delta(encode_json({"tool_calls": [more]}))

    @property
    def _argument_field(self) -> str:
        return "arguments" if self.tool.type == "function" else "input"


def called_tools(request: ChatRequest) -> list[Tool]:
    """
    The tools this request makes the model call, in order.

    `auto` calls one unless the conversation ends with a tool's result, which is what
    lets an agent's loop end.
    """
    tools, mode = permitted_tools(request)
    if not tools or mode == "none":
        return []
    if mode == "auto" and request.messages[-1].role in ("tool", "function"):
        return []
    return tools[: PARALLEL_CALLS if request.parallel_tool_calls else 1]


def permitted_tools(request: ChatRequest) -> tuple[list[Tool], str]:
    tools, choice = request.tools or [], request.tool_choice or "auto"
    if not isinstance(choice, ToolChoice):
        if choice == "required" and not tools:
            raise bad_request("tool_choice is required, tools are not given", "tools")
        return tools, choice
    if choice.allowed_tools is not None:
        allowed = {tool.name for tool in choice.allowed_tools.tools}
        mode = choice.allowed_tools.mode
        return [tool for tool in tools if tool.name in allowed], mode
    named = choice.function or choice.custom
    chosen = [tool for tool in tools if named is not None and tool.name == named.name]
    if not chosen:
        raise bad_request("tool_choice names no tool that is given", "tool_choice")
    return chosen, "required"


def call_tool(tool: Tool, digest: bytes, number: int, limit: int) -> ToolCall:
    """Call a tool with arguments of at most `limit` tokens, cut off there."""
    if tool.function is not None:
        schema = tool.function.parameters or {"type": "object"}
        pieces = split_tokens(encode_json(example_of(schema)).decode())
    else:
        pieces = ["input"]
    call_id = blake2b(digest + tool.name.encode() + b"%d" % number, digest_size=12)
    return ToolCall(
        id=f"call_{call_id.hexdigest()}",
        tool=tool,
        pieces=pieces[:limit],
        is_finished=len(pieces) <= limit,
    )
