"""
What LLMTune takes, in the generations of its documentation that are known.

Answers are read by `translation`, field by field: three generations share names but not
types, so one strict struct would refuse what another generation means.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta


class FlatMessage(msgspec.Struct, omit_defaults=True):
    """A message with plain text, which is all the inference route carries."""

    role: str
    content: str
    name: str | None = None


class InferenceRequest(msgspec.Struct, kw_only=True, omit_defaults=True):
    """
    `POST /models/{modelId}/inference`; which spelling is read depends on generation.
    """

    prompt: str | None = None
    messages: list[FlatMessage] | None = None
    temperature: float | None = None
    max_tokens_camel: int | None = msgspec.field(name="maxTokens", default=None)
    max_tokens: int | None = None
    top_p_camel: float | None = msgspec.field(name="topP", default=None)
    top_p: float | None = None
    top_k_camel: int | None = msgspec.field(name="topK", default=None)
    stream: bool | None = None
    metadata: dict[str, str] | None = None


class NativeRequest(msgspec.Struct, kw_only=True):
    """What the gateway must know of a native call before it passes the bytes on."""

    model_id: str | None = msgspec.field(name="modelId", default=None)
    prompt: str | None = None
    messages: list[Any] | None = None
    max_tokens_camel: int | None = msgspec.field(name="maxTokens", default=None)
    max_tokens: int | None = None
    stream: bool | None = None


class NativeBatchItem(msgspec.Struct):
    """One request of a batch; what else it says is LLMTune's business."""

    id: str | int
    prompt: str | None = None
    messages: list[Any] | None = None


class NativeBatch(msgspec.Struct, rename="camel"):
    """What the gateway must know of a batch before it passes the bytes on."""

    model_id: str
    requests: Annotated[list[NativeBatchItem], Meta(min_length=1, max_length=100)]


class NativeFineTune(msgspec.Struct, rename="camel"):
    """The same of a fine-tune."""

    base_model: str
