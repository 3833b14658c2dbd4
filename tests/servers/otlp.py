"""
A real OTLP collector, over HTTP and over gRPC, that keeps what it is sent.

Or one that accepts connections and never answers, as a collector under load does.
"""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

import grpc
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

EXPORT_TRACES: Final = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
_OK: Final = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\n"
    b"content-length: 0\r\n\r\n"
)


class SeenSpan:
    """One span as it arrived, in Python's types."""

    def __init__(self, span: Span) -> None:
        self.name = span.name
        self.kind = Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_")
        self.trace_id = span.trace_id.hex()
        self.span_id = span.span_id.hex()
        self.parent_id = span.parent_span_id.hex()
        self.attributes = _values(span.attributes)
        self.events = [event.name for event in span.events]
        self.is_error = span.status.code == 2
        self.trace_state = span.trace_state
        self.started_ns = span.start_time_unix_nano
        self.ended_ns = span.end_time_unix_nano


class Collector:
    """What was exported, and the bytes it came in."""

    def __init__(self) -> None:
        self.endpoint = ""
        self.raw: list[bytes] = []
        self.spans: list[SeenSpan] = []
        self.resource: dict[str, Any] = {}
        # Of every exporter, what it says it is.
        self.instances: set[str] = set()
        # Of each metric, the data points' attributes and counts.
        self.points: dict[str, list[tuple[dict[str, Any], Any]]] = {}
        self.headers: list[dict[str, str]] = []

    def take_traces(self, raw: bytes) -> None:
        self.raw.append(raw)
        for group in ExportTraceServiceRequest.FromString(raw).resource_spans:
            resource = _values(group.resource.attributes)
            # A proxy's, which exports to the same place, has none.
            if "service.instance.id" in resource:
                self.resource = resource
                self.instances.add(resource["service.instance.id"])
            for scope in group.scope_spans:
                self.spans += map(SeenSpan, scope.spans)

    def take_metrics(self, raw: bytes) -> None:
        self.raw.append(raw)
        for group in ExportMetricsServiceRequest.FromString(raw).resource_metrics:
            for scope in group.scope_metrics:
                for metric in scope.metrics:
                    found = [
                        (_values(point.attributes), point)
                        for point in metric.histogram.data_points
                    ]
                    self.points.setdefault(metric.name, []).extend(found)

    def of_kind(self, kind: str) -> list[SeenSpan]:
        """Spans of a kind, by their start."""
        found = [span for span in self.spans if span.kind == kind]
        return sorted(found, key=lambda span: span.started_ns)

    @property
    def server(self) -> SeenSpan:
        (span,) = self.of_kind("SERVER")
        return span

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                line, *rest = head.strip().split("\r\n")
                pairs = (each.split(":", 1) for each in rest)
                headers = {name.lower(): value.strip() for name, value in pairs}
                body = await _body(reader, headers)
                if headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                self.headers.append(headers)
                take = self.take_traces if "/v1/traces" in line else self.take_metrics
                take(body)
                writer.write(_OK)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the exporter has closed its connection
        finally:
            writer.close()


async def _body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if "content-length" in headers:
        return await reader.readexactly(int(headers["content-length"]))
    # As Envoy sends it: in chunks, without trailers.
    parts = []
    while size := int(await reader.readline(), 16):
        parts.append(await reader.readexactly(size))
        await reader.readline()
    await reader.readline()
    return b"".join(parts)


@asynccontextmanager
async def otlp_over_http() -> AsyncIterator[Collector]:
    """A collector of OTLP's HTTP with protobuf."""
    collector = Collector()
    server = await asyncio.start_server(collector._serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    collector.endpoint = f"http://127.0.0.1:{port}"
    try:
        yield collector
    finally:
        server.close()


@contextmanager
def otlp_over_grpc() -> Iterator[Collector]:
    """A collector of OTLP's gRPC."""
    collector = Collector()

    def export(request: ExportTraceServiceRequest, _: Any) -> Any:
        collector.take_traces(request.SerializeToString())
        return ExportTraceServiceResponse()

    method = grpc.unary_unary_rpc_method_handler(
        export,
        request_deserializer=ExportTraceServiceRequest.FromString,
        response_serializer=ExportTraceServiceResponse.SerializeToString,
    )
    service, name = EXPORT_TRACES.strip("/").split("/")
    server = grpc.server(ThreadPoolExecutor(max_workers=2))
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(service, {name: method}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    collector.endpoint = f"http://127.0.0.1:{port}"
    try:
        yield collector
    finally:
        server.stop(grace=0).wait()


@asynccontextmanager
async def silent_collector() -> AsyncIterator[tuple[str, asyncio.Event]]:
    """Accepts and never answers; its address, and whether somebody has come."""
    came = asyncio.Event()
    writers: list[asyncio.StreamWriter] = []

    def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        came.set()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", came
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()


def _values(attributes: Any) -> dict[str, Any]:
    return {each.key: _value(each.value) for each in attributes}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(each) for each in value.array_value.values]
    return getattr(value, str(kind))
