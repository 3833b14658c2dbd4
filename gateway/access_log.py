"""
One JSON line a request: who, what, how it ended, how long. No prompt text, no keys.
"""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from gateway.exchange import Exchange

logger = logging.getLogger("gateway.access")

_encode: Final = msgspec.json.Encoder().encode


class JsonFormatter(logging.Formatter):
    """Every log record as one JSON object on one line."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(
                timespec="milliseconds"
            ),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= getattr(record, "facts", {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return _encode(line).decode()


def configure_logging(level: str) -> None:
    """Send every log line to standard output, as JSON."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    # In place of whatever a library has set up: one line is one JSON object.
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # httpx and httpcore log request lines whose URLs are the operator's business.
    for name in ("httpx", "httpcore"):
        logging.getLogger(name).setLevel(max(root.level, logging.WARNING))
    # uvicorn warns of every malformed request, which a stranger can send by the million
    # and which has a line of ours.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)


class AccessLog:
    """Writes the access line of a finished exchange."""

    def write(self, exchange: Exchange, method: str) -> None:
        if not logger.isEnabledFor(logging.INFO):
            return
        record = exchange.record
        facts: dict[str, Any] = {
            "request_id": exchange.request_id,
            "method": method,
            "duration_ms": round(exchange.elapsed_s * 1000, 2),
        }
        # Absent rather than null: most lines lack most facts.
        for name, value in msgspec.structs.asdict(record).items():
            if value is not None:
                facts[name] = value
        if record.first_token_s is not None:
            facts["first_token_ms"] = round(facts.pop("first_token_s") * 1000, 2)
        logger.info("request", extra={"facts": facts})
