"""Messages as one prompt: the documented rule, case by case."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.schemas.llmtune import FlatMessage
from gateway.schemas.openai import Message
from gateway.translation.prompt import role_of, text_of, to_flat, to_prompt


def message(**fields: Any) -> Any:
    return msgspec.convert(fields, Message)


def prompt(*messages: dict[str, Any]) -> str:
    return to_prompt([to_flat(message(**fields)) for fields in messages])


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        pytest.param([{"role": "user", "content": "Hi"}], "Hi", id="lone-user"),
        pytest.param([{"role": "user", "content": ""}], "", id="lone-empty-user"),
        pytest.param(
            [{"role": "system", "content": "Be brief."}],
            "System: Be brief.\n\nAssistant:",
            id="lone-system",
        ),
        pytest.param(
            [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "Hi"},
            ],
            "System: Be brief.\n\nUser: Hi\n\nAssistant:",
            id="system-and-user",
        ),
        pytest.param(
            [
                {"role": "developer", "content": "Be brief."},
                {"role": "user", "content": "Hi"},
            ],
            "System: Be brief.\n\nUser: Hi\n\nAssistant:",
            id="developer-is-system",
        ),
        pytest.param(
            [
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": "Hello."},
                {"role": "user", "content": "Bye"},
            ],
            "User: Hi\n\nAssistant: Hello.\n\nUser: Bye\n\nAssistant:",
            id="conversation",
        ),
        pytest.param(
            [{"role": "assistant", "content": None, "refusal": "No."}],
            "Assistant: \n\nAssistant:",
            id="null-content-is-empty",
        ),
        pytest.param(
            [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "One"},
                        {"type": "text", "text": "Two"},
                    ],
                }
            ],
            "One\nTwo",
            id="parts-by-line",
        ),
    ],
)
def test_messages_become_the_documented_prompt(
    messages: list[dict[str, Any]], expected: str
) -> None:
    assert expected == prompt(*messages)


@pytest.mark.parametrize(
    ("fields", "role"),
    [
        pytest.param({"role": "developer", "content": "x"}, "system", id="developer"),
        pytest.param({"role": "system", "content": "x"}, "system", id="system"),
        pytest.param({"role": "user", "content": "x"}, "user", id="user"),
        pytest.param({"role": "assistant"}, "assistant", id="assistant"),
        pytest.param(
            {"role": "tool", "content": "x", "tool_call_id": "c"}, "tool", id="tool"
        ),
        pytest.param(
            {"role": "function", "content": "x", "name": "f"}, "function", id="function"
        ),
    ],
)
def test_role_is_the_one_upstream_knows(fields: dict[str, Any], role: str) -> None:
    assert role == role_of(message(**fields))


@pytest.mark.parametrize(
    ("content", "text"),
    [
        pytest.param(None, "", id="null"),
        pytest.param("x", "x", id="text"),
        pytest.param([{"type": "text", "text": "x"}], "x", id="part"),
        pytest.param([{"type": "refusal", "refusal": "No."}], "No.", id="refusal"),
        pytest.param(
            [{"type": "image_url"}, {"type": "text", "text": "x"}], "x", id="image"
        ),
    ],
)
def test_text_of_content_is_its_text_alone(content: Any, text: str) -> None:
    assert text == text_of(message(role="assistant", content=content).content)


def test_flat_message_keeps_its_name() -> None:
    flat = to_flat(message(role="user", content="Hi", name="ada"))

    assert FlatMessage("user", "Hi", "ada") == flat


def test_flat_tool_message_has_no_name() -> None:
    flat = to_flat(message(role="tool", content="4", tool_call_id="c"))

    assert FlatMessage("tool", "4", None) == flat


@given(
    st.lists(
        st.tuples(st.sampled_from(["system", "user", "assistant"]), st.text()),
        min_size=2,
    )
)
def test_transcript_has_every_text_in_order(turns: list[tuple[str, str]]) -> None:
    transcript = to_prompt([FlatMessage(role, text) for role, text in turns])

    expected = [f"{role.capitalize()}: {text}" for role, text in turns]
    assert "\n\n".join([*expected, "Assistant:"]) == transcript
