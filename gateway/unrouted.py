"""What is answered to bytes that never became a request."""

from __future__ import annotations

from http import HTTPStatus

from gateway.errors import GatewayError, InvalidRequest, envelope


class MalformedRequest(InvalidRequest):
    """Bytes that are no HTTP request."""

    code = "invalid_request"


def raw_answer(error: GatewayError, request_id: str) -> bytes:
    """The last answer of a connection, as it goes out."""
    body = envelope(error)
    status = HTTPStatus(error.http_status)
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\n"
        "content-type: application/json\r\n"
        f"content-length: {len(body)}\r\n"
        f"x-request-id: {request_id}\r\n"
        "connection: close\r\n\r\n"
    )
    return head.encode("ascii") + body
