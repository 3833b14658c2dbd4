"""
The edge of the edge: uvicorn's HTTP/1.1 protocol with the bounds it lacks.

uvicorn parses with httptools, which sets no bound on a header section and no time for
it to arrive, and answers what it cannot parse as plain text. Here a header section has
a size and a deadline, every refusal is an envelope, and a handler can cut its
connection.
"""

from __future__ import annotations

import asyncio
import http
import logging
import uuid
from typing import Any, ClassVar

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.errors import (
    GatewayError,
    HeadersTooLarge,
    InvalidRequest,
    RequestTimedOut,
    envelope,
)

logger = logging.getLogger("gateway.access")


class MalformedRequest(InvalidRequest):
    """Bytes that are no HTTP request."""

    code = "invalid_request"


class EdgeProtocol(HttpToolsProtocol):
    """One client connection; `bounded` makes the class for a gateway's settings."""

    max_header_bytes: ClassVar[int]
    header_timeout_s: ClassVar[float]

    @classmethod
    def bounded(
        cls, *, max_header_bytes: int, header_timeout_s: float
    ) -> type[EdgeProtocol]:
        """uvicorn makes protocols by class, so the bounds have to be the class's."""
        bounds = {
            "max_header_bytes": max_header_bytes,
            "header_timeout_s": header_timeout_s,
        }
        return type("BoundedEdgeProtocol", (cls,), bounds)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Ours is written by the middleware, with what uvicorn cannot know.
        self.access_log = False
        self._fault: GatewayError | None = None
        self._is_in_headers = True
        self._header_bytes = 0
        self._unparsed_bytes = 0
        self._header_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn narrows it the same way
        super().connection_made(transport)
        self._start_header_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_header_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._is_in_headers and self.parser is not None:
            # A header without an end reaches no callback, only this sum does.
            self._unparsed_bytes += len(data)
            if self._unparsed_bytes > self.max_header_bytes:
                self._fault = self._too_large()
                self.send_400_response("")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {"llmtune.abort": self.transport.abort}  # type: ignore[dict-item]  # a callable of our own beside ASGI's dicts
        self._is_in_headers = True
        self._header_bytes = self._unparsed_bytes = 0
        if self._header_timer is None:
            self._start_header_timer()

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._count(len(name) + len(value) + len(b": \r\n"))

    def on_headers_complete(self) -> None:
        self._is_in_headers = False
        self._unparsed_bytes = 0
        self._stop_header_timer()
        super().on_headers_complete()

    def _count(self, more_bytes: int) -> None:
        self._header_bytes += more_bytes
        if self._header_bytes > self.max_header_bytes:
            self._fault = self._too_large()
            # Ends the parse; uvicorn then asks for a 400, which becomes the fault's
            # answer.
            raise httptools.HttpParserError("header section too large")

    def _too_large(self) -> HeadersTooLarge:
        return HeadersTooLarge(
            f"The request's headers are larger than {self.max_header_bytes} bytes."
        )

    def _start_header_timer(self) -> None:
        self._header_timer = self.loop.call_later(
            self.header_timeout_s, self._header_time_is_up
        )

    def _stop_header_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _header_time_is_up(self) -> None:
        self._header_timer = None
        if not self._unparsed_bytes:
            # Nothing was asked, so nothing is answered: a connection opened in advance.
            self.transport.close()
            return
        self._fault = RequestTimedOut("The request's headers did not arrive in time.")
        self.send_400_response("")

    def send_400_response(self, msg: str) -> None:
        """Answer what never became a request, in the form of every other error."""
        if self.transport.is_closing():
            return
        if self.cycle is not None and not self.cycle.response_complete:
            if self.cycle.response_started or self.pipeline:
                # An answer is on its way: bytes of a second one would corrupt it.
                self.transport.close()
                return
            # A body that cannot be read. Its handler learns that the client is gone,
            # and whatever it still answers is dropped.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        error = self._fault or MalformedRequest("The request is not valid HTTP/1.1.")
        request_id = f"req_{uuid.uuid4().hex}"
        # These bytes never became a request, so no access line will tell of them.
        facts = {
            "request_id": request_id,
            "status": error.http_status,
            "error_code": error.error_code,
        }
        logger.info("refused before routing", extra={"facts": facts})
        self.transport.write(_raw_response(error, request_id))
        self.transport.close()

    def timeout_keep_alive_handler(self) -> None:
        """
        End an idle connection; one that still has not read its answer is cut off.

        Closing would wait for it to read, which a slow reader can draw out for ever.
        """
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            super().timeout_keep_alive_handler()


def _raw_response(error: GatewayError, request_id: str) -> bytes:
    body = envelope(error)
    status = http.HTTPStatus(error.http_status)
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\n"
        "content-type: application/json\r\n"
        f"content-length: {len(body)}\r\n"
        f"x-request-id: {request_id}\r\n"
        "connection: close\r\n\r\n"
    )
    return head.encode("ascii") + body
