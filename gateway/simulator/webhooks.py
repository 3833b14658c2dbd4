"""
What LLMTune posts to the URL a caller gave, in the three generations of its payload.

1. `{event, data, deliveredAt}`, unsigned
2. `{event, data, timestamp}`, signed in `X-Webhook-Signature`
3. `{id, type, workspace_id, data, created_at, signature}`, signed in `signature` (over
   the payload without that field) and in `X-LLMTune-Signature` (over the body as sent)
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import random
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final
from urllib.parse import urlsplit

import httpx
import msgspec

from gateway.simulator.errors import bad_request
from gateway.simulator.replies import encode_json
from gateway.simulator.settings import Generation, SimulatorSettings
from gateway.simulator.stats import StatsBoard

MAX_RETRIES: Final = 5
TIMEOUT_S: Final[dict[Generation, float]] = {1: 5.0, 2: 5.0, 3: 30.0}

# Deliveries under way or waiting for a retry; beyond it a dead receiver would make the
# simulator grow for as long as its caller keeps asking.
MAX_PENDING: Final = 1_000

WORKSPACE_ID: Final = "ws_simulator"


class Event(msgspec.Struct, frozen=True):
    """Something that happened, before the shape of its payload is chosen."""

    name: str
    data: dict[str, object]
    happened_at: str
    event_id: str


class Payload(msgspec.Struct, frozen=True):
    body: bytes
    headers: dict[str, str]


def checked_url(url: str | None) -> str | None:
    """The URL, if something can be posted to it."""
    if url is None:
        return None
    try:
        parts = urlsplit(url)
        is_usable = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        is_usable = False
    if not is_usable:
        raise bad_request("webhookUrl must be an http or https URL", "webhookUrl")
    return url


def signature_of(secret: str, body: bytes) -> str:
    return hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def payload_of(event: Event, generation: Generation, secret: str) -> Payload:
    headers = {"content-type": "application/json", "user-agent": "LLMTune-Webhooks"}
    if generation == 3:
        return signed_within(event, secret, headers)
    moment = "deliveredAt" if generation == 1 else "timestamp"
    body = encode_json(
        {"event": event.name, "data": event.data, moment: event.happened_at}
    )
    if generation == 2:
        headers["x-webhook-event"] = event.name
        if secret:
            headers["x-webhook-signature"] = signature_of(secret, body)
    return Payload(body, headers)


def signed_within(event: Event, secret: str, headers: dict[str, str]) -> Payload:
    payload = {
        "id": event.event_id,
        "type": event.name,
        "workspace_id": WORKSPACE_ID,
        "data": event.data,
        "created_at": event.happened_at,
    }
    if not secret:
        return Payload(encode_json(payload), headers)
    unsigned = encode_json(payload)
    payload["signature"] = f"sha256={signature_of(secret, unsigned)}"
    body = encode_json(payload)
    headers["x-llmtune-signature"] = f"sha256={signature_of(secret, body)}"
    return Payload(body, headers)


class WebhookSender:
    """Delivers events in the background, again and again until one is taken."""

    def __init__(
        self, settings: SimulatorSettings, board: StatsBoard, now: Callable[[], float]
    ) -> None:
        self._settings = settings
        self._board = board
        self._now = now
        self._pending: set[asyncio.Task[None]] = set()
        self._client: httpx.AsyncClient | None = None
        self._making = asyncio.Lock()
        self._events = 0
        # Whoever gives the same seed sees the same ones go astray.
        self._random = random.Random(settings.seed)  # noqa: S311 - a dice, no secret

    def send(self, url: str, name: str, data: dict[str, object]) -> None:
        """Start delivering; the copies of one event share its id."""
        self._events += 1
        event = Event(name, data, iso_time(self._now()), f"evt_{self._events:08d}")
        generation = self._settings.webhook_generation
        payload = payload_of(event, generation, self._settings.webhook_secret)
        if self._happens(self._settings.webhook_drop):
            self._board.counts.webhooks_failed += 1
            return
        is_doubled = self._happens(self._settings.webhook_double)
        for _ in range(self._settings.webhook_copies + is_doubled):
            if len(self._pending) >= MAX_PENDING:
                self._board.counts.webhooks_failed += 1
                continue
            is_late = self._happens(self._settings.webhook_late)
            late_s = self._settings.webhook_late_ms / 1000 if is_late else 0.0
            task = asyncio.create_task(self._deliver(url, payload, late_s))
            self._pending.add(task)
            task.add_done_callback(self._pending.discard)

    async def aclose(self) -> None:
        for task in self._pending:
            task.cancel()
        await asyncio.gather(*self._pending, return_exceptions=True)
        if self._client is not None:
            await self._client.aclose()

    def _happens(self, share: float) -> bool:
        return share > 0 and self._random.random() < share

    async def _deliver(self, url: str, payload: Payload, late_s: float) -> None:
        if late_s:
            await asyncio.sleep(late_s)
        for attempt in range(MAX_RETRIES + 1):
            if attempt:
                self._board.counts.webhooks_retried += 1
                wait_ms = self._settings.webhook_retry_ms * 2 ** (attempt - 1)
                await asyncio.sleep(wait_ms / 1000)
            if await self._was_taken(url, payload):
                self._board.counts.webhooks_sent += 1
                self._board.changed()
                return
        self._board.counts.webhooks_failed += 1
        self._board.changed()

    async def _was_taken(self, url: str, payload: Payload) -> bool:
        timeout_s = TIMEOUT_S[self._settings.webhook_generation]
        try:
            # httpx's own time-out starts anew with every byte received.
            async with asyncio.timeout(timeout_s):
                client = await self._http()
                answer = await client.post(
                    url, content=payload.body, headers=payload.headers
                )
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, OSError):
            return False
        return answer.is_success

    async def _http(self) -> httpx.AsyncClient:
        async with self._making:
            if self._client is None:
                # No redirects and no proxies: only ever to the URL the caller gave. In
                # a thread, for reading certificates takes a tenth of a second and more.
                self._client = await asyncio.to_thread(
                    httpx.AsyncClient, follow_redirects=False, trust_env=False
                )
        return self._client


def iso_time(timestamp: float) -> str:
    moment = datetime.fromtimestamp(timestamp, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
