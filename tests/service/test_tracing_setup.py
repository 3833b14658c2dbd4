"""What OpenTelemetry's variables do to a start, to a process, and to its end."""

from __future__ import annotations

import asyncio
import os
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest
from opentelemetry import environment_variables as api_variables
from opentelemetry.context import Context
from opentelemetry.sdk import environment_variables as sdk_variables
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    DEFAULT_OFF,
    Decision,
    ParentBasedTraceIdRatio,
    Sampler,
    SamplingResult,
    TraceIdRatioBased,
)

from gateway.settings import SettingsProblem
from gateway.tracing.environment import exports_of, open_tracing
from gateway.tracing.sampling import Head, is_kept
from gateway.tracing.semconv import WORKER_SLOT
from gateway.tracing.setup import resource_attributes, resource_of
from tests.conftest import StartGateway
from tests.servers.otlp import silent_collector

ROOT: Final = Path(__file__).parents[2]
# As long as the SDK tries for.
EXPORTERS_END_WITHIN_S: Final = 15.0
NOWHERE: Final = "http://127.0.0.1:1"
HTTP: Final = {
    "OTEL_EXPORTER_OTLP_ENDPOINT": NOWHERE,
    "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
}


class TestOff:
    """Who asks for nothing pays for nothing."""

    @pytest.mark.parametrize(
        "environment",
        [
            pytest.param({}, id="nothing"),
            pytest.param({"OTEL_SERVICE_NAME": "gateway"}, id="a name"),
            pytest.param({"OTEL_TRACES_EXPORTER": "none"}, id="none"),
            pytest.param(
                {
                    "OTEL_EXPORTER_OTLP_ENDPOINT": NOWHERE,
                    "OTEL_TRACES_EXPORTER": "none",
                    "OTEL_METRICS_EXPORTER": "none",
                },
                id="none, in spite of an endpoint",
            ),
            pytest.param(HTTP | {"OTEL_SDK_DISABLED": "TRUE"}, id="disabled"),
        ],
    )
    def test_nothing_is_exported_unless_it_is_asked_for(
        self, environment: dict[str, str]
    ) -> None:
        """By an exporter's name or by an endpoint, and not where that is taken back."""
        assert exports_of(environment) is None

    def test_an_endpoint_of_one_signal_is_for_that_signal(self) -> None:
        """And the general one for both."""
        one = exports_of({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": NOWHERE})
        both = exports_of(HTTP)

        assert one is not None
        assert (one.traces, one.metrics) == ((), ("otlp",))
        assert both is not None
        assert (both.traces, both.metrics) == (("otlp",), ("otlp",))

    def test_off_does_not_import_the_sdk(self) -> None:
        """Nor an exporter: in a process of its own, with a request served."""
        script = (
            "import asyncio, sys, tempfile\n"
            "from pathlib import Path\n"
            "from tests.gateway_under_test import gateway_under_test\n"
            "async def main():\n"
            "    async with gateway_under_test(Path(tempfile.mkdtemp())) as gateway:\n"
            "        assert (await gateway.chat()).status_code == 502\n"
            "asyncio.run(main())\n"
            # redis-py imports the SDK's metrics by itself, where it is installed.
            "ours = ('opentelemetry.sdk.trace', 'opentelemetry.exporter', 'grpc')\n"
            "print([n for n in sys.modules if n.startswith(ours)])\n"
        )
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("OTEL_")
        } | {"GATEWAY_UPSTREAM_URL": NOWHERE, "PYTHONPATH": str(ROOT)}
        script = script.replace(
            "mkdtemp())", f"mkdtemp()), upstream_url={NOWHERE + '/v1'!r}"
        )

        done = subprocess.run(
            [sys.executable, "-c", script],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=50,
        )

        assert "[]" == done.stdout.splitlines()[-1]


class TestMistakes:
    """A wrong variable stops the start, with one line that names it."""

    @pytest.mark.parametrize(
        ("variables", "line"),
        [
            pytest.param(
                {"OTEL_TRACES_EXPORTER": "zipkin"},
                "OTEL_TRACES_EXPORTER=zipkin: no exporter of that name is installed",
                id="exporter",
            ),
            pytest.param(
                {"OTEL_METRICS_EXPORTER": "prometheus"},
                "OTEL_METRICS_EXPORTER=prometheus: no exporter of that name is"
                " installed",
                id="metrics exporter",
            ),
            pytest.param(
                {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"},
                "OTEL_EXPORTER_OTLP_PROTOCOL=http/json: one of grpc, http/protobuf",
                id="protocol",
            ),
            pytest.param(
                {"OTEL_TRACES_SAMPLER": "sometimes"},
                "OTEL_TRACES_SAMPLER=sometimes: no sampler of that name",
                id="sampler",
            ),
            pytest.param(
                {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "9"},
                "OTEL_TRACES_SAMPLER_ARG=9: a number from 0 to 1",
                id="ratio",
            ),
            pytest.param(
                {"OTEL_PYTHON_ID_GENERATOR": "dice"},
                "OTEL_PYTHON_ID_GENERATOR=dice: no generator of that name",
                id="ids",
            ),
            pytest.param(
                {"OTEL_SPAN_EVENT_COUNT_LIMIT": "few"},
                "OTEL_*: OTEL_SPAN_EVENT_COUNT_LIMIT must be a non-negative integer but"
                " got few",
                id="limit",
            ),
            pytest.param(
                {"OTEL_CONFIG_FILE": "otel.yaml"},
                "OTEL_CONFIG_FILE: not supported; set OpenTelemetry's other variables",
                id="file",
            ),
        ],
    )
    def test_a_wrong_name_stops_the_start(
        self, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], line: str
    ) -> None:
        """The SDK would warn, and export or sample otherwise."""
        for name, value in (HTTP | variables).items():
            monkeypatch.setenv(name, value)

        with pytest.raises(SettingsProblem) as raised:
            open_tracing(os.environ)

        assert line == str(raised.value)

    def test_what_is_not_installed_is_named(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """With what to install for it."""
        from gateway.tracing.setup import missing

        assert "install llmtune-gateway[otlp-http]" == missing("otlp_proto_http")
        assert missing("otlp_proto_grpc").startswith(
            "install llmtune-gateway[otlp-grpc], or set"
        )

    def test_a_wrong_propagator_stops_the_start(self) -> None:
        """Read once a process, so in one of its own."""
        script = (
            "import os; from gateway.tracing.environment import open_tracing as o\n"
        )
        script += "try: o(os.environ)\nexcept Exception as e: print(repr(e))"
        environment = {**os.environ, **HTTP, "OTEL_PROPAGATORS": "pigeon"}

        done = subprocess.run(
            [sys.executable, "-c", script],
            env={**environment, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
            timeout=50,
        )

        said = "OTEL_PROPAGATORS=pigeon: has a name that is not installed"
        assert f"SettingsProblem('{said}')" == done.stdout.strip()


async def exporters_have_ended(but: set[threading.Thread]) -> None:
    """
    Wait for the SDK's threads that a test has given up.

    They try again at random times, by the generator that Hypothesis guards in whichever
    test comes next.
    """
    known = ("Otel", "tracing-end")
    for thread in set(threading.enumerate()) - but:
        if not thread.name.startswith(known):
            continue
        await asyncio.to_thread(thread.join, EXPORTERS_END_WITHIN_S)
        assert not thread.is_alive(), thread.name


class TestCollectorsFaults:
    """Requests do not know whether anybody takes their spans."""

    @pytest.fixture(autouse=True)
    async def exporters(self) -> AsyncIterator[None]:
        """Asked for first, and so over last."""
        others = set(threading.enumerate())
        yield
        await exporters_have_ended(others)

    @pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
    async def test_a_silent_collector_costs_requests_nothing(
        self,
        start_gateway: StartGateway,
        monkeypatch: pytest.MonkeyPatch,
        protocol: str,
    ) -> None:
        """And a shutdown a few seconds."""
        async with silent_collector() as (endpoint, came):
            variables = {
                "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
                "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
                "OTEL_BSP_SCHEDULE_DELAY": "10",
                "OTEL_METRICS_EXPORTER": "none",
                # In seconds: longer than a shutdown may take, and no longer.
                "OTEL_EXPORTER_OTLP_TIMEOUT": "5",
            }
            for name, value in variables.items():
                monkeypatch.setenv(name, value)
            gateway = await start_gateway(environment=os.environ)

            assert (await gateway.chat()).status_code == 200
            await asyncio.wait_for(came.wait(), 5)
            started_s = time.monotonic()
            assert (await gateway.chat()).status_code == 200
            assert time.monotonic() - started_s < 1

            tracing = gateway.gateway.tracing
            assert tracing is not None
            started_s = time.monotonic()
            await tracing.aclose()
            assert time.monotonic() - started_s < 4

    async def test_an_absent_collector_costs_requests_nothing(
        self, start_gateway: StartGateway, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nobody listens there, which is logged and no more."""
        quick = {"OTEL_BSP_SCHEDULE_DELAY": "10", "OTEL_EXPORTER_OTLP_TIMEOUT": "2"}
        for name, value in (HTTP | quick).items():
            monkeypatch.setenv(name, value)
        gateway = await start_gateway(environment=os.environ)

        statuses = {(await gateway.chat()).status_code for _ in range(20)}

        assert {200} == statuses


class TestSampler:
    """The shortcut says what the SDK's sampler would."""

    @pytest.mark.parametrize(
        "sampler",
        [
            pytest.param(TraceIdRatioBased(0.3), id="ratio"),
            pytest.param(ParentBasedTraceIdRatio(0.3), id="parent-based ratio"),
            pytest.param(ALWAYS_OFF, id="never"),
            pytest.param(DEFAULT_OFF, id="parent-based never"),
            pytest.param(ALWAYS_ON, id="always"),
        ],
    )
    def test_what_is_dropped_unasked_would_be_dropped(self, sampler: Sampler) -> None:
        """For a thousand ids, and nothing is kept that the shortcut dropped."""
        head, drawn = Head(sampler), random.Random(1)

        for trace_id in (drawn.getrandbits(128) for _ in range(1000)):
            kept = is_kept(sampler.should_sample(Context(), trace_id, "HTTP"))
            assert head.drops_root(trace_id) is not kept

    def test_what_is_only_recorded_is_not_kept(self) -> None:
        """It would be made for an exporter that drops it."""
        assert not is_kept(SamplingResult(Decision.RECORD_ONLY))


def test_every_variable_is_documented() -> None:
    """What happens to each that the SDK or its API knows, so that none is forgotten."""
    text = (ROOT / "docs" / "tracing.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    told = set(re.findall(r"`(OTEL_\w+)`", "\n".join(rows)))
    known: set[Any] = {
        value
        for module in (sdk_variables, api_variables)
        for value in vars(module).values()
        if isinstance(value, str) and re.fullmatch(r"OTEL_\w+", value)
    }

    assert known - told == set()


class TestResource:
    """Who exports: what a chart says of the pod, and what the pod knows itself."""

    def test_within_kubernetes_the_host_is_the_pod(self) -> None:
        """Elsewhere a host's name is no pod's."""
        pod = {"HOSTNAME": "gateway-7f9c", "KUBERNETES_SERVICE_HOST": "10.0.0.1"}

        assert resource_attributes(pod)["k8s.pod.name"] == "gateway-7f9c"
        assert "k8s.pod.name" not in resource_attributes({"HOSTNAME": "laptop"})

    def test_what_is_stated_goes_before_what_is_found(self) -> None:
        """`OTEL_RESOURCE_ATTRIBUTES` before `K8S_*` before the host's name."""
        environment = {
            "HOSTNAME": "gateway-7f9c",
            "KUBERNETES_SERVICE_HOST": "10.0.0.1",
            "K8S_POD_NAME": "named",
            "K8S_NAMESPACE_NAME": "edge",
            "OTEL_RESOURCE_ATTRIBUTES": "k8s.namespace.name=stated,service.name=mine",
        }
        found = resource_attributes(environment)

        # What was stated is the SDK's to read.
        assert found["k8s.pod.name"] == "named"
        assert "k8s.namespace.name" not in found
        assert "service.name" not in found

    def test_workers_of_a_pod_are_told_apart(self) -> None:
        """Two processes that export as one would overwrite each other's metrics."""
        pod = {"K8S_POD_UID": "uid"}

        assert resource_attributes(pod)["service.instance.id"] == "uid"
        second = resource_attributes({**pod, WORKER_SLOT: "1"})
        assert second["service.instance.id"] == "uid-1"
        stated = {**pod, "OTEL_RESOURCE_ATTRIBUTES": "service.instance.id=pod%20a"}
        assert resource_attributes(stated)["service.instance.id"] == "pod a"
        second = resource_attributes({**stated, WORKER_SLOT: "1"})
        assert second["service.instance.id"] == "pod a-1"

    def test_a_resource_is_not_encoded_for_each_span(self) -> None:
        """An exporter asks each span's for its hash, which is of the whole of it."""
        resource = resource_of({"K8S_POD_NAME": "gateway-7"})
        called: list[str] = []

        sys.setprofile(lambda frame, _event, _: called.append(frame.f_code.co_name))
        try:
            hash(resource)
        finally:
            sys.setprofile(None)

        assert "__hash__" in called
        assert "dumps" not in called
