"""Batches of inferences; their results come back by webhook."""

from __future__ import annotations

import asyncio

import msgspec

from gateway.simulator.answers import tokens_field
from gateway.simulator.errors import bad_request
from gateway.simulator.inference import InferenceModel
from gateway.simulator.jobs import JobTasks
from gateway.simulator.replies import Reply, json_reply
from gateway.simulator.requests import (
    DEFAULT_MAX_TOKENS,
    BatchItem,
    BatchRequest,
    prompt_of,
)
from gateway.simulator.settings import SimulatorSettings
from gateway.simulator.webhooks import WebhookSender, checked_url


class Batches:
    """Accepts batches, works them off in the background, posts what came of them."""

    def __init__(
        self,
        settings: SimulatorSettings,
        model: InferenceModel,
        webhooks: WebhookSender,
        tasks: JobTasks,
    ) -> None:
        self._settings = settings
        self._model = model
        self._webhooks = webhooks
        self._tasks = tasks
        self._created = 0

    def check(self, request: BatchRequest) -> None:
        checked_url(request.webhook_url)
        ids = [item.id for item in request.requests]
        if len(set(ids)) < len(ids):
            raise bad_request("the ids of a batch's requests must differ", "requests")

    def create(self, request: BatchRequest) -> Reply:
        self._created += 1
        batch_id = f"batch_{self._settings.seed}_{self._created:06d}"
        # Without a webhook nobody can ever see the results.
        if request.webhook_url is not None:
            work = self._run(batch_id, request, request.webhook_url)
            self._tasks.start(batch_id, work)
        accepted = sum(1 for item in request.requests if text_of(item))
        summary = {"total": len(request.requests), "accepted": accepted}
        return json_reply({"batchId": batch_id, "status": "queued", "summary": summary})

    async def _run(self, batch_id: str, request: BatchRequest, url: str) -> None:
        # One after the other over the batch's time: all at once they would keep every
        # other caller waiting.
        pause_s = self._settings.batch_ms / 1000 / len(request.requests)
        results = []
        for item in request.requests:
            results.append(self._result(request.model_id, item))
            await asyncio.sleep(pause_s)
        if self._settings.batch_webhook == "batch":
            self._post(url, batch_id, results)
            return
        for result in results:
            self._post(url, batch_id, [result])

    def _post(self, url: str, batch_id: str, results: list[dict[str, object]]) -> None:
        data: dict[str, object] = {
            "batchId": batch_id,
            "status": "completed",
            "results": results,
        }
        self._webhooks.send(url, "batch.completed", data)

    def _result(self, model: str, item: BatchItem) -> dict[str, object]:
        text = text_of(item)
        if not text:
            error = {"code": "BAD_REQUEST", "message": "prompt is required"}
            return {"id": item.id, "text": None, "tokens": None, "error": error}
        done = self._model.answer(model, text, DEFAULT_MAX_TOKENS)
        tokens = tokens_field(done.usage, self._settings.generation)
        return {
            "id": item.id,
            "text": done.composition.text,
            "tokens": msgspec.to_builtins(tokens),
        }


def text_of(item: BatchItem) -> str:
    if item.prompt is not None:
        return item.prompt
    return prompt_of(item.messages) if item.messages else ""
