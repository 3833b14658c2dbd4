"""GETs upstream: lists of models, and how a fine-tune stands."""

from __future__ import annotations

from typing import Final
from urllib.parse import quote

import httpx
import msgspec

from gateway.translation.own_jobs import FINE_TUNE_PATH
from gateway.upstream.client import Credentials, UpstreamAnswer
from gateway.upstream.deadline import Deadline, Timeouts
from gateway.upstream.faults import from_transport_error
from gateway.upstream.limits import Limits
from gateway.upstream.refusal import refusal_of
from gateway.upstream.sending import HttpxAnswer

# A look at a record; whoever gets none looks again.
READ_TIMEOUT_S: Final = 10.0
MAX_READ_BYTES: Final = 1024 * 1024


class Told(msgspec.Struct, frozen=True):
    """An answer, read to its end."""

    status: int
    headers: httpx.Headers
    body: bytes


def deadline_of(total_s: float) -> Deadline:
    """One whose every stage may take all of it."""
    return Deadline(Timeouts(total_s, total_s, total_s, total_s))


async def get(
    transport: httpx.AsyncBaseTransport,
    url: str,
    credentials: Credentials,
    deadline: Deadline,
    *,
    missed: str,
    max_bytes: int,
) -> Told:
    """What is there; GatewayError if nobody answers in time, whatever the status."""
    within_s = deadline.timeouts.total_s
    request = httpx.Request(
        "GET",
        url,
        headers={
            "authorization": f"Bearer {credentials.api_key.reveal()}",
            "accept": "application/json",
            "accept-encoding": "identity",
        },
        extensions={"timeout": {"connect": within_s, "pool": within_s}},
    )
    try:
        async with deadline.within(within_s, missed):
            response = await transport.handle_async_request(request)
    except httpx.TransportError as error:
        raise from_transport_error(error) from None
    limits = Limits(within_s, within_s, deadline.ends_at_s, deadline.ends_at_s)
    async with UpstreamAnswer(HttpxAnswer(response, limits), max_bytes) as answer:
        body = await answer.read()
    return Told(response.status_code, response.headers, body)


async def read_fine_tune(
    transport: httpx.AsyncBaseTransport, credentials: Credentials, job_id: str
) -> bytes:
    """How LLMTune says that a fine-tune stands; GatewayError."""
    path = f"{FINE_TUNE_PATH}/{quote(job_id, safe='')}"
    told = await get(
        transport,
        credentials.base_url + path,
        credentials,
        deadline_of(READ_TIMEOUT_S),
        missed="did not show the job",
        max_bytes=MAX_READ_BYTES,
    )
    if told.status == 200:
        return told.body
    raise refusal_of(
        told.status,
        told.headers,
        told.body,
        model="",
        is_callers_key=credentials.is_callers_key,
    )
