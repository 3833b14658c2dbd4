"""What LLMTune posts is taken if LLMTune signed it, lately, and within bounds."""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.secret import Secret
from gateway.webhooks.incoming import Bounds, Event, IncomingRefused, parse, verify

NOW_S: Final = 1_795_780_800.0
NOW_ISO: Final = "2026-11-27T12:00:00Z"
DAY_S: Final = 86_400.0
SECRET: Final = Secret("whsec_of-llmtune")
OTHER: Final = Secret("whsec_of-nobody")


def signature(body: bytes, secret: Secret = SECRET) -> bytes:
    key = secret.reveal().encode()
    return hmac.new(key, body, hashlib.sha256).hexdigest().encode()


def signed(body: bytes, secret: Secret = SECRET) -> list[tuple[bytes, bytes]]:
    return [(b"x-webhook-signature", signature(body, secret))]


def body_of(**fields: Any) -> bytes:
    event = {"event": "training.completed", "data": {"jobId": "j1"}}
    return json.dumps({**event, "timestamp": NOW_ISO, **fields}).encode()


def refusal(headers: list[tuple[bytes, bytes]], body: bytes, **options: Any) -> str:
    with pytest.raises(IncomingRefused) as refused:
        verify(headers, body, [SECRET], NOW_S, **options)
    return refused.value.reason


def with_signature_inside(fields: dict[str, Any], place: int, way: str) -> bytes:
    """A generation 3 body whose signature is its field number `place`."""
    items = list(fields.items())
    empty = dict([*items[:place], ("signature", ""), *items[place:]])
    base = empty if way == "emptied" else fields
    value = signature(compact(base)).decode()
    return compact({**empty, "signature": f"sha256={value}"})


def compact(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


GENERATION_3: Final = {
    "id": "evt_7",
    "type": "model.deployed",
    "workspace_id": "ws_1",
    "data": {"modelId": "m"},
    "created_at": NOW_ISO,
}


@pytest.mark.parametrize("name", [b"X-Webhook-Signature", b"x-llmtune-signature"])
@pytest.mark.parametrize("prefix", [b"", b"sha256="])
@pytest.mark.parametrize("case", [bytes.lower, bytes.upper], ids=["lower", "upper"])
def test_a_signed_body_is_taken_whichever_way_it_was_signed(
    name: bytes, prefix: bytes, case: Any
) -> None:
    body = body_of()

    event = verify([(name, prefix + case(signature(body)))], body, [SECRET], NOW_S)

    assert (event.type, event.data) == ("training.completed", {"jobId": "j1"})
    assert event.raw == body


def test_generation_1_says_only_when_it_was_delivered() -> None:
    body = compact({"event": "training.failed", "data": {}, "deliveredAt": NOW_ISO})

    event = verify(signed(body), body, [SECRET], NOW_S)

    assert (event.type, event.workspace) == ("training.failed", None)
    assert (event.occurred_at_s, event.sent_at_s) == (NOW_S, NOW_S)


@pytest.mark.parametrize("way", ["emptied", "removed"])
@pytest.mark.parametrize("place", range(6))
def test_generation_3_may_be_signed_inside_wherever_the_field_is(
    way: str, place: int
) -> None:
    body = with_signature_inside(GENERATION_3, place, way)

    event = verify([], body, [SECRET], NOW_S)

    assert (event.id, event.type, event.workspace) == (
        "evt_7",
        "model.deployed",
        "ws_1",
    )
    assert b"sha256=" not in event.raw


def test_a_signature_inside_is_not_looked_at_where_a_header_is() -> None:
    body = with_signature_inside(GENERATION_3, 5, "emptied")

    assert "forged" == refusal([(b"x-llmtune-signature", b"")], body)


def test_a_forged_signature_inside_is_refused() -> None:
    forged = compact({**GENERATION_3, "signature": "sha256=" + "0" * 64})

    assert "forged" == refusal([], forged)


def test_two_signatures_inside_are_refused() -> None:
    value = "sha256=" + "0" * 64
    body = compact({**GENERATION_3, "data": {"signature": value}, "signature": value})

    assert "unsigned" == refusal([], body)


def test_what_is_read_is_what_was_signed_and_not_what_was_moved_around_it() -> None:
    """Moved into `data`, the signature still holds for what is left without it."""
    value = signature(compact(GENERATION_3)).decode()
    moved = compact(GENERATION_3).replace(
        b'{"modelId":"m"',
        b'{"modelId":"m","signature":"sha256=' + value.encode() + b'"',
    )

    event = verify([], moved, [SECRET], NOW_S)

    assert event.data == {"modelId": "m"}


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param(signed(body_of(), OTHER), id="another secret"),
        pytest.param(signed(body_of(x=1)), id="another body"),
        pytest.param(
            [*signed(body_of()), (b"x-llmtune-signature", b"0" * 64)], id="one of two"
        ),
        pytest.param([(b"x-webhook-signature", b"")], id="empty"),
        pytest.param([(b"x-webhook-signature", b"sha256=")], id="only a prefix"),
        pytest.param([(b"x-webhook-signature", b"\xff" * 64)], id="no text"),
        pytest.param([(b"x-webhook-signature", b"sha1=" + b"0" * 40)], id="sha1"),
    ],
)
def test_a_forged_body_is_refused(headers: list[tuple[bytes, bytes]]) -> None:
    assert "forged" == refusal(headers, body_of())


