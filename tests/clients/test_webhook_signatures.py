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

BODY: Final = Delivery(
    id="dlv_1",
    workspace="acme",
    registration_id="r",
    receiver="https://hooks.example.com",
    event_id="evt_1",
    type="batch.completed",
    created_at=1_795_780_800,
    data=msgspec.Raw(b'{"id":"batch_1"}'),
).body()
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
    print("good", event.type, event.id, event.created_at, event.data.id)
except InvalidWebhookSignatureError:
    print("bad")
"""


def verdict(version: str, secret: str, headers: dict[str, str]) -> str:
    if not is_python_ready(version):
        pytest.fail(f"openai-python {version} is not installed; run {COMMAND}")
    given = {"body": BODY.decode(), "headers": headers, "secret": secret}
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


@pytest.mark.parametrize("version", PYTHON_VERSIONS)
def test_openai_python_unwraps_what_we_signed(version: str) -> None:
    """With the receiver's own secret and a newer one signing beside it."""
    secret, newer = new_secret(), new_secret()
    headers = {
        name.decode(): value.decode()
        for name, value in sign([newer, secret], "msg_1", int(time.time()), BODY)
    }

    assert (
        verdict(version, secret.reveal(), headers)
        == "good batch.completed evt_1 1795780800 batch_1"
    )


@pytest.mark.parametrize("version", PYTHON_VERSIONS)
def test_openai_python_refuses_what_another_secret_signed(version: str) -> None:
    """Which shows that its consent above means something."""
    headers = {
        name.decode(): value.decode()
        for name, value in sign([new_secret()], "msg_1", int(time.time()), BODY)
    }

    assert verdict(version, new_secret().reveal(), headers) == "bad"
