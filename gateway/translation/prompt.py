"""
Messages as one prompt, for the generation of the inference route that takes only that.

The rule, which `docs/translation.md` repeats and callers may rely on:

- One user message alone is sent as it is.
- Anything else becomes a transcript: each message as `System: `, `User: ` or
  `Assistant: ` and its text, in order, a blank line between, and a last `Assistant:`
  for the model to continue. `developer` counts as system.
- Text parts of one message are joined by a line break.
"""

from __future__ import annotations

from typing import Final

from gateway.schemas.llmtune import FlatMessage
from gateway.schemas.openai import (
    AssistantMessage,
    Content,
    DeveloperMessage,
    FunctionMessage,
    Message,
    SystemMessage,
    ToolMessage,
    UserMessage,
)

_ROLES: Final[dict[type[Message], str]] = {
    SystemMessage: "system",
    DeveloperMessage: "system",
    UserMessage: "user",
    AssistantMessage: "assistant",
    ToolMessage: "tool",
    FunctionMessage: "function",
}
_LABEL: Final = {"system": "System", "user": "User", "assistant": "Assistant"}


def to_prompt(messages: list[FlatMessage]) -> str:
    """The transcript of the messages, as described above."""
    if len(messages) == 1 and messages[0].role == "user":
        return messages[0].content
    turns = [f"{_LABEL[message.role]}: {message.content}" for message in messages]
    turns.append("Assistant:")
    return "\n\n".join(turns)


def to_flat(message: Message) -> FlatMessage:
    """
    The message with its text alone; only for messages the inference route carries.
    """
    name = None if isinstance(message, ToolMessage) else message.name
    return FlatMessage(role_of(message), text_of(message.content), name)


def role_of(message: Message) -> str:
    """The role as upstream knows it."""
    return _ROLES[type(message)]


def text_of(content: Content | None) -> str:
    """The text of a message's content; parts that are no text count as none."""
    if isinstance(content, str):
        return content
    if content is None:
        return ""
    # A refusal is what the assistant said, so it stays in the transcript.
    texts = [part.text if part.text is not None else part.refusal for part in content]
    return "\n".join(text for text in texts if text is not None)
