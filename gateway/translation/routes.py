"""
Which upstream route carries a request, and what the inference route cannot carry.

The inference route knows a prompt or messages of text, temperature, maxTokens, topP,
topK, stream and metadata. A parameter that changes the answer and is none of these
needs the native chat route; one that only labels or tunes the call (`user`, `store`,
...) is dropped.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from operator import attrgetter
from typing import Final
from urllib.parse import quote

from gateway.errors import InvalidRequest, UnsupportedParameter
from gateway.schemas.openai import (
    AssistantMessage,
    ChatRequest,
    CompletionRequest,
    FunctionMessage,
    Message,
    ToolMessage,
)
from gateway.settings import Dialect
from gateway.translation.port import Route

CHAT_PATH: Final = "/chat/completions"
PLAYGROUND_PATH: Final = "/playground/inference"

# Parameters that mean something whenever they are present.
_NEEDS_CHAT_IF_SET: Final = (
    "stop",
    "seed",
    "logit_bias",
    "presence_penalty",
    "frequency_penalty",
    "logprobs",
    "top_logprobs",
    "tools",
    "functions",
    "function_call",
    "reasoning_effort",
    "verbosity",
    "audio",
    "prediction",
    "moderation",
    "web_search_options",
)
# All of them by one call into C: 1 us, where looking at each took 5.
_wishes: Final = attrgetter(*_NEEDS_CHAT_IF_SET, "response_format", "modalities")

# Ids and paths of this many models are kept: a gateway serves some hundreds. An id is
# 256 characters at most, so a caller who makes them up fills a megabyte.
_KEPT_MODELS: Final = 1024


def choose_route(dialect: Dialect, uncarried: str | None) -> Route:
    """The route for a request whose first uncarried parameter is `uncarried`."""
    if dialect == "chat":
        return "chat"
    if uncarried is None:
        return "inference"
    if dialect == "auto":
        return "chat"
    raise UnsupportedParameter(
        f"'{uncarried}' cannot be carried by LLMTune's inference route, the only"
        " one this gateway is set to use.",
        param=uncarried,
    )


def first_uncarried(request: ChatRequest) -> str | None:
    """
    The first parameter of a chat request that the inference route has no word for.
    """
    # Most requests ask for nothing of the kind, and see only this look.
    is_wishless = not any(_wishes(request)) and request.seed is None
    if is_wishless and (request.n or 1) == 1 and all(map(_is_text, request.messages)):
        return None
    return next(_uncarried(request), None)


def first_uncarried_legacy(request: CompletionRequest) -> str | None:
    """The same for a text completion."""
    names = ("stop", "logit_bias", "presence_penalty", "frequency_penalty")
    if (request.n or 1) > 1:
        return "n"
    if request.seed is not None:
        return "seed"
    # A seed of 0 is a seed; 0 elsewhere is a default.
    return next((name for name in names if getattr(request, name)), None)


def _is_text(message: Message) -> bool:
    if isinstance(message, ToolMessage | FunctionMessage):
        return False
    if isinstance(message, AssistantMessage) and message.tool_calls:
        return False
    if isinstance(message, AssistantMessage) and message.function_call:
        return False
    return isinstance(message.content, str)


def _uncarried(request: ChatRequest) -> Iterator[str]:
    if (request.n or 1) > 1:
        yield "n"
    for name in _NEEDS_CHAT_IF_SET:
        # 0, false and empty lists are OpenAI's defaults: they ask for nothing.
        value = getattr(request, name)
        if value or (name == "seed" and value is not None):
            yield name
    if request.response_format and request.response_format.type != "text":
        yield "response_format"
    if request.modalities and request.modalities != ["text"]:
        yield "modalities"
    for index, message in enumerate(request.messages):
        yield from _uncarried_of(message, f"messages[{index}]")


def _uncarried_of(message: Message, param: str) -> Iterator[str]:
    if isinstance(message, ToolMessage | FunctionMessage):
        yield f"{param}.role"
        return
    if isinstance(message, AssistantMessage):
        if message.tool_calls:
            yield f"{param}.tool_calls"
        if message.function_call:
            yield f"{param}.function_call"
    if isinstance(message.content, list):
        for index, part in enumerate(message.content):
            if part.type not in {"text", "refusal"}:
                yield f"{param}.content[{index}]"


@lru_cache(_KEPT_MODELS)
def inference_path(model: str) -> str:
    """
    The inference route of a model.

    Slashes stay raw, as in every published example; everything else that could change
    the path's meaning is escaped.
    """
    return f"/models/{quote(model, safe='/:@-._~')}/inference"


@lru_cache(_KEPT_MODELS)  # of those that pass: an error is never kept
def check_model_id(model: str, param: str = "model") -> None:
    """Refuse ids that would name another route, or put control bytes into a path."""
    segments = model.split("/")
    is_path_trick = any(segment in {"", ".", ".."} for segment in segments)
    if is_path_trick or not model.isprintable() or "\\" in model or len(model) > 256:
        raise InvalidRequest(
            "A model id has printable characters and no empty, '.' or '..' segment.",
            param=param,
        )
