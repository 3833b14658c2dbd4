"""
The gateway put together: the one place that knows every part, and hands out the clock.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from gateway.access_log import AccessLog
from gateway.admission import Admission
from gateway.auth import Authenticator
from gateway.completion import CompletionService
from gateway.cors import Cors
from gateway.fine_tuning.owners import Owners
from gateway.long_jobs import Around, open_long_jobs
from gateway.middleware import EdgeMiddleware
from gateway.model_catalog import ModelCatalog
from gateway.policy_files import PolicyFiles
from gateway.presence import Attendance
from gateway.replay.replays import Replays
from gateway.routes.completions import CompletionRoutes
from gateway.routes.door import Door, Route
from gateway.routes.limits import LimitRoutes
from gateway.routes.models import ModelRoutes
from gateway.routes.operation import OperationRoutes
from gateway.routes.own_jobs import OwnJobRoutes
from gateway.routes.router import LateRouter
from gateway.settings import Settings
from gateway.shared_store import open_shared_store
from gateway.telemetry import definitions as d
from gateway.telemetry.exposition import AskFamilies
from gateway.telemetry.following import follow_policies, follow_replays
from gateway.telemetry.instruments import Reading
from gateway.telemetry.metrics import Telemetry
from gateway.tracing.environment import open_tracing
from gateway.upstream.client import UpstreamClient
from gateway.upstream.listing import list_models
from gateway.upstream.reading import read_fine_tune
from gateway.upstream.transport import (
    certificate_expiry_s,
    open_transport,
    read_certificates,
    to_sender,
)
from policies.estimate import OutputEstimator
from policies.jobs.port import JobsUnavailable
from policies.ledger import Ledger

if TYPE_CHECKING:
    from gateway.rate_limit.listening import RateLimitListener
    from gateway.tracing.tracing import Tracing

# Of a stall, a quarter of a second is missed; more looks would cost what they watch.
LAG_LOOK_S: Final = 0.25


class Gateway:
    """Everything one process needs to serve; `edge` is the application."""

    def __init__(
        self,
        settings: Settings,
        *,
        ledger: Ledger | None = None,
        families: AskFamilies | None = None,
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """
        Build all parts; FileProblems if plans or keys are wrong.

        `families` are the metrics to show instead of this process' own;
        `environment` is the process's, where OpenTelemetry's variables are to count.
        """
        self.settings = settings
        # First: a start that a wrong variable stops has opened nothing.
        self.tracing = open_tracing(environment)
        self.telemetry = Telemetry()
        self._families = families or self.telemetry.families
        self.files = PolicyFiles(settings, self.telemetry)
        follow_policies(self.telemetry, self.files, lambda: datetime.now(UTC))
        self.shared = open_shared_store(
            settings,
            clock_us=steady_clock_us(),
            telemetry=self.telemetry,
            ledger=ledger,
        )
        self.ledger: Ledger = self.shared.ledger
        self.attendance = Attendance(settings.http_max_in_flight)
        # Read by /readyz only; the listener is what really stops.
        self.is_draining = False
        self.transport = open_transport(settings)
        self.telemetry.followed.add(d.CERTIFICATE_EXPIRY, self._certificate_expiry)
        self.authenticator = Authenticator(
            settings, self.files, self.shared.keys, now=lambda: datetime.now(UTC)
        )
        self.admission = Admission(
            self.ledger,
            estimator=OutputEstimator(),
            telemetry=self.telemetry,
            now_ms=lambda: time.time_ns() // 1_000_000,
            is_over=lambda: self.attendance.is_over,
        )
        self.door = Door(
            settings, authenticator=self.authenticator, admission=self.admission
        )
        self.access_log = AccessLog(success_ratio=settings.log_success_ratio)
        # What is not needed to begin serving.
        self._late: list[Callable[[], Awaitable[object]]] = []
        self._open_service()
        self.edge = self._edge(self._api_routes(), self.tracing)
        # The same operation routes on a port of their own; no lifespan of its own.
        self.ops_edge = self._edge(self._operation(has_metrics=True).routes())

    def _open_service(self) -> None:
        self.upstream = UpstreamClient(
            self.settings, sender=to_sender(self.transport), telemetry=self.telemetry
        )
        self.owners = Owners(self.shared.jobs)
        self.service = CompletionService(
            admission=self.admission,
            authenticator=self.authenticator,
            upstream=self.upstream,
            max_event_bytes=self.settings.upstream_max_event_bytes,
            is_anothers=self.owners.is_anothers,
        )
        self.replays = Replays(
            self.shared.replays,
            self.settings,
            admission=self.admission,
            attendance=self.attendance,
            telemetry=self.telemetry,
        )
        follow_replays(self.telemetry, self.replays)
        self.long_jobs = open_long_jobs(self._around())

    def _api_routes(self) -> list[Route]:
        completions = CompletionRoutes(
            self.settings,
            door=self.door,
            service=self.service,
            attendance=self.attendance,
            replays=self.replays,
            telemetry=self.telemetry,
            now_s=time.time,
        )
        catalog = ModelCatalog(
            self.settings,
            authenticator=self.authenticator,
            list_models=partial(list_models, self.transport),
            owners=self.owners,
        )
        own_jobs = OwnJobRoutes(
            door=self.door,
            completions=completions,
            owners=self.owners,
            authenticator=self.authenticator,
            attendance=self.attendance,
            read_job=partial(read_fine_tune, self.transport),
        )
        models = ModelRoutes(
            door=self.door,
            catalog=catalog,
            attendance=self.attendance,
            infer=completions.infer,
        )
        limits = LimitRoutes(
            self.settings,
            door=self.door,
            admission=self.admission,
            attendance=self.attendance,
            now_ms=lambda: time.time_ns() // 1_000_000,
        )
        operation = self._operation(has_metrics=self.settings.ops_port is None)
        groups = (completions, own_jobs, models, limits, operation)
        routes = [route for group in groups for route in group.routes()]
        if self.long_jobs is not None:
            routes += self.long_jobs.routes()
        return routes

    def _around(self) -> Around:
        return Around(
            settings=self.settings,
            jobs=self.shared.jobs,
            door=self.door,
            admission=self.admission,
            authenticator=self.authenticator,
            service=self.service,
            upstream=self.upstream,
            attendance=self.attendance,
            policy_files=self.files,
            telemetry=self.telemetry,
            owners=self.owners,
            read_job=partial(read_fine_tune, self.transport),
        )

    def rate_limit_listener(self, *, is_shared: bool) -> RateLimitListener:
        """What the mesh's proxies ask, ready to be started."""
        # Whose gRPC nobody else needs.
        from gateway.rate_limit.listening import RateLimitListener  # noqa: PLC0415
        from gateway.rate_limit.service import RateLimitService  # noqa: PLC0415

        service = RateLimitService(
            self.settings.rate_limit_domain,
            authenticator=self.authenticator,
            admission=self.admission,
            now_ms=lambda: time.time_ns() // 1_000_000,
            count=self.telemetry.rate_limit_called,
        )
        return RateLimitListener(service, is_shared=is_shared)

    def _operation(self, *, has_metrics: bool) -> OperationRoutes:
        return OperationRoutes(
            door=self.door,
            families=self._families,
            readiness=self.readiness,
            has_metrics=has_metrics,
        )

    def _edge(
        self, routes: list[Route], tracing: Tracing | None = None
    ) -> EdgeMiddleware:
        router = LateRouter(routes)
        self._late.append(router.made)
        return EdgeMiddleware(
            router,
            exact={path: app for route in routes for path, app in route.exact.items()},
            telemetry=self.telemetry,
            access_log=self.access_log,
            cors=Cors(self.settings.cors_origins),
            write_timeout_s=self.settings.http_write_timeout_s,
            tracing=tracing,
        )

    async def finish_making(self) -> None:
        """Make what the first request may do without, beside those that come."""
        for make in self._late:
            await make()
        if self.settings.upstream_url.startswith("https:"):
            await asyncio.to_thread(read_certificates, self.transport)

    def _certificate_expiry(self) -> list[Reading]:
        shown = {
            "upstream": certificate_expiry_s(self.transport),
            "store": self.shared.certificate_expiry_s,
        }
        return [((peer,), at) for peer, at in shown.items() if at is not None]

    def readiness(self) -> dict[str, Any]:
        """Whether to send requests here, and what an operator would ask next."""
        return {
            "status": "draining" if self.is_draining else "ready",
            "store": self.shared.status(),
            "plans": list(self.files.book.names),
            "plans_digest": self.files.book.digest,
            "in_flight": len(self.attendance),
        }

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run what runs beside the requests, and give everything back at the end."""
        tasks = [
            asyncio.create_task(self.admission.keep_alive()),
            asyncio.create_task(self.files.watch()),
            asyncio.create_task(self.replays.keep_alive()),
            asyncio.create_task(self.owners.keep_fresh()),
            asyncio.create_task(watch_lag(self.telemetry.lagged)),
        ]
        try:
            async with AsyncExitStack() as running:
                await running.enter_async_context(self.shared.running())
                # Before the first request: whose models are hidden from whom.
                with suppress(JobsUnavailable):
                    await self.owners.refresh()
                if self.long_jobs is not None:
                    await running.enter_async_context(self.long_jobs.running())
                yield
        finally:
            for task in tasks:
                task.cancel()
            # Neither is allowed to keep the rest from being given back.
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.admission.finish_settling()
            await self.replays.finish()
            await self.transport.aclose()
            await self.ledger.aclose()
            if self.tracing is not None:
                await self.tracing.aclose()


async def watch_lag(lagged: Callable[[float], None]) -> None:
    """Note how late the event loop is, until cancelled."""
    while True:
        # Not the loop's clock, whose ticks under uvloop are whole milliseconds.
        asked_s = time.perf_counter()
        await asyncio.sleep(LAG_LOOK_S)
        lagged(max(0.0, time.perf_counter() - asked_s - LAG_LOOK_S))


def steady_clock_us() -> Callable[[], int]:
    """
    Epoch microseconds that never step back: read once, then carried on.

    A wall clock set back by an hour would refill no bucket for that hour.
    """
    offset_ns = time.time_ns() - time.monotonic_ns()
    return lambda: (offset_ns + time.monotonic_ns()) // 1000
