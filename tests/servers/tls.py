"""
Certificates made for a test run, and a relay that speaks TLS in front of a server.

The redis-server of the wheel is built without TLS; operators who have such a build put
a relay in front as well.
"""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import threading
from pathlib import Path
from typing import Final

from tests.servers.process import PATIENCE_S, ReservedPort

_OPENSSL_CONFIG: Final = """
[req]
distinguished_name = name
[name]
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[peer]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = DNS:localhost
"""


class Certificates:
    """
    An authority, and the certificates of a server and a client that it signed.

    The server is `localhost` and not `127.0.0.1`, so that a test can ask for the wrong
    name. A second object in another directory is an authority nobody trusts.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._config = directory / "openssl.cnf"
        self._config.write_text(_OPENSSL_CONFIG, encoding="ascii")
        self.ca_cert, self._ca_key = self._make("ca", "authority")
        by_ca = ("-CA", str(self.ca_cert), "-CAkey", str(self._ca_key))
        self.server_cert, self.server_key = self._make("server", "peer", *by_ca)
        self.client_cert, self.client_key = self._make("client", "peer", *by_ca)

    def _make(self, name: str, extensions: str, *signer: str) -> tuple[Path, Path]:
        cert, key = self._directory / f"{name}.pem", self._directory / f"{name}.key"
        curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-config", str(self._config), *curve),
                *("-extensions", extensions, "-subj", f"/CN=test {name}", *signer),
                *("-days", "2", "-out", str(cert), "-keyout", str(key)),
            ],
            check=True,
            capture_output=True,
            timeout=PATIENCE_S,
        )
        return cert, key

    def server_context(self, *, needs_client_cert: bool = False) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.server_cert, self.server_key)
        if needs_client_cert:
            context.load_verify_locations(self.ca_cert)
            context.verify_mode = ssl.CERT_REQUIRED
        return context


class TlsRelay:
    """
    Takes TLS and passes on plain bytes, in a thread with an event loop of its own.

    So the test's loop holds none of its tasks, and may stall while it relays.
    """

    def __init__(self, context: ssl.SSLContext, target_port: int) -> None:
        self._context = context
        self._target_port = target_port
        self._port = ReservedPort()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = asyncio.Event()
        self._is_up = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def port(self) -> int:
        return self._port.number

    def start(self) -> None:
        """Listen; whether the server behind is up shows when a client comes."""
        self._thread.start()
        assert self._is_up.wait(PATIENCE_S), "waited for the relay to listen"

    def stop(self) -> None:
        if self._loop:
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join(PATIENCE_S)
        self._port.release()

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        server = await asyncio.start_server(
            self._relay, "127.0.0.1", self.port, ssl=self._context
        )
        self._is_up.set()
        await self._stopping.wait()
        # Connections end with the loop, which cancels their tasks.
        server.close()

    async def _relay(
        self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter
    ) -> None:
        writers = [to_client]
        try:
            from_server, to_server = await asyncio.open_connection(
                "127.0.0.1", self._target_port
            )
            writers.append(to_server)
            async with asyncio.TaskGroup() as copying:
                copying.create_task(_copy(from_client, to_server))
                copying.create_task(_copy(from_server, to_client))
        except OSError:
            # The server is down: its client sees the connection end.
            pass
        finally:
            for writer in writers:
                writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while piece := await reader.read(65_536):
            writer.write(piece)
            await writer.drain()
    except OSError:
        # One side broke off, which ends the relay like a farewell.
        pass
    finally:
        # Ends the other direction too: its reader sees the end of its connection.
        writer.close()
