"""
The deployment as its user reaches it: one method for each thing that can be asked.

Every answer comes back with the instants around it. Nothing is retried: a retry would
be a request that nobody counted.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from typing import Any, Final

import httpx
import msgspec

from gateway.conformance.observations import (
    OUTCOME_OF_CODE,
    Attempt,
    Outcome,
    PreviewSeen,
    Snapshot,
)
from gateway.conformance.streams import OpenStream

# A whole answer of a few tokens; a model that is slower cannot be measured with.
ANSWER_TIMEOUT_S: Final = 30.0
LOOK_TIMEOUT_S: Final = 5.0

# What the rules allow beside tokens of text: roles, separators, the answer's opening.
OVERHEAD_TOKENS: Final = 32

# Three letters and a blank: one token by any tokenizer and by the rule of thumb.
WORD: Final = "the "
UNITS: Final = ("requests", "tokens")


class Unusable(Exception):
    """The deployment cannot be measured; one line says why."""


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """A completion to ask for, of a known size."""

    max_tokens: int
    prompt_tokens: int = 2
    is_stream: bool = False
    # What the deployment reserves for it; learned from its preview.
    reserve_tokens: int = 0

    def body(self, model: str) -> dict[str, Any]:
        question = "Count from one to a thousand, in words." if self.is_stream else "Go"
        text = WORD * self.prompt_tokens + question
        body = {
            "model": model,
            "messages": [{"role": "user", "content": text}],
            "max_tokens": self.max_tokens,
        }
        if self.is_stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        return body


class Deployment:
    """One or more replicas behind their base URLs, and the key that opens them."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        base_urls: Sequence[str],
        api_key: str,
        model: str | None = None,
    ) -> None:
        self._client = client
        self.base_urls = list(base_urls)
        self._auth = {"authorization": f"Bearer {api_key}"}
        self.model = model or ""
        self._turn = 0
        self.sent = 0

    @property
    def replicas(self) -> range:
        return range(len(self.base_urls))

    def next_replica(self) -> int:
        """Round-robin over all replicas."""
        self._turn += 1
        return self._turn % len(self.base_urls)

    def _url(self, replica: int, path: str) -> str:
        return f"{self.base_urls[replica]}/v1{path}"

    async def choose_model(self) -> None:
        """Without a model of the caller's, the first that the plan may use."""
        if self.model:
            return
        answer = await self._ask_json("GET", 0, "/models")
        try:
            self.model = answer.json()["data"][0]["id"]
        except (ValueError, LookupError, TypeError):
            where = self._url(0, "/models")
            raise Unusable(f"{where} lists no model; give --model") from None

    async def look(self, replica: int) -> Snapshot:
        """Where the workspace stands, as this replica tells it."""
        sent_s = time.perf_counter()
        answer = await self._ask_json("GET", replica, "/limits")
        answered_s = time.perf_counter()
        try:
            told = msgspec.json.decode(answer.content)
            return msgspec.convert(
                {
                    **told,
                    "replica": replica,
                    "sent_s": sent_s,
                    "answered_s": answered_s,
                },
                Snapshot,
            )
        except (msgspec.MsgspecError, TypeError) as error:
            where = self._url(replica, "/limits")
            raise Unusable(f"{where} tells no limits: {error}") from None

    async def preview(self, replica: int, ask: Ask) -> PreviewSeen | None:
        """Would it pass? None where the deployment has no preview."""
        sent_s = time.perf_counter()
        try:
            answer = await self._post(replica, "/limits/preview", ask, LOOK_TIMEOUT_S)
        except (httpx.HTTPError, TimeoutError):
            return None
        try:
            told = answer.json()
            return PreviewSeen(
                replica=replica,
                sent_s=sent_s,
                answered_s=time.perf_counter(),
                would_pass=told["would_pass"],
                reserve_tokens=told["reserve"]["tokens"],
                retry_after_ms=told["retry_after_ms"],
            )
        except (ValueError, LookupError, TypeError):
            return None

    async def sized(self, ask: Ask) -> Ask:
        """The same with what would be reserved for it."""
        seen = await self.preview(0, ask)
        guess = 2 * ask.prompt_tokens + ask.max_tokens + OVERHEAD_TOKENS
        reserve = seen.reserve_tokens if seen else guess
        return msgspec.structs.replace(ask, reserve_tokens=reserve)

    async def complete(self, replica: int, ask: Ask) -> Attempt:
        """One whole completion, however it ends."""
        self.sent += 1
        sent_s = time.perf_counter()
        try:
            answer = await self._post(replica, "/chat/completions", ask)
        except (httpx.HTTPError, TimeoutError) as error:
            return lost(replica, sent_s, ask, error)
        return attempt_of(answer, replica, sent_s, ask)

    async def open(self, replica: int, ask: Ask) -> tuple[Attempt, OpenStream | None]:
        """One stream; whoever gets it must close it."""
        self.sent += 1
        sent_s = time.perf_counter()
        request = self._client.build_request(
            "POST",
            self._url(replica, "/chat/completions"),
            json=ask.body(self.model),
            headers=self._auth,
        )
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                answer = await self._client.send(request, stream=True)
                if answer.status_code != 200:
                    await answer.aread()
                    await answer.aclose()
        except (httpx.HTTPError, TimeoutError) as error:
            return lost(replica, sent_s, ask, error), None
        attempt = attempt_of(answer, replica, sent_s, ask)
        stream = OpenStream(answer, attempt) if answer.status_code == 200 else None
        return attempt, stream

    async def _post(
        self, replica: int, path: str, ask: Ask, timeout_s: float = ANSWER_TIMEOUT_S
    ) -> httpx.Response:
        async with asyncio.timeout(timeout_s):
            return await self._client.post(
                self._url(replica, path),
                json=ask.body(self.model),
                headers=self._auth,
            )

    async def _ask_json(self, method: str, replica: int, path: str) -> httpx.Response:
        url = self._url(replica, path)
        try:
            async with asyncio.timeout(LOOK_TIMEOUT_S):
                answer = await self._client.request(method, url, headers=self._auth)
        except TimeoutError:
            raise Unusable(
                f"{url} does not answer within {LOOK_TIMEOUT_S:g} s"
            ) from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            what = str(error) or type(error).__name__
            raise Unusable(f"{url} does not answer: {what}") from None
        if answer.status_code != 200:
            raise Unusable(f"{url} answers {answer.status_code}{_told_by(answer)}")
        return answer


