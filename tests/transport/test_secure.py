"""TLS is verified and names its server; a Unix socket carries the same calls."""

from __future__ import annotations

import asyncio
import ssl
import time
from pathlib import Path

import httpx
import pytest

from gateway.upstream.lean_transport import LeanTransport
from gateway.upstream.transport import certificate_expiry_s
from tests.servers.tls import Certificates
from tests.transport.conftest import OpenTransport, ask, serving
from tests.upstream import whole

TEXT = b'{"text": "Hello."}'


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("tls"))


class TlsUpstream:
    """Answers over TLS, and remembers which server was asked for."""

    def __init__(self, certificates: Certificates) -> None:
        self.names: list[str | None] = []
        self.protocols: list[str | None] = []
        self.trust = certificates.server_context()
        self.trust.sni_callback = self._asked_for
        self.trust.set_alpn_protocols(["h2", "http/1.1"])

    def _asked_for(self, _: object, name: str | None, __: object) -> None:
        self.names.append(name)

    async def answer(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        spoken: ssl.SSLObject = writer.get_extra_info("ssl_object")
        self.protocols.append(spoken.selected_alpn_protocol())
        await reader.readuntil(b"\r\n\r\n{}")
        writer.write(whole(TEXT))
        await reader.read()


async def test_server_is_verified_and_asked_for_by_name(
    open_transport: OpenTransport,
    certificates: Certificates,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By the authority that `SSL_CERT_FILE` names, with SNI."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.ca_cert))
    upstream = TlsUpstream(certificates)

    async with serving(upstream.answer, ssl=upstream.trust) as url:
        answer = await ask(open_transport(), url)

    assert (answer.body, upstream.names) == (TEXT, ["localhost"])
    assert upstream.protocols == ["http/1.1"]


@pytest.mark.parametrize("wrong", ["name", "authority"])
async def test_server_that_cannot_prove_itself_is_refused(
    open_transport: OpenTransport,
    certificates: Certificates,
    monkeypatch: pytest.MonkeyPatch,
    wrong: str,
) -> None:
    """Another name, or an authority nobody trusts: nothing is sent."""
    if wrong == "name":
        monkeypatch.setenv("SSL_CERT_FILE", str(certificates.ca_cert))
    upstream = TlsUpstream(certificates)

    async with serving(upstream.answer, ssl=upstream.trust) as url:
        asked = url.replace("localhost", "127.0.0.1") if wrong == "name" else url
        with pytest.raises(httpx.ConnectError):
            await ask(open_transport(), asked)

    assert upstream.protocols == []


async def test_unix_socket_is_used_whatever_the_host(
    open_transport: OpenTransport, tmp_path: Path
) -> None:
    """As for a proxy beside the gateway in its pod."""
    asked: list[bytes] = []

    async def answer(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(whole(TEXT))
        await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(answer, str(tmp_path / "proxy.sock"))
    transport = open_transport(uds=tmp_path / "proxy.sock")

    found = await ask(transport, "http://upstream.invalid/v1")

    assert (found.body, len(asked)) == (TEXT, 1)
    assert b"upstream.invalid" in asked[0]
    server.close()


@pytest.mark.parametrize("kind", ["stock"])
async def test_proxy_is_asked_in_place_of_the_upstream(
    open_transport: OpenTransport,
) -> None:
    """With its own credentials, and never a look-up of the upstream's name."""
    asked = b""

    async def answer(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        nonlocal asked
        asked = await reader.readuntil(b"\r\n\r\n")
        writer.write(whole(TEXT))
        await reader.read()

    async with serving(answer) as url:
        proxy = url.removesuffix("/v1").replace("http://", "http://me:secret@")
        found = await ask(open_transport(proxy=proxy), "http://upstream.invalid/v1")

    assert found.body == TEXT
    assert asked.startswith(b"POST http://upstream.invalid/v1/chat/completions ")
    assert b"\r\nproxy-authorization: basic " in asked.lower()


@pytest.mark.parametrize("kind", ["lean"])
async def test_only_http_is_spoken(open_transport: OpenTransport) -> None:
    """A URL of another scheme is a mistake, not a guess."""
    transport = open_transport()
    assert isinstance(transport, LeanTransport)

    with pytest.raises(httpx.UnsupportedProtocol):
        await ask(transport, "ftp://127.0.0.1/v1")
    assert (transport.pool.busy, transport.pool.idle) == (0, 0)


async def test_the_servers_certificate_tells_when_it_expires(
    open_transport: OpenTransport,
    certificates: Certificates,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before it does, of the lean transport; without TLS there is none."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.ca_cert))
    upstream = TlsUpstream(certificates)
    transport = open_transport()
    assert certificate_expiry_s(transport) is None

    async with serving(upstream.answer, ssl=upstream.trust) as url:
        await ask(transport, url)

    expires_s = certificate_expiry_s(transport)
    if isinstance(transport, LeanTransport):
        assert expires_s is not None
        assert expires_s > time.time()
    else:
        assert expires_s is None
