"""Chat completions in OpenAI's shape, whole and in chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain

import msgspec

from gateway.simulator.answers import Usage, usage_of
from gateway.simulator.examples import example_of
from gateway.simulator.logprobs import logprob_deltas, logprobs_of
from gateway.simulator.replies import (
    AnyReply,
    encode_json,
    json_reply,
    streamed,
)
from gateway.simulator.requests import NO_METADATA, ChatRequest, prompt_of
from gateway.simulator.settings import SimulatorSettings
from gateway.simulator.stats import StatsBoard
from gateway.simulator.streams import (
    OPENING,
    ChunkFrame,
    StreamedChoice,
    chunk_events,
    text_deltas,
)
from gateway.simulator.text import (
    Composition,
    compose,
    count_tokens,
    cut_off,
    digest_of,
    split_tokens,
)
from gateway.simulator.tools import CALL_OPENING, ToolCall, call_tool, called_tools


class Choice(msgspec.Struct, frozen=True):
    """One of the `n` answers: a text, or tool calls instead."""

    composition: Composition
    calls: Sequence[ToolCall] = ()

    @property
    def finish_reason(self) -> str:
        if not all(call.is_finished for call in self.calls):
            return "length"
        if self.calls:
            return "tool_calls"
        return "stop" if self.composition.is_finished else "length"

    @property
    def tokens(self) -> int:
        called = sum(count_tokens(c.tool.name) + len(c.pieces) for c in self.calls)
        return len(self.composition.pieces) + called


class ChatModel:
    """Answers chat requests, pure but for the usage it counts."""

    def __init__(
        self, settings: SimulatorSettings, board: StatsBoard, now: Callable[[], float]
    ) -> None:
        self._settings = settings
        self._board = board
        self._now = now

    def complete(self, request: ChatRequest) -> AnyReply:
        prompt = prompt_of(request.messages)
        choices = [self._choice(request, prompt, i) for i in range(request.n or 1)]
        usage = usage_of(count_tokens(prompt), sum(c.tokens for c in choices))
        self._board.used(usage.prompt_tokens, usage.completion_tokens)

        digest = digest_of(request.model, prompt, 0, self._seed(request))
        answer_id = f"chatcmpl-{digest.hex()}"
        created = int(self._now())
        if request.stream and self._settings.stream_form != "json":
            events = partial(stream_events, request, choices, usage, answer_id, created)
            return streamed(events, usage.completion_tokens)
        body = completion_body(request, choices, usage, answer_id, created)
        return json_reply(body, usage.completion_tokens)

    def _seed(self, request: ChatRequest) -> int:
        return self._settings.seed if request.seed is None else request.seed

    def _choice(self, request: ChatRequest, prompt: str, index: int) -> Choice:
        digest = digest_of(request.model, prompt, index, self._seed(request))
        limit = request.limit
        if tools := called_tools(request):
            calls = [call_tool(tool, digest, n, limit) for n, tool in enumerate(tools)]
            return Choice(Composition(()), calls)
        composition = self._composition(request, digest, limit)
        return Choice(stopped(composition, request.stops))

    def _composition(
        self, request: ChatRequest, digest: bytes, limit: int
    ) -> Composition:
        wanted = request.response_format
        if wanted is None or wanted.type == "text":
            shortest = self._settings.answer_tokens_min
            return compose(digest, shortest, self._settings.answer_tokens_max, limit)
        schema = wanted.json_schema.schema if wanted.json_schema is not None else None
        if schema is None:
            words = compose(digest, 8, 12, limit=12).text
            return cut_off(split_tokens(encode_json({"answer": words}).decode()), limit)
        return cut_off(split_tokens(encode_json(example_of(schema)).decode()), limit)


def stopped(composition: Composition, stops: Sequence[str]) -> Composition:
    """The composition up to the first of the stop sequences in it."""
    if not stops:
        return composition
    text = composition.text
    ends = [end for stop in stops if (end := text.find(stop)) >= 0]
    if not ends:
        return composition
    return Composition(split_tokens(text[: min(ends)]))


def completion_body(
    request: ChatRequest,
    choices: Sequence[Choice],
    usage: Usage,
    answer_id: str,
    created: int,
) -> dict[str, object]:
    body: dict[str, object] = {
        "id": answer_id,
        "object": "chat.completion",
        "created": created,
        "model": request.model,
        "choices": [choice_body(request, i, c) for i, c in enumerate(choices)],
        "usage": usage,
    }
    if request.metadata != NO_METADATA:
        body["metadata"] = request.metadata
    return body


def choice_body(request: ChatRequest, index: int, choice: Choice) -> dict[str, object]:
    message: dict[str, object] = {"role": "assistant", "refusal": None}
    if choice.calls:
        message["content"] = None
        message["tool_calls"] = [call.body() for call in choice.calls]
    else:
        message["content"] = choice.composition.text
    logprobs = None
    if request.logprobs and not choice.calls:
        logprobs = logprobs_of(choice.composition.pieces, request.top_logprobs or 0)
    return {
        "index": index,
        "message": message,
        "logprobs": logprobs,
        "finish_reason": choice.finish_reason,
    }


def stream_events(
    request: ChatRequest,
    choices: Sequence[Choice],
    usage: Usage,
    answer_id: str,
    created: int,
) -> Iterator[bytes]:
    wanted = request.wants_usage
    frame = ChunkFrame(answer_id, request.model, created, with_usage=wanted)
    steps = [streamed_choice(request, choice) for choice in choices]
    return chunk_events(frame, steps, usage if wanted else None)


def streamed_choice(request: ChatRequest, choice: Choice) -> StreamedChoice:
    if choice.calls:
        deltas = chain.from_iterable(c.deltas(i) for i, c in enumerate(choice.calls))
        return StreamedChoice(deltas, choice.finish_reason, CALL_OPENING)
    pieces = choice.composition.pieces
    if request.logprobs:
        top = request.top_logprobs or 0
        return StreamedChoice(
            logprob_deltas(pieces, top), choice.finish_reason, OPENING
        )
    return StreamedChoice(text_deltas(pieces), choice.finish_reason, OPENING)
