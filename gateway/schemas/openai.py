"""
What OpenAI clients send to `/v1/chat/completions` and `/v1/completions`.

Ranges are OpenAI's (CreateChatCompletionRequest, spec 2.3.0). Fields only the native
chat route understands are checked for type and range here and forwarded from the raw
body.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta

# OpenAI's own bound on the array; no chat is this long, and each message costs us time.
MAX_MESSAGES = 2048

Json: TypeAlias = Any
ModelId: TypeAlias = Annotated[str, Meta(min_length=1, max_length=256)]
Messages: TypeAlias = Annotated[
    list["Message"], Meta(min_length=1, max_length=MAX_MESSAGES)
]
Temperature: TypeAlias = Annotated[float, Meta(ge=0, le=2)]
TopP: TypeAlias = Annotated[float, Meta(ge=0, le=1)]
TopK: TypeAlias = Annotated[int, Meta(ge=-1, le=1_000_000)]
Penalty: TypeAlias = Annotated[float, Meta(ge=-2, le=2)]
# 2**31 tokens is far beyond any context; more would overflow what upstreams store.
TokenCount: TypeAlias = Annotated[int, Meta(ge=1, lt=2**31)]
# OpenAI's seeds are int64; the two outermost values are beyond what msgspec checks.
Seed: TypeAlias = Annotated[int, Meta(ge=-(2**63) + 1, le=2**63 - 2)]
ChoiceCount: TypeAlias = Annotated[int, Meta(ge=1, le=128)]
Stop: TypeAlias = str | Annotated[list[str], Meta(max_length=4)]
Bias: TypeAlias = Annotated[float, Meta(ge=-100, le=100)]
FunctionName: TypeAlias = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
MetadataValue: TypeAlias = Annotated[str, Meta(max_length=512)]
Metadata: TypeAlias = Annotated[
    dict[Annotated[str, Meta(max_length=64)], MetadataValue], Meta(max_length=16)
]


class ContentPart(msgspec.Struct):
    """One part of a message: text is read here, other types only counted."""

    type: str
    text: str | None = None
    refusal: str | None = None


Content: TypeAlias = str | list[ContentPart]


class FunctionCall(msgspec.Struct):
    name: str
    arguments: str


class ToolCall(msgspec.Struct):
    id: str
    type: str = "function"
    function: FunctionCall | None = None
    custom: Json = None


class DeveloperMessage(msgspec.Struct, tag_field="role", tag="developer"):
    content: Content
    name: str | None = None


class SystemMessage(msgspec.Struct, tag_field="role", tag="system"):
    content: Content
    name: str | None = None


class UserMessage(msgspec.Struct, tag_field="role", tag="user"):
    content: Content
    name: str | None = None


class AssistantMessage(msgspec.Struct, tag_field="role", tag="assistant"):
    content: Content | None = None
    name: str | None = None
    refusal: str | None = None
    tool_calls: list[ToolCall] | None = None
    function_call: FunctionCall | None = None


class ToolMessage(msgspec.Struct, tag_field="role", tag="tool"):
    content: Content
    tool_call_id: str


class FunctionMessage(msgspec.Struct, tag_field="role", tag="function"):
    content: str | None
    name: str


Message: TypeAlias = (
    DeveloperMessage
    | SystemMessage
    | UserMessage
    | AssistantMessage
    | ToolMessage
    | FunctionMessage
)


class StreamOptions(msgspec.Struct):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class FunctionDefinition(msgspec.Struct):
    name: FunctionName
    description: str | None = None
    parameters: dict[str, Json] | None = None
    strict: bool | None = None


class Tool(msgspec.Struct):
    type: Literal["function", "custom"]
    function: FunctionDefinition | None = None
    custom: dict[str, Json] | None = None


class JsonSchema(msgspec.Struct):
    name: FunctionName
    description: str | None = None
    schema: dict[str, Json] | None = None
    strict: bool | None = None


class ResponseFormat(msgspec.Struct):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class ChatRequest(msgspec.Struct, kw_only=True):
    """Every parameter of a chat completion; unknown ones are tolerated."""

    model: ModelId
    messages: Messages
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    n: ChoiceCount | None = None
    stop: Stop | None = None
    max_tokens: TokenCount | None = None
    max_completion_tokens: TokenCount | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: dict[str, Bias] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    seed: Seed | None = None
    tools: list[Tool] | None = None
    tool_choice: str | dict[str, Json] | None = None
    parallel_tool_calls: bool | None = None
    functions: (
        Annotated[list[FunctionDefinition], Meta(min_length=1, max_length=128)] | None
    ) = None
    function_call: str | dict[str, Json] | None = None
    response_format: ResponseFormat | None = None
    reasoning_effort: (
        Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None
    ) = None
    verbosity: Literal["low", "medium", "high"] | None = None
    modalities: list[Literal["text", "audio"]] | None = None
    audio: dict[str, Json] | None = None
    prediction: dict[str, Json] | None = None
    service_tier: (
        Literal["auto", "default", "flex", "scale", "priority", "fast"] | None
    ) = None
    store: bool | None = None
    metadata: Metadata | None = None
    user: str | None = None
    safety_identifier: Annotated[str, Meta(max_length=128)] | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: dict[str, Json] | None = None
    prompt_cache_retention: Literal["in_memory", "in-memory", "24h"] | None = None
    moderation: dict[str, Json] | None = None
    web_search_options: dict[str, Json] | None = None
    # Not OpenAI's, but LLMTune has it and many clients send it.
    top_k: TopK | None = None


class CompletionRequest(msgspec.Struct, kw_only=True):
    """The legacy text completion."""

    model: ModelId
    prompt: str | list[str | int | list[int]]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    n: ChoiceCount | None = None
    stop: Stop | None = None
    max_tokens: TokenCount | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: dict[str, Bias] | None = None
    logprobs: Annotated[int, Meta(ge=0, le=5)] | None = None
    seed: Seed | None = None
    echo: bool | None = None
    best_of: Annotated[int, Meta(ge=0, le=20)] | None = None
    suffix: str | None = None
    user: str | None = None
    top_k: TopK | None = None
