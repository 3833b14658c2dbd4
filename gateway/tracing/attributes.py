"""
What spans and metrics tell of a request, by the names of `semconv`.

No text of prompts and answers, no keys, no addresses with credentials; whatever a
client chose is cut to a bound.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from urllib.parse import urlsplit

from gateway.tracing import bodies, semconv

if TYPE_CHECKING:
    from gateway.exchange import Exchange
    from gateway.record import Record
    from gateway.tracing.facts import Attempt, RequestTrace

Attributes: TypeAlias = dict[str, Any]

MOST_CHARACTERS: Final = 256

_METHODS: Final = frozenset(
    {"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"}
)
# LLMTune's own jobs, whose creation completes nothing.
_JOBS: Final = frozenset({"batch", "fine_tune"})
# An upstream's own code goes to the client as it is; here only if it is a word.
_WORD: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def method_of(method: str) -> str:
    return method if method in _METHODS else semconv.OTHER


def route_of(record: Record) -> str | None:
    """The route, where it is a path of ours."""
    return record.route if record.route.startswith("/") else None


def span_name(exchange: Exchange) -> str:
    method = method_of(exchange.wire.head.method)
    method = "HTTP" if method == semconv.OTHER else method
    route = route_of(exchange.record)
    return method if route is None else f"{method} {route}"


def is_error(record: Record) -> bool:
    """Whether the server span is an Error: 5xx, or an answer that broke off."""
    broke_off = record.status < 400 and record.outcome not in {"ok", semconv.GONE}
    return record.status >= 500 or broke_off


def error_type(record: Record, crash: str | None) -> str | None:
    """The word for how it failed; None for what is the caller's own affair."""
    if record.outcome == semconv.GONE:
        return semconv.GONE
    if not is_error(record):
        return None
    if record.error_code == semconv.SHUTTING_DOWN:
        return semconv.SHUTTING_DOWN
    return crash or record.fault or record.outcome


def server_attributes(exchange: Exchange, trace: RequestTrace) -> Attributes:
    record, head = exchange.record, exchange.wire.head
    agent = exchange.headers.get(b"user-agent")
    address, port = _host(exchange)
    error = trace.error
    return _told(
        {
            semconv.METHOD: method_of(head.method),
            semconv.ROUTE: route_of(record),
            semconv.STATUS_CODE: record.status,
            semconv.URL_PATH: _path(record, head.path),
            semconv.URL_SCHEME: "http",
            semconv.SERVER_ADDRESS: address,
            semconv.SERVER_PORT: port,
            semconv.CLIENT_ADDRESS: record.client,
            semconv.PROTOCOL_VERSION: head.version,
            semconv.USER_AGENT: agent and _text(agent),
            semconv.ERROR_TYPE: error_type(record, trace.crash),
            semconv.REQUEST_ID: exchange.request_id,
            semconv.CLIENT_REQUEST_ID: record.client_request_id,
            semconv.WORKSPACE: record.workspace,
            semconv.KEY_ID: record.key_id,
            semconv.PLAN: record.plan,
            semconv.OUTCOME: record.outcome,
            semconv.ERROR_CODE: _word(None if error is None else error.error_code),
            semconv.ERROR_ID: record.error_id,
            semconv.REPLAY: record.replay,
            semconv.UPSTREAM_ROUTE: record.upstream_route,
        }
    )


def admission_attributes(record: Record, trace: RequestTrace) -> Attributes:
    lease, error = trace.lease, trace.error
    if lease is not None:
        reserved, actual = lease.reserved.tokens, lease.actual.tokens
        return {
            semconv.DECISION: "admitted",
            semconv.IS_EXACT: lease.is_exact,
            semconv.RESERVED: reserved,
            semconv.ACTUAL: actual,
            semconv.ADJUSTMENT: actual - reserved,
        }
    is_rejected = record.outcome == "rejected"
    return _told(
        {
            semconv.DECISION: "rejected" if is_rejected else "undecided",
            semconv.LIMIT: record.limit,
            semconv.REASON: _word(None if error is None else error.error_code),
        }
    )


def operation_of(record: Record) -> str:
    """The convention's word for what a route does; of what has none, the route's."""
    if record.upstream_route in _JOBS:
        return record.upstream_route
    return semconv.CHAT if "chat" in record.route else semconv.TEXT_COMPLETION