def _told_by(answer: httpx.Response) -> str:
    """What an answer that is none says about itself."""
    if answer.is_redirect:
        return f" and points to {answer.headers['location'][:200]}"
    message = _error_of(answer).get("message")
    return f": {str(message)[:200]}" if message else ", and not as a gateway does"


def lost(replica: int, sent_s: float, ask: Ask, error: Exception) -> Attempt:
    """An attempt nobody answered."""
    now_s = time.perf_counter()
    return Attempt(
        replica=replica,
        sent_s=sent_s,
        answered_s=now_s,
        ended_s=now_s,
        outcome="unknown",
        reserve_tokens=ask.reserve_tokens,
        problem=str(error) or type(error).__name__,
    )


def attempt_of(
    answer: httpx.Response, replica: int, sent_s: float, ask: Ask
) -> Attempt:
    """What an answer says; of a stream, its head."""
    now_s = time.perf_counter()
    attempt = Attempt(
        replica=replica,
        sent_s=sent_s,
        answered_s=now_s,
        ended_s=now_s,
        outcome="admitted",
        reserve_tokens=ask.reserve_tokens,
        degraded=answer.headers.get("x-llmtune-degraded"),
    )
    for unit in UNITS:
        left = answer.headers.get(f"x-ratelimit-remaining-{unit}", "")
        if left.isdigit():
            attempt.remaining[unit] = int(left)
    if answer.status_code != 200:
        _note_refusal(attempt, answer)
    elif not ask.is_stream:
        attempt.total_tokens = total_of(answer.content)
    return attempt


def total_of(data: bytes | str) -> int | None:
    """`usage.total_tokens` of an answer or an event, if it has one."""
    try:
        total = json.loads(data)["usage"]["total_tokens"]
    except (ValueError, LookupError, TypeError):
        return None
    return total if isinstance(total, int) else None


def _note_refusal(attempt: Attempt, answer: httpx.Response) -> None:
    error = _error_of(answer)
    told = error.get("details")
    details = told if isinstance(told, dict) else {}
    attempt.outcome = _outcome(answer.status_code, error, details)
    attempt.problem = f"{answer.status_code}: {error.get('message', '')}"[:200]
    if attempt.is_limited:
        attempt.dimension = details.get("dimension")
        attempt.requested = details.get("requested")
        wait = answer.headers.get("retry-after-ms", "")
        attempt.retry_after_ms = int(wait) if wait.isdigit() else None


def _outcome(status: int, error: dict[str, Any], details: dict[str, Any]) -> Outcome:
    # A 429 of the upstream's is its own business, and says nothing about the plan.
    if status == 429 and details.get("whose") != "upstream":
        return OUTCOME_OF_CODE.get(str(error.get("code")), "failed")
    return "failed" if status >= 500 or status == 429 else "refused"


def _error_of(answer: httpx.Response) -> dict[str, Any]:
    try:
        error = answer.json()["error"]
    except (ValueError, LookupError, TypeError):
        return {}
    return error if isinstance(error, dict) else {}
