"""One line of a batch's input: checked, and told how it can be sent."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

import msgspec

from gateway.batches.record import Endpoint, LineError, Way
from gateway.errors import GatewayError
from gateway.request_bounds import check_bounds
from gateway.settings import Dialect, PromptForm
from gateway.translation.chat import ChatTranslator
from gateway.translation.port import Parse, TokenDemand, Translator
from gateway.translation.text import TextTranslator
from policies.plans import Plan

# LLMTune's batch route carries a prompt and nothing beside it. Text completions are
# never so plain: OpenAI ends them after 16 tokens unless told otherwise.
CARRIED: Final = frozenset({"model", "messages", "metadata", "user", "store"})
# What may be said as well, as long as it says what holds anyway.
NEUTRAL: Final[dict[str, tuple[Any, ...]]] = {
    "stream": (False, None),
    "n": (1, None),
    "tools": (None, []),
}
MAX_CUSTOM_ID_CHARS: Final = 512


class BatchLine(msgspec.Struct, frozen=True):
    """A request as the caller wrote it."""

    custom_id: str
    method: str
    url: str
    body: msgspec.Raw


class Item(msgspec.Struct, frozen=True):
    """A request that is to be run: what its result is made from."""

    # In the input file, from 1.
    line: int
    custom_id: str
    body: msgspec.Raw


class CheckedLine(msgspec.Struct, frozen=True):
    """A request, and what a plan has to know of it."""

    item: Item
    model: str
    way: Way
    tokens: int


class BadLine(Exception):
    """A line that is no request; `error` says why."""

    def __init__(self, error: LineError) -> None:
        super().__init__(error.message)
        self.error = error


_decode: Final = msgspec.json.Decoder(BatchLine).decode
_body: Final = msgspec.json.Decoder(dict[str, Any]).decode


def parse_of(endpoint: Endpoint, dialect: Dialect, form: PromptForm) -> Parse:
    """The translation of an endpoint's bodies."""
    kind = ChatTranslator if endpoint == "/v1/chat/completions" else TextTranslator
    return partial(kind, dialect=dialect, prompt_form=form)


def check_line(
    raw: bytes,
    number: int,
    endpoint: Endpoint,
    parse: Parse,
    usual_output: int,
    plan: Plan,
) -> CheckedLine:
    """
    The request of a line; BadLine if it is none.

    `usual_output` is what an answer is taken for whose length the caller leaves open.
    """
    try:
        line = _decode(raw)
    except msgspec.ValidationError as error:
        raise _bad("invalid_json_line", str(error), number) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        problem = "This line is not parseable as valid JSON."
        raise _bad("invalid_json_line", problem, number) from None
    _check_frame(line, number, endpoint)
    try:
        translator = parse(bytes(line.body))
        translator.find_route()
    except GatewayError as error:
        code, param = error.error_code, error.param
        raise _bad(code, error.message, number, f"body.{param or ''}") from None
    if translator.is_stream:
        raise _bad("invalid_request", "A batch cannot stream.", number, "body.stream")
    output = translator.demand.most_output_tokens or usual_output
    return CheckedLine(
        Item(number, line.custom_id, line.body),
        translator.model,
        way_of(line.body, plan, translator.demand),
        translator.demand.input_tokens + output,
    )


def _check_frame(line: BatchLine, number: int, endpoint: Endpoint) -> None:
    if not 0 < len(line.custom_id) <= MAX_CUSTOM_ID_CHARS:
        problem = f"custom_id has to have 1 to {MAX_CUSTOM_ID_CHARS} characters."
        raise _bad("invalid_request", problem, number, "custom_id")
    if line.method != "POST":
        problem = "The method has to be POST."
        raise _bad("invalid_method", problem, number, "method")
    if line.url != endpoint:
        problem = f"The url has to be the batch's endpoint, {endpoint}."
        raise _bad("mismatched_url", problem, number, "url")


def way_of(body: msgspec.Raw, plan: Plan, demand: TokenDemand) -> Way:
    """Whether LLMTune's batch route carries all that a body says."""
    try:
        check_bounds(plan, demand)
    except GatewayError:
        # By itself it is refused as any request of its size is.
        return "singly"
    fields = _body(body)
    for name, value in fields.items():
        if name not in CARRIED and value not in NEUTRAL.get(name, (None,)):
            return "singly"
    messages = fields.get("messages") or ()
    is_plain = all(_is_plain(each) for each in messages)
    return "together" if messages and is_plain else "singly"


def _is_plain(message: Any) -> bool:
    return (
        isinstance(message, dict)
        and isinstance(message.get("content"), str)
        and message.keys() <= {"role", "content", "name"}
    )


def prompt_of(translator: Translator) -> str:
    """The text that LLMTune is sent of a request that it carries together."""
    body = _body(translator.to_upstream().body)
    return str(body["prompt"])


def _bad(code: str, message: str, line: int, param: str | None = None) -> BadLine:
    return BadLine(LineError(code, message, param, line))
