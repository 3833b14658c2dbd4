"""An attempt ends in time, and in an outcome whatever the receiver does."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from email.utils import formatdate
from pathlib import Path

import pytest

from gateway.webhooks.delivery import Outcome, deliver
from gateway.webhooks.targets import Allowed
from tests.servers.tls import Certificates
from tests.webhooks.conftest import (
    BODY,
    LOOPBACK,
    NO_TRUST,
    NOW_S,
    Receiver,
    receiving,
    send,
    until_left,
)


def answer(status: int, *headers: str, body: bytes = b"") -> bytes:
    lines = [f"HTTP/1.1 {status} Some Reason", *headers, f"content-length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


async def outcome_of(said: bytes) -> Outcome:
    async with receiving(Receiver(said)) as receiver:
        return await send(receiver.url)


async def test_a_receiver_gets_the_body_and_the_headers() -> None:
    async with receiving(Receiver(answer(204))) as receiver:
        outcome = await send(receiver.url + "?token=x")

    head, _, body = receiver.requests[0].partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert outcome == Outcome(status=204)
    assert outcome.is_delivered
    assert lines[0] == b"POST /hook?token=x HTTP/1.1"
    assert b"host: 127.0.0.1:%d" % receiver.port in lines
    assert b"content-length: %d" % len(BODY) in lines
    assert b"webhook-id: msg_1" in lines
    assert body == BODY


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
async def test_every_success_is_a_delivery(status: int) -> None:
    assert (await outcome_of(answer(status))).is_delivered


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed_and_is_no_delivery(status: int) -> None:
    async with receiving(Receiver(answer(200))) as elsewhere:
        said = answer(status, f"location: {elsewhere.url}")
        outcome = await outcome_of(said)

    assert outcome == Outcome(status=status)
    assert not outcome.is_delivered
    assert elsewhere.requests == []


@pytest.mark.parametrize("status", [400, 401, 404, 413, 429, 500, 503])
async def test_a_refusal_may_be_tried_again(status: int) -> None:
    outcome = await outcome_of(answer(status))

    assert outcome == Outcome(status=status)
    assert not outcome.is_delivered


async def test_a_receiver_that_is_gone_is_gone_for_good() -> None:
    assert await outcome_of(answer(410)) == Outcome(status=410, is_final=True)


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("value", "wait_s"),
    [
        ("120", 120.0),
        ("0", 0.0),
        ("-5", 0.0),
        ("1.5", 1.5),
        ("86400", 3600.0),
        ("9" * 400, 3600.0),
        (formatdate(NOW_S + 90, usegmt=True), 90.0),
        (formatdate(NOW_S - 90, usegmt=True), 0.0),
        (formatdate(NOW_S + 90_000, usegmt=True), 3600.0),
        ("soon", None),
        ("nan", None),
    ],
)
async def test_a_receiver_may_ask_for_a_pause_of_up_to_an_hour(
    status: int, value: str, wait_s: float | None
) -> None:
    outcome = await outcome_of(answer(status, f"Retry-After: {value}"))

    assert outcome.retry_after_s == wait_s


async def test_only_who_is_overloaded_may_ask_for_a_pause() -> None:
    outcome = await outcome_of(answer(500, "Retry-After: 120"))

    assert outcome.retry_after_s is None


async def test_interim_answers_are_passed_over() -> None:
    interim = b"HTTP/1.1 103 Early Hints\r\nretry-after: 9\r\n\r\n"

    assert await outcome_of(interim * 3 + answer(503)) == Outcome(status=503)


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(b"SSH-2.0-OpenSSH_9.6\r\n", id="another protocol"),
        pytest.param(b"\x15\x03\x01\x00\x02\x02\x46", id="TLS"),
        pytest.param(b"HTTP/1.1 abc\r\n\r\n", id="no status"),
        pytest.param(b"HTTP/1.1 101 Switching\r\nupgrade: x\r\n\r\n", id="upgrade"),
        pytest.param(b"HTTP/1.1 200 OK\r\nx: " + b"y" * 200_000, id="endless head"),
        pytest.param(b"HTTP/1.1 100 C\r\n\r\n" * 10_000, id="endless interim answers"),
        pytest.param(b"HTTP/1.1 200 OK\r\nbad\x00name: x\r\n\r\n", id="bad header"),
    ],
)
async def test_what_is_no_http_is_an_outcome(said: bytes) -> None:
    assert await outcome_of(said) == Outcome(fault="not_http")


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\nx: y\r\n"])
async def test_a_receiver_that_hangs_up_is_an_outcome(said: bytes) -> None:
    assert await outcome_of(said) == Outcome(fault="hung_up")


async def test_a_body_that_ends_early_was_still_an_answer() -> None:
    said = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf"

    assert await outcome_of(said) == Outcome(status=200)


async def test_an_endless_body_is_left_after_64_kib() -> None:
    async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del reader
        while True:
            writer.write(b"x" * 4096)
            await writer.drain()

    said = b"HTTP/1.1 200 OK\r\n\r\n"
    async with receiving(Receiver(said, then=pour)) as receiver:
        outcome = await send(receiver.url)
        await asyncio.wait_for(receiver.was_left.wait(), 10)

    assert outcome == Outcome(status=200)


async def test_a_silent_receiver_meets_the_deadline() -> None:
    started_s = asyncio.get_running_loop().time()
    async with receiving(Receiver(b"", then=until_left)) as receiver:
        outcome = await send(receiver.url, timeout_s=0.2)
        await asyncio.wait_for(receiver.was_left.wait(), 10)

    assert outcome == Outcome(fault="timeout")
    assert asyncio.get_running_loop().time() - started_s < 5


async def test_a_receiver_that_trickles_meets_the_same_deadline() -> None:
    """Each byte comes in time, and the head never does."""

    async def trickle(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        leaving = asyncio.ensure_future(reader.read())
        while not leaving.done():
            writer.write(b"x")
            await asyncio.wait([leaving], timeout=0.02)
        await leaving

    said = b"HTTP/1.1 200 OK\r\nx: "
    async with receiving(Receiver(said, then=trickle)) as receiver:
        outcome = await send(receiver.url, timeout_s=0.2)

    assert outcome == Outcome(fault="timeout")


async def test_a_status_counts_although_its_body_never_ends() -> None:
    """The receiver has decided: asked again, it would act twice."""
    said = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n"
    async with receiving(Receiver(said, then=until_left)) as receiver:
        outcome = await send(receiver.url, timeout_s=0.2)

    assert outcome == Outcome(status=200)


async def test_a_resolver_that_hangs_meets_the_deadline() -> None:
    async def hang(host: str, port: int) -> Sequence[str]:
        del host, port
        loop = asyncio.get_running_loop()
        never: asyncio.Future[Sequence[str]] = loop.create_future()
        return await never

    outcome = await send("https://a.com", lookup=hang, timeout_s=0.05)

    assert outcome == Outcome(fault="timeout")


async def test_a_large_body_that_is_refused_early_is_an_outcome() -> None:
    body = BODY + b" " * 8_000_000
    async with receiving(Receiver(answer(413), then=until_left)) as receiver:
        outcome = await deliver(
            receiver.url,
            [],
            body,
            allowed=LOOPBACK,
            trust=lambda: NO_TRUST,
            now_s=NOW_S,
        )

    assert outcome == Outcome(status=413)


async def test_nobody_there_is_an_outcome() -> None:
    async with receiving(Receiver(b"")) as receiver:
        url = receiver.url

    assert await send(url) == Outcome(fault="connect_failed")


async def test_a_name_nobody_has_is_an_outcome() -> None:
    async def unknown(host: str, port: int) -> Sequence[str]:
        raise OSError(f"{host} {port} is not known")

    assert await send("https://a.com", lookup=unknown) == Outcome(fault="unknown_host")


async def test_loopback_is_refused_unless_it_is_allowed() -> None:
    async with receiving(Receiver(answer(200))) as receiver:
        outcome = await send(receiver.url, allowed=Allowed())

    assert outcome == Outcome(fault="refused_target")
    assert receiver.requests == []


async def test_a_name_that_changes_its_mind_is_asked_only_once() -> None:
    """DNS rebinding: public when it is checked, inside when it would be used."""
    async with receiving(Receiver(answer(200))) as receiver:
        asked: list[str] = []

        async def rebind(host: str, port: int) -> Sequence[str]:
            del port
            asked.append(host)
            # What is not allowed stands for what is inside: the second answer.
            return ["127.0.0.1"] if len(asked) == 1 else ["127.0.0.2"]

        url = f"http://rebind.example.com:{receiver.port}/"
        allowed = Allowed(["127.0.0.1/32"])
        first = await send(url, allowed=allowed, lookup=rebind)
        second = await send(url, allowed=allowed, lookup=rebind)

    assert (first, second) == (Outcome(status=200), Outcome(fault="refused_target"))
    assert asked == ["rebind.example.com"] * 2
    host = b"host: rebind.example.com:%d" % receiver.port
    assert [host in request for request in receiver.requests] == [True]


async def test_the_next_address_is_tried_where_one_leads_nowhere() -> None:
    async def both(host: str, port: int) -> Sequence[str]:
        del host, port
        return ["127.0.0.9", "127.0.0.1"]

    async with receiving(Receiver(answer(200))) as receiver:
        url = f"http://a.com:{receiver.port}/"
        assert await send(url, lookup=both) == Outcome(status=200)


async def test_a_delivery_that_is_cancelled_leaves_its_receiver() -> None:
    async with receiving(Receiver(b"", then=until_left)) as receiver:
        sending = asyncio.ensure_future(send(receiver.url))
        await asyncio.wait_for(receiver.was_asked.wait(), 10)
        sending.cancel()
        await asyncio.wait_for(receiver.was_left.wait(), 10)

    with pytest.raises(asyncio.CancelledError):
        await sending


@pytest.mark.parametrize(
    "header",
    [
        (b"x", b"a\r\nhost: b"),
        (b"x\r\ny", b"a"),
        (b"", b"a"),
        (b"Host", b"a.com"),
        (b"Content-Length", b"0"),
        (b"transfer-encoding", b"chunked"),
        (b"x", b"a\x00"),
    ],
)
async def test_a_header_that_would_break_the_request_is_our_own_error(
    header: tuple[bytes, bytes],
) -> None:
    with pytest.raises(ValueError, match="header"):
        await deliver(
            "http://127.0.0.1:1/",
            [header],
            BODY,
            allowed=LOOPBACK,
            trust=lambda: NO_TRUST,
            now_s=NOW_S,
        )


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("tls"))


def trusting(ca_cert: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(ca_cert))


async def at_loopback(host: str, port: int) -> Sequence[str]:
    del host, port
    return ["127.0.0.1"]


async def test_tls_asks_for_the_name_and_connects_to_the_checked_address(
    certificates: Certificates,
) -> None:
    """SNI, certificate and Host are the name's; the resolver has the address."""
    names: list[str | None] = []
    tls = certificates.server_context()
    tls.sni_callback = lambda _, name, __: names.append(name)
    async with receiving(Receiver(answer(200)), tls) as receiver:
        outcome = await send(
            f"https://localhost:{receiver.port}/",
            lookup=at_loopback,
            trust=lambda: trusting(certificates.ca_cert),
        )

    assert (outcome, names) == (Outcome(status=200), ["localhost"])
    assert b"host: localhost:%d\r\n" % receiver.port in receiver.requests[0]


