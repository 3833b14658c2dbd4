"""Fine-tunes: queued, then running, then completed or failed, with a webhook each."""

from __future__ import annotations

import asyncio
import zlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Literal, TypeAlias
from urllib.parse import urlsplit

import msgspec

from gateway.simulator.catalog import Catalog
from gateway.simulator.errors import bad_request, not_found
from gateway.simulator.jobs import JobTasks
from gateway.simulator.replies import Reply, json_reply
from gateway.simulator.requests import FineTuneRequest
from gateway.simulator.settings import SimulatorSettings
from gateway.simulator.webhooks import WebhookSender, checked_url, iso_time

JobStatus: TypeAlias = Literal["queued", "running", "completed", "failed"]

# Jobs that can still be asked about; as many as can be under way.
MAX_REMEMBERED: Final = 1_000

# A dataset with this in its location cannot be read, so that its job fails.
FAILING_DATASET: Final = "fail"


LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})


class Metrics(msgspec.Struct, frozen=True, rename="camel"):
    loss: float
    eval_loss: float
    tokens_per_second: float
    total_tokens: int


class Job(msgspec.Struct, rename="camel"):
    """A fine-tune as `GET /v1/fine-tune/{jobId}` shows it."""

    job_id: str
    base_model: str
    training_method: str
    created_at: str
    model_name: str
    status: JobStatus = "queued"
    metrics: Metrics | None = None
    error: dict[str, str] | None = None
    completed_at: str | None = None


class FineTunes:
    """Creates jobs, lets them pass through their lives and deploys what they made."""

    def __init__(
        self,
        settings: SimulatorSettings,
        catalog: Catalog,
        webhooks: WebhookSender,
        tasks: JobTasks,
        now: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._catalog = catalog
        self._webhooks = webhooks
        self._tasks = tasks
        self._now = now
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._created = 0

    def check(self, request: FineTuneRequest) -> None:
        checked_url(request.webhook_url)
        scheme, separator, _ = request.dataset.partition("://")
        if not separator or scheme in ("https", "s3", "gs", "gcs"):
            return
        if not _is_on_loopback(request.dataset):
            raise bad_request("dataset must be an https, s3 or gcs URL", "dataset")

    def create(self, request: FineTuneRequest) -> Reply:
        self._created += 1
        job_id = f"ft_{self._settings.seed}_{self._created:06d}"
        job = Job(
            job_id=job_id,
            base_model=request.base_model,
            training_method=request.training_method,
            created_at=iso_time(self._now()),
            model_name=f"ft/{request.base_model.rpartition('/')[2]}/{job_id}",
        )
        # Encoded before the job's life begins, so that a replay says `queued` again.
        reply = json_reply(job)
        self._remember(job)
        self._tasks.start(job_id, self._live(job, request))
        return reply

    def show(self, job_id: str) -> Reply:
        job = self._jobs.get(job_id)
        if job is None:
            raise not_found("job", f"The job {job_id[:200]!r} does not exist.")
        return json_reply(job)

    def _remember(self, job: Job) -> None:
        self._jobs[job.job_id] = job
        if len(self._jobs) > MAX_REMEMBERED:
            oldest_id, oldest = self._jobs.popitem(last=False)
            self._tasks.stop(oldest_id)
            self._catalog.discard(oldest.model_name)

    async def _live(self, job: Job, request: FineTuneRequest) -> None:
        url = request.webhook_url
        await asyncio.sleep(self._settings.job_queued_ms / 1000)
        job.status = "running"
        job.metrics = metrics_of(job, request, 0.5)
        self._post(url, "training.started", job)

        await asyncio.sleep(self._settings.job_running_ms / 1000)
        job.completed_at = iso_time(self._now())
        if FAILING_DATASET in request.dataset:
            job.status = "failed"
            job.error = {"code": "DATASET_INVALID", "message": "The dataset is empty."}
            self._post(url, "training.failed", job)
            return
        job.status = "completed"
        job.metrics = metrics_of(job, request, 1)
        self._post(url, "training.completed", job)
        self._deploy(url, job)

    def _deploy(self, url: str | None, job: Job) -> None:
        self._catalog.add(job.model_name)
        if url is None:
            return
        data: dict[str, object] = {
            "deploymentId": f"dep_{job.job_id}",
            "modelId": job.model_name,
            "version": 1,
            "endpoint": f"/v1/models/{job.model_name}/inference",
        }
        self._webhooks.send(url, "model.deployed", data)

    def _post(self, url: str | None, name: str, job: Job) -> None:
        if url is None:
            return
        data: dict[str, object] = {
            "jobId": job.job_id,
            "baseModel": job.base_model,
            "modelName": job.model_name,
            "status": job.status,
            "metrics": msgspec.to_builtins(job.metrics),
        }
        if job.status == "completed":
            data["artifact"] = f"s3://llmtune-artifacts/{job.job_id}.safetensors"
        if job.error is not None:
            data["error"] = job.error
        self._webhooks.send(url, name, data)


def _is_on_loopback(url: str) -> bool:
    """Whether it is of a gateway beside this simulator, which has no certificate."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme == "http" and parts.hostname in LOOPBACK


def metrics_of(job: Job, request: FineTuneRequest, progress: float) -> Metrics:
    """Made-up but plausible: losses fall with progress, tokens grow with epochs."""
    size = zlib.crc32(request.dataset.encode()) % 900_000 + 100_000
    epochs = request.hyperparameters.epochs if request.hyperparameters else None
    start = 1.5 + zlib.crc32(job.base_model.encode()) % 100 / 100
    loss = round(start * (1 - 0.7 * progress), 4)
    return Metrics(
        loss=loss,
        eval_loss=round(loss * 1.1, 4),
        tokens_per_second=float(2_000 + size % 500),
        total_tokens=int(size * (epochs or 3) * progress),
    )
