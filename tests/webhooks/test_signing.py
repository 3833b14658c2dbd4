"""What we post is verified by Standard Webhooks' own library."""

from __future__ import annotations

import base64
import time
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

from gateway.secret import Secret
from gateway.webhooks.signing import find_secret_problem, new_secret, sign

OLD, NEW = new_secret(), new_secret()
BODY: Final = '{"type":"training.completed","data":{"text":"é"}}'.encode()


def received(secrets: list[Secret], body: bytes = BODY) -> dict[str, str]:
    headers = sign(secrets, "msg_1", int(time.time()), body)
    return {name.decode(): value.decode() for name, value in headers}


def test_standard_webhooks_verifies_what_we_signed() -> None:
    verified = Webhook(NEW.reveal()).verify(BODY, received([NEW]))

    assert verified["type"] == "training.completed"


@pytest.mark.parametrize("known", [OLD, NEW], ids=["old", "new"])
def test_during_a_rotation_either_secret_verifies(known: Secret) -> None:
    assert Webhook(known.reveal()).verify(BODY, received([NEW, OLD]))


def test_a_secret_that_did_not_sign_does_not_verify() -> None:
    with pytest.raises(WebhookVerificationError, match="No matching signature"):
        Webhook(OLD.reveal()).verify(BODY, received([NEW]))


def test_the_published_example_has_the_published_signature() -> None:
    """Of the specification's own reference libraries' tests."""
    secret = Secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    body = b'{"test": 2432232314}'

    headers = sign([secret], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)

    expected = b"v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert dict(headers)[b"webhook-signature"] == expected


@given(body=st.text(), key=st.binary(min_size=24, max_size=64))
def test_every_body_and_every_secret_verify(body: str, key: bytes) -> None:
    secret = Secret("whsec_" + base64.b64encode(key).decode())
    encoded = body.encode("utf-8", "replace")

    headers = received([secret], encoded)

    Webhook(secret.reveal()).verify(encoded, headers, json_parse=False)


@given(body=st.binary(min_size=1, max_size=64), bit=st.integers(0, 511))
def test_one_bit_that_changed_is_another_signature(body: bytes, bit: int) -> None:
    changed = bytearray(body)
    changed[bit // 8 % len(body)] ^= 1 << bit % 8

    assert sign([NEW], "m", 1, body) != sign([NEW], "m", 1, bytes(changed))


@pytest.mark.parametrize("message_id", ["", "a.b", "a b", "a\r\nb", "é", "x" * 129])
def test_an_id_that_could_be_mistaken_is_not_signed(message_id: str) -> None:
    with pytest.raises(ValueError, match="message id"):
        sign([NEW], message_id, int(time.time()), BODY)


def test_nothing_is_sent_unsigned() -> None:
    with pytest.raises(ValueError, match="nothing to sign with"):
        sign([], "m", int(time.time()), BODY)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("whsec_", id="no key"),
        pytest.param("whsec_" + base64.b64encode(b"x" * 23).decode(), id="short"),
        pytest.param("whsec_" + base64.b64encode(b"x" * 65).decode(), id="long"),
        pytest.param("whsec_%%%%" + "A" * 40, id="no base64"),
        pytest.param("whsec_é" + "A" * 40, id="no ASCII"),
        pytest.param(base64.b64encode(b"x" * 32).decode(), id="no prefix"),
    ],
)
def test_a_secret_of_another_form_is_named_and_signs_nothing(text: str) -> None:
    problem = find_secret_problem(text)

    assert problem is not None
    assert text[6:] not in problem or len(text) <= 6
    with pytest.raises(ValueError, match="whsec_"):
        sign([Secret(text)], "m", int(time.time()), BODY)


def test_new_secrets_are_good_and_differ() -> None:
    assert find_secret_problem(NEW.reveal()) is None
    assert NEW.reveal() != OLD.reveal()
