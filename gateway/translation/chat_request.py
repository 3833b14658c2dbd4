"""OpenAI chat request to LLMTune: parse, judge, choose the route, write the body."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from gateway.errors import InvalidRequest
from gateway.schemas.llmtune import InferenceRequest
from gateway.schemas.openai import (
    AssistantMessage,
    ChatRequest,
    DeveloperMessage,
    FunctionMessage,
    Message,
)
from gateway.settings import PromptForm
from gateway.translation.body import decode_body
from gateway.translation.functions import with_tool_messages, with_tools
from gateway.translation.port import TokenDemand, UpstreamRequest
from gateway.translation.prompt import role_of, text_of, to_flat, to_prompt
from gateway.translation.routes import (
    CHAT_PATH,
    check_model_id,
    inference_path,
)
from policies.estimate import estimate_input_tokens, estimate_text_tokens

_decoder: Final = msgspec.json.Decoder(ChatRequest)
_raw_fields: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_raw_messages: Final = msgspec.json.Decoder(list[dict[str, Any]])
_encode: Final = msgspec.json.Encoder().encode


def parse_chat_request(raw: bytes) -> ChatRequest:
    """A checked request from the body, or InvalidRequest naming the parameter."""
    request = decode_body(raw, _decoder)
    check_model_id(request.model)
    _check_combinations(request)
    return request


def _check_combinations(request: ChatRequest) -> None:
    """What no single field's type can say."""
    for index, message in enumerate(request.messages):
        if not isinstance(message.content, str):
            _check_message(message, f"messages[{index}]")
    # A tool carries its description under its own type's name.
    for index, tool in enumerate(request.tools or ()):
        if getattr(tool, tool.type) is None:
            raise _missing(f"tools[{index}].{tool.type}")
    response_format = request.response_format
    if (
        response_format
        and response_format.type == "json_schema"
        and response_format.json_schema is None
    ):
        raise _missing("response_format.json_schema")
    asks_for_tools = request.tool_choice not in (None, "none", "auto")
    if asks_for_tools and not request.tools:
        raise InvalidRequest(
            "'tool_choice' is only allowed when 'tools' are specified.",
            param="tool_choice",
        )
    if request.top_logprobs and not request.logprobs:
        raise InvalidRequest(
            "'top_logprobs' needs 'logprobs' to be true.", param="top_logprobs"
        )
    if request.stream_options is not None and not request.stream:
        raise InvalidRequest(
            "'stream_options' is only allowed when 'stream' is true.",
            param="stream_options",
        )


def _check_message(message: Message, param: str) -> None:
    if isinstance(message, AssistantMessage):
        says = message.content is not None or message.refusal is not None
        if not says and not message.tool_calls and message.function_call is None:
            raise InvalidRequest(
                f"'{param}' needs content, a refusal or tool calls.",
                param=f"{param}.content",
            )
    if isinstance(message.content, list):
        if not message.content:
            raise InvalidRequest(
                "Content parts must not be an empty array.", param=f"{param}.content"
            )
        for index, part in enumerate(message.content):
            if part.type == "text" and part.text is None:
                raise _missing(f"{param}.content[{index}].text")


def _missing(path: str) -> InvalidRequest:
    return InvalidRequest(f"Missing required parameter: '{path}'.", param=path)


def max_output_of(request: ChatRequest) -> int | None:
    """The output the caller allowed each choice; the newer name wins."""
    # Both may be there: frameworks set the newer beside an older default.
    if request.max_completion_tokens is not None:
        return request.max_completion_tokens
    return request.max_tokens


def demand_of(request: ChatRequest) -> TokenDemand:
    """What the request may cost."""
    text_tokens = 0
    parts: list[str] = []
    for message in request.messages:
        text_tokens += estimate_text_tokens(text_of(message.content))
        if isinstance(message.content, list):
            parts += [part.type for part in message.content]
        if isinstance(message, AssistantMessage) and message.tool_calls:
            text_tokens += _json_tokens(message.tool_calls)
    for described in (request.tools, request.functions, request.response_format):
        if described:
            text_tokens += _json_tokens(described)
    is_newer = request.max_completion_tokens is not None
    return TokenDemand(
        input_tokens=estimate_input_tokens(
            text_tokens,
            messages=len(request.messages),
            images=parts.count("image_url"),
            audios=parts.count("input_audio"),
            files=parts.count("file"),
        ),
        text_tokens=text_tokens,
        max_output_tokens=max_output_of(request),
        choices=request.n or 1,
        output_param="max_completion_tokens" if is_newer else "max_tokens",
    )


