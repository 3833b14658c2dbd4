"""How LLMTune says that a job stands, as far as it says anything."""

from __future__ import annotations

import logging

from gateway.errors import GatewayError
from gateway.fine_tuning.answers import JobAnswer, read_job_body
from gateway.fine_tuning.parts import TuneParts
from gateway.fine_tuning.record import TuneRecord
from gateway.upstream.client import Credentials

logger = logging.getLogger(__name__)


async def ask(
    parts: TuneParts, record: TuneRecord, credentials: Credentials
) -> JobAnswer:
    """Of a job that LLMTune has; an empty answer where it gives none."""
    assert record.upstream_id is not None  # noqa: S101 - as the caller knows
    try:
        return read_job_body(await parts.read_job(credentials, record.upstream_id))
    except GatewayError as error:
        facts = {"job": record.id, "code": error.error_code}
        logger.warning("a fine-tune could not be looked at", extra={"facts": facts})
        return JobAnswer()
