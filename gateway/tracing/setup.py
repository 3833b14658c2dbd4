"""
The SDK put together from OpenTelemetry's variables, which it reads by itself.

Found by their names here, because the SDK only warns of a wrong one and then samples or
exports otherwise: samplers, exporters, protocols, the generator of ids. A wrong name
stops the start with one line.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any, Final
from urllib.parse import unquote

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import DEFAULT_ON, Sampler

from gateway import __version__
from gateway.settings import SettingsProblem
from gateway.tracing import semconv
from gateway.tracing.environment import Exports, Signal, captures_content
from gateway.tracing.meters import Meters
from gateway.tracing.propagation import Propagation
from gateway.tracing.sampling import Head
from gateway.tracing.spans import SpanWriter
from gateway.tracing.tracing import Shutdown, Tracing
from gateway.tracing.values import check_otlp, check_values

# Which of our extras brings which exporter.
_EXTRAS: Final = {
    "otlp_proto_grpc": "otlp-grpc",
    "otlp_proto_http": "otlp-http",
}
_OF_PROTOCOL: Final = {
    "grpc": "otlp_proto_grpc",
    "http/protobuf": "otlp_proto_http",
}
_WITH_RATIO: Final = frozenset({"traceidratio", "parentbased_traceidratio"})


def set_up(exports: Exports, environment: Mapping[str, str]) -> Tracing:
    """Providers and exporters, running; SettingsProblem where a variable is wrong."""
    try:
        return _set_up(exports, environment)
    except (ValueError, RuntimeError) as problem:
        # The SDK's own complaint about a number, or a name that nothing offers.
        raise SettingsProblem(f"OTEL_*: {str(problem).splitlines()[0]}") from problem


def _set_up(exports: Exports, environment: Mapping[str, str]) -> Tracing:
    check_values(exports, environment)
    resource = resource_of(environment)
    shutdowns: list[Shutdown] = []
    meter_provider = _meter_provider(exports, resource, environment)
    if meter_provider is not None:
        shutdowns.append(meter_provider.shutdown)
    ids = _id_generator(environment)
    writer: SpanWriter | None = None
    if exports.traces:
        processors = [
            BatchSpanProcessor(exporter, meter_provider=meter_provider)
            for exporter in _exporters("traces", exports.traces, environment)
        ]
        shutdowns += [processor.shutdown for processor in processors]
        writer = SpanWriter(processors, resource, SpanLimits(), ids.generate_span_id)
    return Tracing(
        propagation=Propagation(_propagator()),
        head=Head(_sampler(environment)),
        ids=ids,
        writer=writer,
        meters=None if meter_provider is None else Meters(meter_provider),
        keeps_text=captures_content(environment),
        shutdowns=shutdowns,
    )


class _Resource(Resource):
    """
    Hashed once.

    Exporters group spans by their resource, whose hash is of all of it written as JSON:
    for each span, a tenth of what encoding it takes.
    """

    def __init__(self, found: Resource) -> None:
        super().__init__(found.attributes, found.schema_url)
        self._hash = super().__hash__()

    def __hash__(self) -> int:
        return self._hash


def resource_of(environment: Mapping[str, str]) -> Resource:
    """What the SDK finds by itself, and what it does not."""
    return _Resource(Resource.create(resource_attributes(environment)))


def resource_attributes(environment: Mapping[str, str]) -> dict[str, Any]:
    """
    What the SDK's own variables do not already say of this process.

    Of Kubernetes what a chart sets from the downward API, `OTEL_RESOURCE_ATTRIBUTES`
    before `K8S_*`; the name of the pod is also its host's.
    """
    items = environment.get("OTEL_RESOURCE_ATTRIBUTES", "").split(",")
    parts = (item.partition("=") for item in items)
    stated = {name.strip(): unquote(value.strip()) for name, _, value in parts}
    pods_host = environment.get("HOSTNAME", "")
    found: dict[str, Any] = {}
    if "KUBERNETES_SERVICE_HOST" in environment and pods_host:
        found[semconv.POD_NAME] = pods_host
    for name, variable in semconv.K8S_VARIABLES.items():
        value = environment.get(variable, "").strip()
        if value:
            found[name] = value
    found[semconv.SERVICE_VERSION] = __version__
    found = {name: value for name, value in found.items() if name not in stated}
    # Its pod's uid names a replica, where nothing is stated; else the SDK draws one.
    uid = environment.get(semconv.K8S_VARIABLES["k8s.pod.uid"], "").strip()
    instance = stated.get(semconv.SERVICE_INSTANCE) or uid
    if instance:
        # Of workers that export as one, each would overwrite the others' metrics.
        slot = environment.get(semconv.WORKER_SLOT)
        instance = instance if slot is None else f"{instance}-{slot}"
        found[semconv.SERVICE_INSTANCE] = instance
    is_named = environment.get("OTEL_SERVICE_NAME", "").strip()
    if not is_named and semconv.SERVICE_NAME not in stated:
        found[semconv.SERVICE_NAME] = semconv.DEFAULT_SERVICE
    return found


def _meter_provider(
    exports: Exports, resource: Resource, environment: Mapping[str, str]
) -> MeterProvider | None:
    if not exports.metrics:
        return None
    exporters = _exporters("metrics", exports.metrics, environment)
    readers = [
        each if isinstance(each, MetricReader) else PeriodicExportingMetricReader(each)
        for each in exporters
    ]
    return MeterProvider(readers, resource, shutdown_on_exit=False)


def _exporters(
    signal: Signal, names: tuple[str, ...], environment: Mapping[str, str]
) -> list[Any]:
    variable = f"OTEL_{signal.upper()}_EXPORTER"
    made = []
    for stated in names:
        name = stated.lower()
        if name == "otlp":
            name = _otlp(signal, environment)
        if name in _EXTRAS:
            check_otlp(signal, name, environment)
        kind = _component(f"opentelemetry_{signal}_exporter", name)
        if kind is None:
            raise SettingsProblem(f"{variable}={stated}: {missing(name)}")
        made.append(kind())
    return made


def _otlp(signal: Signal, environment: Mapping[str, str]) -> str:
    """The exporter of the protocol that is set; gRPC if none is, as the SDK has it."""
    of_signal = f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL"
    for variable in (of_signal, "OTEL_EXPORTER_OTLP_PROTOCOL"):
        protocol = environment.get(variable, "").strip()
        if protocol and protocol not in _OF_PROTOCOL:
            raise SettingsProblem(f"{variable}={protocol}: one of grpc, http/protobuf")
        if protocol:
            return _OF_PROTOCOL[protocol]
    return "otlp_proto_grpc"


def missing(name: str) -> str:
    """What to do about an exporter that nothing installed offers."""
    extra = _EXTRAS.get(name)
    if extra is None:
        return "no exporter of that name is installed"
    hint = f"install llmtune-gateway[{extra}]"
    if extra == "otlp-grpc":
        hint += ", or set OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf"
    return hint


def _sampler(environment: Mapping[str, str]) -> Sampler:
    name = environment.get("OTEL_TRACES_SAMPLER", "").strip().lower()
    if not name:
        return DEFAULT_ON
    make = _component("opentelemetry_traces_sampler", name)
    if make is None:
        raise SettingsProblem(f"OTEL_TRACES_SAMPLER={name}: no sampler of that name")
    argument: Any = environment.get("OTEL_TRACES_SAMPLER_ARG")
    if name in _WITH_RATIO:
        argument = _ratio(argument)
    sampler = make(argument)
    assert isinstance(sampler, Sampler)  # noqa: S101 - what its entry point promises
    return sampler


def _ratio(text: str | None) -> float:
    if text is None or not text.strip():
        return 1.0
    try:
        ratio = float(text)
    except ValueError:
        ratio = -1.0
    if not 0 <= ratio <= 1:
        raise SettingsProblem(f"OTEL_TRACES_SAMPLER_ARG={text}: a number from 0 to 1")
    return ratio


def _id_generator(environment: Mapping[str, str]) -> IdGenerator:
    name = environment.get("OTEL_PYTHON_ID_GENERATOR", "").strip() or "random"
    kind = _component("opentelemetry_id_generator", name)
    if kind is None:
        raise SettingsProblem(
            f"OTEL_PYTHON_ID_GENERATOR={name}: no generator of that name"
        )
    generator: IdGenerator = kind()
    return generator


def _propagator() -> Any:
    stated = os.environ.get("OTEL_PROPAGATORS", "")
    try:
        # Reads OTEL_PROPAGATORS when it is imported, and raises what is wrong with it.
        from opentelemetry.propagate import get_global_textmap  # noqa: PLC0415
    except ValueError:
        raise SettingsProblem(
            f"OTEL_PROPAGATORS={stated}: has a name that is not installed"
        ) from None
    return get_global_textmap()


def _component(group: str, name: str) -> Any:
    """What an installed package offers under this name; None if none does."""
    for found in entry_points(group=group, name=name):
        return found.load()
    return None
