"""Results: LLMTune's in, OpenAI's lines out."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from gateway.batches.lines import Item
from gateway.envelope import envelope
from gateway.errors import GatewayError
from gateway.ids import new_id
from gateway.translation.port import Parse, Stamp
from gateway.translation.usage import TokenUsage

JSON_NULL: Final = msgspec.Raw(b"null")


class UpstreamResult(msgspec.Struct, frozen=True):
    """One result of LLMTune's, as far as it is known what may stand in it."""

    id: str | int
    text: str | None = None
    tokens: Any = None
    error: Any = None


class UpstreamResults(msgspec.Struct, frozen=True, rename="camel"):
    """What a webhook says of a batch."""

    batch_id: str = ""
    status: str = ""
    results: tuple[UpstreamResult, ...] = ()


class Response(msgspec.Struct, frozen=True):
    status_code: int
    request_id: str
    body: msgspec.Raw


class OutputLine(msgspec.Struct, frozen=True):
    """A line of the output file, or of the error file."""

    id: str
    custom_id: str
    response: Response | None = None
    error: dict[str, str] | None = None


class Outcome(msgspec.Struct, frozen=True):
    """What became of a request: its line, where that belongs, and what it took."""

    line: OutputLine
    is_answer: bool
    input_tokens: int = 0
    output_tokens: int = 0
    # Under which it is charged, of a line that went by itself.
    lease_id: str = ""


encode: Final = msgspec.json.Encoder().encode
decode_outcome: Final = msgspec.json.Decoder(Outcome).decode
decode_result: Final = msgspec.json.Decoder(UpstreamResult).decode


def answered(item: Item, body: bytes, usage: TokenUsage, lease_id: str = "") -> Outcome:
    """An answer in the endpoint's shape."""
    response = Response(200, "req_" + new_id(), msgspec.Raw(body))
    return Outcome(
        OutputLine("batch_req_" + new_id(), item.custom_id, response),
        is_answer=True,
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        lease_id=lease_id,
    )


def refused(item: Item, error: GatewayError) -> Outcome:
    """An error, as the request would have got it by itself."""
    body = msgspec.Raw(envelope(error))
    response = Response(error.http_status, "req_" + new_id(), body)
    line = OutputLine("batch_req_" + new_id(), item.custom_id, response)
    return Outcome(line, is_answer=False)


def unanswered(item: Item, code: str, message: str) -> Outcome:
    """A request that was never run to its end."""
    error = {"code": code, "message": message}
    line = OutputLine("batch_req_" + new_id(), item.custom_id, error=error)
    return Outcome(line, is_answer=False)


def to_outcome(
    item: Item, result: UpstreamResult, parse: Parse, stamp: Stamp
) -> Outcome:
    """What LLMTune's result is to the caller."""
    if result.error is not None or result.text is None:
        code, message = _told(result.error)
        return unanswered(item, code, message)
    translator = parse(bytes(item.body))
    raw = encode({"text": result.text, "tokens": result.tokens})
    try:
        whole = translator.from_upstream(raw, stamp)
    except GatewayError as error:
        return refused(item, error)
    return answered(item, whole.body, whole.usage)


def _told(error: Any) -> tuple[str, str]:
    """Code and message of an error in whichever form."""
    if isinstance(error, dict):
        code = error.get("code") or error.get("error") or "upstream_error"
        return str(code)[:64].lower(), str(error.get("message") or code)[:2000]
    return "upstream_error", str(error or "LLMTune gave no answer.")[:2000]
