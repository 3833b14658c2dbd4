"""A process' worth of metrics, for tests of several as one."""

from __future__ import annotations

import msgspec
from prometheus_client import CollectorRegistry

from gateway.telemetry.exposition import snapshot_of
from gateway.telemetry.instruments import Counter, Gauge, Histogram
from gateway.telemetry.merging import Snapshot

ROUTES = ("chat", "models", 'sl/ash "quoted"\n')


class Counts:
    """A process' worth of instruments."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter("requests", "R.", ["route"], registry=self.registry)
        self._durations = Histogram(
            "seconds", "S.", ["route"], buckets=(0.5, 1, 4), registry=self.registry
        )
        self._in_flight = Gauge("in_flight", "I.", ["route"], registry=self.registry)
        self._held = dict.fromkeys(ROUTES, 0.0)

    def update(self, route: str, eighths: int) -> None:
        # Eighths add up exactly, in whatever order.
        self._requests.add(eighths, route)
        self._durations.observe(eighths / 8, route)
        self._held[route] += 1
        self._in_flight.set(self._held[route], route)

    def snapshot(self) -> Snapshot:
        """As it arrives elsewhere."""
        sent = msgspec.msgpack.encode(snapshot_of(self.registry.collect()))
        return msgspec.msgpack.decode(sent, type=Snapshot)