def _json_tokens(described: Any) -> int:
    return estimate_text_tokens(_encode(described).decode())


def to_inference(request: ChatRequest, prompt_form: PromptForm) -> UpstreamRequest:
    """The call of the inference route."""
    flat = [to_flat(message) for message in request.messages]
    body = inference_body(
        prompt=None if prompt_form == "messages" else to_prompt(flat),
        messages=None if prompt_form == "prompt" else flat,
        request=request,
        max_tokens=max_output_of(request),
    )
    path = inference_path(request.model)
    return UpstreamRequest("inference", path, _encode(body), bool(request.stream))


def inference_body(
    *,
    prompt: str | None,
    messages: list[Any] | None,
    request: Any,
    max_tokens: int | None,
) -> InferenceRequest:
    """
    The inference body for the generations that are wanted.

    The generation that takes `prompt` spells in camel case, the one that takes
    `messages` as OpenAI does; a parameter in the other's spelling would be ignored and
    a limit the caller set would not hold, so each form brings its own.
    """
    has_prompt, has_messages = prompt is not None, messages is not None
    return InferenceRequest(
        prompt=prompt,
        messages=messages,
        temperature=request.temperature,
        max_tokens_camel=max_tokens if has_prompt else None,
        max_tokens=max_tokens if has_messages else None,
        top_p_camel=request.top_p if has_prompt else None,
        top_p=request.top_p if has_messages else None,
        # 0 and -1 are other stacks' words for no limit; LLMTune refuses them.
        top_k_camel=request.top_k if (request.top_k or 0) > 0 else None,
        stream=True if request.stream else None,
        metadata=getattr(request, "metadata", None),
    )


def to_chat(request: ChatRequest, raw: bytes) -> UpstreamRequest:
    """The call of the chat route."""
    # Forwarded field by field as it came, so that parameters we have never heard of
    # reach an upstream that has.
    fields = _raw_fields.decode(raw)
    if request.max_completion_tokens is not None:
        # LLMTune's chat route knows the older name only.
        fields["max_tokens"] = fields.pop("max_completion_tokens")
    if request.functions:
        with_tools(request, fields)
    if _has_rewritten_messages(request):
        fields["messages"] = _rewritten(request, fields["messages"])
    if request.stream:
        # Always metered, whether or not the caller asked to see it.
        fields["stream_options"] = msgspec.Raw(b'{"include_usage":true}')
    return UpstreamRequest("chat", CHAT_PATH, _encode(fields), bool(request.stream))


def is_rewritten(request: ChatRequest) -> bool:
    """Whether the chat route's body is more than the caller's with other fields."""
    return bool(request.functions) or _has_rewritten_messages(request)


def _has_rewritten_messages(request: ChatRequest) -> bool:
    return any(map(_needs_rewriting, request.messages))


def _needs_rewriting(message: Message) -> bool:
    is_functions = isinstance(message, AssistantMessage) and message.function_call
    return isinstance(message, DeveloperMessage | FunctionMessage) or bool(is_functions)


def _rewritten(request: ChatRequest, messages: msgspec.Raw) -> msgspec.Raw:
    """The messages in words LLMTune knows; all their other fields as they came."""
    try:
        forwarded = _raw_messages.decode(messages)
    except msgspec.DecodeError:
        # In a field that no other step looks at.
        raise InvalidRequest(
            "A number in 'messages' is beyond what can be passed on.", param="messages"
        ) from None
    for message, fields in zip(request.messages, forwarded, strict=True):
        if isinstance(message, AssistantMessage | FunctionMessage):
            with_tool_messages(message, fields)
        else:
            fields["role"] = role_of(message)
    return msgspec.Raw(_encode(forwarded))
