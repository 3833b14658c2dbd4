"""
The bodies LLMTune accepts: tolerant of unknown fields, strict about known ones.

Both spellings of a field are accepted everywhere (`maxTokens`, `max_tokens`); the
camelCase one wins.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal, TypeAlias, TypeVar

import msgspec
from msgspec import Meta

from gateway.simulator.errors import SimulatorError, bad_request

Role: TypeAlias = Literal[
    "developer", "system", "user", "assistant", "tool", "function"
]
Temperature: TypeAlias = Annotated[float, Meta(ge=0, le=2)]
TopP: TypeAlias = Annotated[float, Meta(ge=0, le=1)]
Penalty: TypeAlias = Annotated[float, Meta(ge=-2, le=2)]
PositiveInt: TypeAlias = Annotated[int, Meta(ge=1)]
FunctionName: TypeAlias = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
# JSON that is handed through or interpreted by `examples`.
Json: TypeAlias = Any

# Metadata is echoed as it came, never decoded.
NO_METADATA: Final = msgspec.Raw(b"null")

DEFAULT_MAX_TOKENS: Final = 1024
DEFAULT_CHAT_MAX_TOKENS: Final = 512

FIELD_IN_ERROR: Final = re.compile(r" - at `\$\.?([^`]*)`$")

T = TypeVar("T")


class Part(msgspec.Struct, frozen=True):
    type: str
    text: str | None = None


class Message(msgspec.Struct, frozen=True):
    role: Role
    content: str | list[Part] | None = None

    @property
    def text(self) -> str:
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.content or () if part.text)


Messages: TypeAlias = Annotated[list[Message], Meta(min_length=1)]


def prompt_of(messages: list[Message]) -> str:
    """The prompt a list of messages amounts to: their texts, one below the other."""
    return "\n".join(message.text for message in messages)


class StreamOptions(msgspec.Struct, frozen=True):
    include_usage: bool | None = None


class InferenceRequest(msgspec.Struct, frozen=True, rename="camel"):
    """`POST /v1/models/{modelId}/inference` and, with `modelId`, the playground."""

    model_id: str | None = None
    model: str | None = None
    prompt: str | None = None
    messages: Messages | None = None
    temperature: Temperature | None = None
    max_tokens: PositiveInt | None = None
    max_tokens_snake: PositiveInt | None = msgspec.field(
        default=None, name="max_tokens"
    )
    top_p: TopP | None = None
    top_p_snake: TopP | None = msgspec.field(default=None, name="top_p")
    top_k: PositiveInt | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = msgspec.field(
        default=None, name="stream_options"
    )
    metadata: msgspec.Raw = NO_METADATA

    @property
    def limit(self) -> int:
        return self.max_tokens or self.max_tokens_snake or DEFAULT_MAX_TOKENS

    @property
    def wants_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def text(self) -> str | None:
        if self.prompt is not None:
            return self.prompt
        return None if self.messages is None else prompt_of(self.messages)


class Function(msgspec.Struct, frozen=True):
    name: FunctionName
    parameters: Json = None


class Custom(msgspec.Struct, frozen=True):
    name: FunctionName


class Tool(msgspec.Struct, frozen=True):
    type: Literal["function", "custom"]
    function: Function | None = None
    custom: Custom | None = None

    @property
    def name(self) -> str:
        named = self.function if self.type == "function" else self.custom
        if named is None:
            raise bad_request(f"a tool of type {self.type} lacks its {self.type}")
        return named.name


class NamedTool(msgspec.Struct, frozen=True):
    name: str


class AllowedTools(msgspec.Struct, frozen=True):
    mode: Literal["auto", "required"]
    tools: list[Tool]


class ToolChoice(msgspec.Struct, frozen=True):
    type: Literal["function", "custom", "allowed_tools"]
    function: NamedTool | None = None
    custom: NamedTool | None = None
    allowed_tools: AllowedTools | None = None


class JsonSchema(msgspec.Struct, frozen=True):
    name: FunctionName
    schema: Json = None


class ResponseFormat(msgspec.Struct, frozen=True):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class ChatRequest(msgspec.Struct, frozen=True):
    """`POST /v1/chat/completions` and the agent route: OpenAI's shape."""

    model: str
    messages: Messages
    temperature: Temperature | None = None
    top_p: TopP | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    stop: str | Annotated[list[str], Meta(max_length=4)] | None = None
    max_tokens: PositiveInt | None = None
    max_completion_tokens: PositiveInt | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    metadata: msgspec.Raw = NO_METADATA

    @property
    def limit(self) -> int:
        limit = self.max_completion_tokens or self.max_tokens
        return limit or DEFAULT_CHAT_MAX_TOKENS

    @property
    def stops(self) -> list[str]:
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return [stop for stop in stops if stop]

    @property
    def wants_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)


class BatchItem(msgspec.Struct, frozen=True):
    id: str
    prompt: str | None = None
    messages: Messages | None = None


class BatchRequest(msgspec.Struct, frozen=True, rename="camel"):
    model_id: str
    requests: Annotated[list[BatchItem], Meta(min_length=1, max_length=100)]
    webhook_url: str | None = None


class Hyperparameters(msgspec.Struct, frozen=True, rename="camel"):
    learning_rate: Annotated[float, Meta(gt=0)] | None = None
    epochs: PositiveInt | None = None
    batch_size: PositiveInt | None = None


class FineTuneRequest(msgspec.Struct, frozen=True, rename="camel"):
    base_model: str
    dataset: Annotated[str, Meta(min_length=1)]
    training_method: str = "sft"
    hyperparameters: Hyperparameters | None = None
    webhook_url: str | None = None


def decode(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """The decoded body, or the 400 that says what is wrong with it and where."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise invalid_field(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise bad_request(f"The body is not valid JSON: {error}") from error
    except RecursionError as error:
        raise bad_request("The body is nested too deeply.") from error


def invalid_field(problem: str) -> SimulatorError:
    place = FIELD_IN_ERROR.search(problem)
    field = place.group(1) if place else None
    return bad_request(f"Invalid request: {problem}", field or None)