async def test_a_receiver_that_speaks_no_tls_is_an_outcome() -> None:
    async with receiving(Receiver(b"", then=until_left)) as receiver:
        url = receiver.url.replace("http:", "https:")
        outcome = await send(url, timeout_s=0.2)
        await asyncio.wait_for(receiver.was_left.wait(), 10)

    assert outcome == Outcome(fault="timeout")


async def test_a_receiver_that_answers_a_handshake_in_http_is_an_outcome() -> None:
    receiver = Receiver(answer(400), then=until_left, listens=False)
    async with receiving(receiver):
        outcome = await send(receiver.url.replace("http:", "https:"))

    assert outcome == Outcome(fault="tls_failed")


@pytest.mark.parametrize("wrong", ["name", "authority"])
async def test_a_receiver_that_cannot_prove_itself_gets_nothing(
    certificates: Certificates, wrong: str
) -> None:
    name = "other.example.com" if wrong == "name" else "localhost"
    trust = trusting(certificates.ca_cert) if wrong == "name" else NO_TRUST
    tls = certificates.server_context()
    async with receiving(Receiver(answer(200)), tls) as receiver:
        url = f"https://{name}:{receiver.port}/"
        outcome = await send(url, lookup=at_loopback, trust=lambda: trust)

    assert outcome == Outcome(fault="tls_failed")
    assert receiver.requests == []