def attempt_attributes(
    record: Record, trace: RequestTrace, number: int, attempt: Attempt
) -> Attributes:
    """An attempt as HTTP and as GenAI; what was answered is the last one's."""
    address, port = _place(attempt.url)
    told = {
        semconv.METHOD: "POST",
        semconv.URL_FULL: attempt.url[:1024],
        semconv.SERVER_ADDRESS: address,
        semconv.SERVER_PORT: port,
        semconv.STATUS_CODE: attempt.status,
        semconv.RESEND_COUNT: number or None,
        semconv.ERROR_TYPE: attempt_error(record, attempt),
        semconv.OPERATION: operation_of(record),
        semconv.PROVIDER: semconv.PROVIDER_NAME,
        semconv.REQUEST_MODEL: record.model and record.model[:MOST_CHARACTERS],
        semconv.REQUEST_STREAM: record.is_stream,
        **_asked(trace),
    }
    if attempt.is_answered:
        told |= _answered(record, trace, attempt)
    return _told(told)


def attempt_error(record: Record, attempt: Attempt) -> str | None:
    """What became of it, if not what was wished."""
    if attempt.error is not None:
        return attempt.error
    if record.outcome == semconv.GONE:
        return semconv.GONE
    if record.error_code == semconv.SHUTTING_DOWN:
        return semconv.SHUTTING_DOWN
    # Failed in the middle of its body; what is no fault of LLMTune's is not its.
    return record.fault


def _asked(trace: RequestTrace) -> Attributes:
    asked = trace.parameters
    if asked is None:
        return {}
    most = asked.max_completion_tokens or asked.max_tokens or asked.max_tokens_camel
    return {
        semconv.REQUEST_MAX_TOKENS: most,
        semconv.REQUEST_TEMPERATURE: asked.temperature,
        semconv.REQUEST_TOP_P: asked.top_p,
        semconv.REQUEST_TOP_K: asked.top_k,
        semconv.REQUEST_SEED: asked.seed,
        semconv.REQUEST_CHOICES: asked.choices if asked.choices != 1 else None,
        semconv.REQUEST_FREQUENCY_PENALTY: asked.frequency_penalty,
        semconv.REQUEST_PRESENCE_PENALTY: asked.presence_penalty,
        semconv.INPUT_MESSAGES: asked.text or None,
    }


def _answered(record: Record, trace: RequestTrace, attempt: Attempt) -> Attributes:
    text: str | None = None
    watched = trace.watched
    if watched is not None:
        answer, reasons = bodies.read_head(watched.head), watched.reasons
        if trace.keeps_text:
            text = bodies.streamed_messages(watched.frames, reasons)
    else:
        answer = bodies.read_answer(trace.body or b"{}")
        reasons = [c.finish_reason for c in answer.choices if c.finish_reason]
        if trace.keeps_text and trace.body:
            text = bodies.output_messages(answer)
    return {
        semconv.RESPONSE_ID: answer.id and answer.id[:MOST_CHARACTERS],
        semconv.RESPONSE_MODEL: answer.model and answer.model[:MOST_CHARACTERS],
        semconv.RESPONSE_FINISH_REASONS: reasons or None,
        semconv.RESPONSE_FIRST_CHUNK: first_chunk_s(record, trace, attempt),
        semconv.INPUT_TOKENS: record.input_tokens,
        semconv.OUTPUT_TOKENS: record.output_tokens,
        semconv.USAGE_ESTIMATED: record.is_usage_reported is False or None,
        semconv.OUTPUT_MESSAGES: text,
    }


def first_chunk_s(
    record: Record, trace: RequestTrace, attempt: Attempt
) -> float | None:
    """From an attempt's start to its stream's first token."""
    if record.first_token_s is None:
        return None
    before_s = (attempt.started_ns - trace.started_ns) / 1e9
    return max(0.0, record.first_token_s - before_s)


def _host(exchange: Exchange) -> tuple[str | None, int | None]:
    """Where the client thought it was going; else where it arrived."""
    host = exchange.headers.get(b"host")
    if host:
        return _place("//" + _text(host))
    server = exchange.wire.head.server
    return (None, None) if server is None else (server[0], server[1])


def _path(record: Record, path: str) -> str:
    # A token in a path opens what it names, to whoever reads the trace.
    shown = record.route if record.route.endswith("{token}") else path
    return shown[:MOST_CHARACTERS]


@lru_cache(maxsize=256)
def _place(url: str) -> tuple[str | None, int | None]:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None, None
    return parts.hostname, port or {"http": 80, "https": 443}.get(parts.scheme)


def place_of(attempt: Attempt) -> tuple[str | None, int | None]:
    """Host and port of the upstream."""
    return _place(attempt.url)


def _told(attributes: Attributes) -> Attributes:
    return {name: value for name, value in attributes.items() if value is not None}


def _text(raw: bytes) -> str:
    return raw[:MOST_CHARACTERS].decode("latin-1")


def _word(text: str | None) -> str | None:
    return text if text and _WORD.fullmatch(text) else None
