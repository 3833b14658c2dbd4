"""Requests, stamps and stream readers that several tests of translation share."""

from __future__ import annotations

import json
from typing import Any, Final

from gateway.errors import GatewayError
from gateway.settings import Dialect, PromptForm
from gateway.translation.chat import ChatTranslator
from gateway.translation.port import Stamp, UpstreamRequest

MODEL: Final = "meta-llama/Llama-3.3-70B-Instruct"
USER: Final = {"role": "user", "content": "Hello"}
STAMP: Final = Stamp("chatcmpl-1", 1_700_000_000)


def body(**fields: Any) -> bytes:
    """A chat request's body; a field that is None is sent as null."""
    return json.dumps({"model": MODEL, "messages": [USER], **fields}).encode()


def chat(
    raw: bytes, dialect: Dialect = "auto", form: PromptForm = "both"
) -> ChatTranslator:
    return ChatTranslator(raw, dialect=dialect, prompt_form=form)


def upstream_of(
    raw: bytes, dialect: Dialect = "auto", form: PromptForm = "both"
) -> UpstreamRequest:
    return chat(raw, dialect, form).to_upstream()


def refusal(make: Any, *args: Any, **kwargs: Any) -> GatewayError:
    """The error that a call raises."""
    try:
        made = make(*args, **kwargs)
    except GatewayError as error:
        return error
    raise AssertionError(f"no error but {made!r}")


def frames(written: bytes) -> list[Any]:
    """The data of every frame, parsed; "[DONE]" as text."""
    *parts, rest = written.split(b"\n\n")
    assert rest == b""
    assert all(part.startswith(b"data: ") for part in parts)
    data = [part.removeprefix(b"data: ").decode() for part in parts]
    return [item if item == "[DONE]" else json.loads(item) for item in data]
