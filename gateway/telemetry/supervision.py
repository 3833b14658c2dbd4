"""What a supervisor of workers counts itself."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, ProcessCollector

from gateway.telemetry.definitions import WORKER_RESTARTS
from gateway.telemetry.exposition import snapshot_of
from gateway.telemetry.instruments import Counter
from gateway.telemetry.merging import Snapshot


class SupervisorTelemetry:
    """Its restarts and its process; each worker counts itself as one."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._restarts = Counter(
            WORKER_RESTARTS.family, WORKER_RESTARTS.text, registry=self._registry
        )
        ProcessCollector(registry=self._registry)

    def worker_restarted(self) -> None:
        self._restarts.inc()

    def snapshot(self) -> Snapshot:
        return snapshot_of(self._registry.collect())
