"""
One JSON line a request: who, what, how it ended, how long. No prompt text, no keys.

Every request has one, so it is encoded directly and handed to the log's handler as
bytes: 4 us and its share of a write, where a log record that is formatted and written
takes 35. Where somebody else listens to the logger, records are made for them.
"""

from __future__ import annotations

import logging
import random
import select
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from gateway.exchange import Exchange
from gateway.json_lines import JsonLines
from gateway.log_pipe import without_waiting
from gateway.record import LineHead, Record

logger = logging.getLogger("gateway.access")

_encode: Final = msgspec.json.Encoder().encode


def configure_logging(level: str, *, shares_output: bool = False) -> None:
    """
    Send every log line to standard output, as JSON, and never wait for who reads it.

    Where several processes share it, each writes so little at once that a pipe takes it
    whole (PIPE_BUF), and no line ends up within another's.
    """
    root = logging.getLogger()
    # In place of whatever a library has set up: one line is one JSON object.
    most_bytes = select.PIPE_BUF if shares_output else sys.maxsize
    output = without_waiting(sys.stdout)
    root.handlers[:] = [JsonLines(output, most_together_bytes=most_bytes)]
    root.setLevel(level.upper())
    # httpx and httpcore log request lines whose URLs are the operator's business.
    for name in ("httpx", "httpcore"):
        logging.getLogger(name).setLevel(max(root.level, logging.WARNING))
    # uvicorn, under the simulator, warns of every malformed request.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)


class AccessLog:
    """Writes the access line of a finished exchange."""

    def __init__(
        self,
        *,
        success_ratio: float = 1.0,
        now_ns: Callable[[], int] = time.time_ns,
        draw: Callable[[], float] = random.random,
    ) -> None:
        """Of answered requests a share has a line, as `draw` (0 to 1) decides."""
        self._success_ratio = success_ratio
        self._now_ns = now_ns
        self._draw = draw
        self._second = -1
        self._moment = ""

    def write(self, exchange: Exchange, method: str) -> None:
        if not logger.isEnabledFor(logging.INFO):
            return
        if self._success_ratio < 1 and exchange.record.outcome == "ok":
            if self._draw() >= self._success_ratio:
                return
            exchange.record.sample_ratio = self._success_ratio
        lines = only_lines()
        if lines is not None:
            try:
                line = self._line(exchange, method)
            except UnicodeEncodeError:
                # Half a surrogate pair. logging says what it thinks of it.
                pass
            else:
                lines.write_line(line)
                return
        logger.info("request", extra={"facts": facts_of(exchange, method)})

    def _line(self, exchange: Exchange, method: str) -> bytes:
        """The record's line, as `JsonFormatter` writes it; a test compares them."""
        head = LineHead(
            self._time(),
            "info",
            logger.name,
            "request",
            exchange.request_id,
            method,
            round(exchange.elapsed_s * 1000, 2),
        )
        return b"%b,%b\n" % (_encode(head)[:-1], _members(exchange.record)[1:])

    def _time(self) -> str:
        now_s, rest_ms = divmod(self._now_ns() // 1_000_000, 1000)
        # Writing out a time takes 2 us, and a busy second has thousands of lines.
        if now_s != self._second:
            self._second = now_s
            self._moment = datetime.fromtimestamp(now_s, UTC).strftime(
                "%Y-%m-%dT%H:%M:%S"
            )
        return f"{self._moment}.{rest_ms:03d}+00:00"


def _members(record: Record) -> bytes:
    """A record as JSON; absent rather than null: most lines lack most facts."""
    if record.first_token_s is None:
        return _encode(record)
    first_ms = _encode(round(record.first_token_s * 1000, 2))
    rest = _encode(msgspec.structs.replace(record, first_token_s=None))
    return b'%b,"first_token_ms":%b}' % (rest[:-1], first_ms)


def facts_of(exchange: Exchange, method: str) -> dict[str, Any]:
    """The line's members, for a log record."""
    record = exchange.record
    facts: dict[str, Any] = {
        "request_id": exchange.request_id,
        "method": method,
        "duration_ms": round(exchange.elapsed_s * 1000, 2),
    }
    for name, value in msgspec.structs.asdict(record).items():
        if value is not None:
            facts[name] = value
    if record.first_token_s is not None:
        facts["first_token_ms"] = round(facts.pop("first_token_s") * 1000, 2)
    return facts


def only_lines() -> JsonLines | None:
    """The handler of ours that alone would see an access record, if that is so."""
    found: JsonLines | None = None
    if logger.filters:
        return None
    at: logging.Logger | None = logger
    while at is not None:
        for handler in at.handlers:
            if found is not None or type(handler) is not JsonLines:
                return None
            found = handler
        at = at.parent if at.propagate else None
    return found if found is not None and found.takes_lines(logging.INFO) else None
