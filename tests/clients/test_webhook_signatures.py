"""openai-python verifies our webhooks as it does OpenAI's."""

from __future__ import annotations

import json
import subprocess
import time
from typing import Final

import msgspec
import pytest

from gateway.webhooks.outbox import Delivery
from gateway.webhooks.signing import new_secret, sign
from tests.clients.prepare import COMMAND, PYTHON_VERSIONS, is_python_ready, python_of

# Of each event that is OpenAI's own, which of its SDKs' classes it has to become.
CLASSES: Final = {
    "batch.completed": "BatchCompletedWebhookEvent",
    "batch.failed": "BatchFailedWebhookEvent",
    "batch.expired": "BatchExpiredWebhookEvent",
    "batch.cancelled": "BatchCancelledWebhookEvent",
    "fine_tuning.job.succeeded": "FineTuningJobSucceededWebhookEvent",
    "fine_tuning.job.failed": "FineTuningJobFailedWebhookEvent",
    "fine_tuning.job.cancelled": "FineTuningJobCancelledWebhookEvent",
}

CASES: Final = [
    *((version, "batch.completed") for version in PYTHON_VERSIONS),
    *((PYTHON_VERSIONS[-1], kind) for kind in CLASSES if kind != "batch.completed"),
]


def body_of(event_type: str) -> bytes:
    return Delivery(
        id="dlv_1",
        workspace="acme",
        registration_id="r",
        receiver="https://hooks.example.com",
        event_id="evt_1",
        type=event_type,
        created_at=1_795_780_800,
        data=msgspec.Raw(b'{"id":"job_1"}'),
    ).body()


BODY: Final = body_of("batch.completed")
# Prints whether the signature is good, and the type of what it unwraps.
PROGRAM: Final = """
import json, sys
from openai import InvalidWebhookSignatureError, OpenAI
given = json.load(sys.stdin)
hooks = OpenAI(api_key="none").webhooks
arguments = given["body"], given["headers"]
try:
    hooks.verify_signature(*arguments, secret=given["secret"])
    event = hooks.unwrap(*arguments, secret=given["secret"])
    name = type(event).__name__
    print("good", name, event.type, event.id, event.created_at, event.data.id)
except InvalidWebhookSignatureError:
    print("bad")
"""


def verdict(
    version: str, secret: str, headers: dict[str, str], body: bytes = BODY
) -> str:
    if not is_python_ready(version):
        pytest.fail(f"openai-python {version} is not installed; run {COMMAND}")
    given = {"body": body.decode(), "headers": headers, "secret": secret}
    ran = subprocess.run(
        [str(python_of(version)), "-c", PROGRAM],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


@pytest.mark.parametrize(("version", "event_type"), CASES)
def test_openai_python_unwraps_what_we_signed(version: str, event_type: str) -> None:
    """With the receiver's own secret and a newer one signing beside it."""
    secret, newer = new_secret(), new_secret()
    body = body_of(event_type)
    headers = {
        name.decode(): value.decode()
        for name, value in sign([newer, secret], "msg_1", int(time.time()), body)
    }

    assert (
        verdict(version, secret.reveal(), headers, body)
        == f"good {CLASSES[event_type]} {event_type} evt_1 1795780800 job_1"
    )


@pytest.mark.parametrize("version", PYTHON_VERSIONS)
def test_openai_python_refuses_what_another_secret_signed(version: str) -> None:
    """Which shows that its consent above means something."""
    headers = {
        name.decode(): value.decode()
        for name, value in sign([new_secret()], "msg_1", int(time.time()), BODY)
    }

    assert verdict(version, new_secret().reveal(), headers) == "bad"