def test_an_unsigned_body_is_refused() -> None:
    assert "unsigned" == refusal([(b"content-type", b"application/json")], body_of())


@pytest.mark.parametrize("secrets", [[], [Secret("")], [SECRET, Secret("")]], ids=len)
def test_nothing_is_taken_without_a_secret(secrets: list[Secret]) -> None:
    body = body_of()
    headers = signed(body, Secret(""))

    with pytest.raises(IncomingRefused) as refused:
        verify(headers, body, secrets, NOW_S)

    assert refused.value.reason == "no_secret"


@pytest.mark.parametrize("secrets", [[SECRET, OTHER], [OTHER, SECRET]], ids=["1", "2"])
def test_each_of_several_secrets_will_do(secrets: list[Secret]) -> None:
    body = body_of()

    assert verify(signed(body), body, secrets, NOW_S).type == "training.completed"


@pytest.mark.parametrize("field", ["deliveredAt", "timestamp", "created_at"])
@pytest.mark.parametrize(
    ("age_s", "reason"),
    [(5 * DAY_S + 1, "too_old"), (-301.0, "too_new")],
    ids=["late", "early"],
)
def test_an_event_from_another_time_is_refused(
    field: str, age_s: float, reason: str
) -> None:
    body = compact({"event": "e", "data": {}, field: NOW_S - age_s})

    assert reason == refusal(signed(body), body)


@pytest.mark.parametrize("age_s", [5 * DAY_S, 0, -300.0])
def test_an_event_of_the_bounds_own_age_is_taken(age_s: float) -> None:
    body = body_of(timestamp=NOW_S - age_s)

    assert verify(signed(body), body, [SECRET], NOW_S).sent_at_s == NOW_S - age_s


def test_an_old_event_that_is_delivered_now_is_taken() -> None:
    body = compact({"type": "e", "created_at": 1_700_000_000, "deliveredAt": NOW_S})

    event = verify(signed(body), body, [SECRET], NOW_S)

    assert (event.occurred_at_s, event.sent_at_s) == (1_700_000_000, NOW_S)


def test_a_batch_callback_without_a_time_is_taken() -> None:
    body = compact({"event": "batch.completed", "data": {"batchId": "b"}})

    assert verify(signed(body), body, [SECRET], NOW_S).sent_at_s is None


@pytest.mark.parametrize(
    "time",
    [
        *(NOW_S, int(NOW_S), int(NOW_S * 1000), str(int(NOW_S)), NOW_ISO),
        *("2026-11-27T13:00:00.000+01:00", "2026-11-27T12:00:00", "20261127T120000Z"),
    ],
)
def test_times_are_read_in_every_usual_form(time: Any) -> None:
    assert parse(body_of(timestamp=time)).sent_at_s == NOW_S


@pytest.mark.parametrize("field", ["timestamp", "created_at"])
@pytest.mark.parametrize(
    "time",
    [
        *("", "soon", "nan", [], {}, True, "²"),
        *("9" * 400, 1e30, 1e15 * 1000, -1, "0001-01-01T00:00:00"),
    ],
    ids=lambda time: str(time)[:20],
)
def test_a_time_that_is_none_is_refused(time: Any, field: str) -> None:
    """Also of an event that says besides when it was sent."""
    body = body_of(**{"deliveredAt": NOW_S, field: time})

    assert "malformed" == refusal(signed(body), body)


def test_an_oversized_body_is_refused_before_it_is_read() -> None:
    body = b" " * (1024 * 1024 + 1)

    assert "too_large" == refusal([], body)
    with pytest.raises(IncomingRefused, match="more than"):
        parse(body)


