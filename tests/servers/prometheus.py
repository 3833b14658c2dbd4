"""A real Prometheus on loopback that scrapes what a test runs."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import httpx

from tests.proofs.check import until
from tests.servers.debian import found_or_skip, program
from tests.servers.process import ReservedPort, ServerProcess

START_WITHIN_S: Final = 20.0
# Set where there is no Debian and no Prometheus to be had.
SKIP: Final = "LLMTUNE_SKIP_PROMETHEUS"
JOB: Final = "llmtune-gateway"


def prometheus_program(name: str) -> str:
    """`prometheus` or `promtool`; skips the test only where that is asked for."""
    return found_or_skip(program, name, SKIP, "debian prometheus")


class Prometheus:
    """One that runs, and what it answers."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._client = httpx.AsyncClient(base_url=url, timeout=20)

    async def query(self, expression: str) -> list[Any]:
        """The series of an instant query, now."""
        return await self._ask("query", query=expression)

    async def query_range(
        self, expression: str, *, start_s: float, end_s: float, step_s: float
    ) -> list[Any]:
        """The series of a range query."""
        return await self._ask(
            "query_range",
            query=expression,
            start=str(start_s),
            end=str(end_s),
            step=str(step_s),
        )

    async def _ask(self, what: str, **form: str) -> list[Any]:
        response = await self._client.post(f"/api/v1/{what}", data=form)
        answer = response.json()
        assert answer["status"] == "success", f"{form['query']}: {answer}"
        result: list[Any] = answer["data"]["result"]
        return result

    async def is_ready(self) -> bool:
        try:
            return (await self._client.get("/-/ready")).status_code == 200
        except httpx.TransportError:
            return False

    async def aclose(self) -> None:
        await self._client.aclose()


@asynccontextmanager
async def prometheus(
    folder: Path, targets: Sequence[str], *, rule_files: Sequence[Path] = ()
) -> AsyncIterator[Prometheus]:
    """A Prometheus that scrapes these addresses once a second; gone with the block."""
    port = ReservedPort()
    config = folder / "prometheus.yaml"
    # JSON is YAML.
    settings = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(path) for path in rule_files],
        "scrape_configs": [
            {"job_name": JOB, "static_configs": [{"targets": list(targets)}]}
        ],
    }
    config.write_text(json.dumps(settings))
    process = ServerProcess(
        [
            prometheus_program("prometheus"),
            f"--config.file={config}",
            f"--storage.tsdb.path={folder / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{port.number}",
            "--log.level=warn",
        ],
        {},
        folder / "prometheus.log",
    )
    running = Prometheus(f"http://127.0.0.1:{port.number}")
    try:
        await until(running.is_ready, "Prometheus", within_s=START_WITHIN_S)
        yield running
    finally:
        await running.aclose()
        await process.terminate()
        port.release()