def test_a_body_of_the_largest_size_is_taken() -> None:
    body = body_of()
    exact = Bounds(max_bytes=len(body))

    assert verify(signed(body), body, [SECRET], NOW_S, exact).raw == body


@pytest.mark.parametrize("depth", [33, 100_000])
def test_a_deep_body_is_refused(depth: int) -> None:
    body = b'{"event":"e","data":{"x":' + b"[" * depth + b"]" * depth + b"}}"

    assert "malformed" == refusal(signed(body), body)


def test_brackets_in_text_are_not_depth() -> None:
    assert parse(body_of(data={"text": '\\"[{' * 100})).data["text"] == '\\"[{' * 100


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"[]", id="list"),
        pytest.param(b"null", id="null"),
        pytest.param(b"{", id="cut"),
        pytest.param(b"\xff\xfe", id="no text"),
        pytest.param(b'{"event":"\xff"}', id="no UTF-8"),
        pytest.param(b"{}", id="no type"),
        pytest.param(compact({"event": ""}), id="empty type"),
        pytest.param(compact({"event": 1}), id="type is a number"),
        pytest.param(compact({"event": "e" * 129}), id="long type"),
        pytest.param(compact({"event": "a b\n"}), id="type with a line break"),
        pytest.param(compact({"event": "e", "data": []}), id="data is a list"),
        pytest.param(body_of(workspace_id="w" * 129), id="long workspace"),
        pytest.param(body_of(workspace_id="w\n"), id="workspace with a line break"),
        pytest.param(body_of(data={"x": 1}).replace(b"1}", b"1e999}"), id="infinity"),
        pytest.param(body_of(data={"x": "\ud800"}), id="half a character"),
    ],
)
def test_a_body_that_is_no_event_is_refused(body: bytes) -> None:
    assert "malformed" == refusal(signed(body), body)


def test_an_event_type_nobody_has_heard_of_is_an_event() -> None:
    event = parse(body_of(event="galaxy.collided", extra=[1]))

    assert event.type == "galaxy.collided"


def test_both_spellings_of_a_workspace_are_read() -> None:
    assert parse(body_of(workspace_id="w")).workspace == "w"
    assert parse(body_of(workspaceId=7)).workspace == "7"


def test_a_redelivery_without_an_id_has_the_same_id() -> None:
    first = parse(compact({"event": "e", "data": {"a": 1, "b": 2}, "deliveredAt": 1}))
    again = parse(b'{"deliveredAt": 2, "data": {"b": 2, "a": 1}, "event": "e"}')

    assert first.id == again.id


@pytest.mark.parametrize(
    "other", [{"event": "f"}, {"data": {}}, {"workspace_id": "w"}, {"created_at": 1}]
)
def test_another_event_without_an_id_has_another_id(other: dict[str, Any]) -> None:
    assert parse(body_of()).id != parse(body_of(**other)).id


@pytest.mark.parametrize("own", ["x" * 129, "a.b", "a b", "é", "x" * 100_000])
def test_an_id_of_another_form_is_replaced_by_one_that_stays(own: str) -> None:
    event = parse(body_of(id=own))

    assert event.id == parse(body_of(id=own, data={})).id
    assert len(event.id) == len("evt_") + 64


def test_a_refusal_quotes_nothing_of_the_body() -> None:
    with pytest.raises(IncomingRefused) as refused:
        parse(b'{"event": {"s3cret": 1}}')

    assert "s3cret" not in str(refused.value)


@given(
    data=st.dictionaries(
        st.text(),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda inner: st.lists(inner, max_size=3),
            max_leaves=8,
        ),
        max_size=4,
    )
)
def test_every_json_that_was_signed_is_taken_and_its_id_stays(data: Any) -> None:
    body = body_of(data=json.loads(json.dumps(data).replace("NaN", "0")))
    body = body.replace(b"-Infinity", b"0").replace(b"Infinity", b"0")

    event = verify(signed(body), body, [SECRET], NOW_S)

    assert event.id == parse(body).id


@given(st.binary(max_size=200))
def test_any_bytes_are_an_event_or_refused(body: bytes) -> None:
    try:
        event = parse(body)
    except IncomingRefused:
        return
    assert isinstance(event, Event)


@given(place=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_one_bit_that_changed_is_noticed(place: int, bit: int) -> None:
    body = body_of()
    changed = bytearray(body)
    changed[place % len(body)] ^= 1 << bit

    assert "forged" == refusal(signed(body), bytes(changed))
