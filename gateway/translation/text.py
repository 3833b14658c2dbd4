"""`/v1/completions`, the legacy text route: parsed, translated, streamed."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from gateway.errors import InvalidRequest, UpstreamError
from gateway.schemas.llmtune import FlatMessage
from gateway.schemas.openai import CompletionRequest
from gateway.settings import Dialect, PromptForm
from gateway.translation.answer import (
    answered_model,
    decode_answer,
    default_finish,
    read_choices,
    usage_of,
)
from gateway.translation.body import decode_body
from gateway.translation.chat_request import inference_body
from gateway.translation.chat_stream import DONE_FRAME
from gateway.translation.events import decode_event, plain_text_of, read_event
from gateway.translation.port import (
    Route,
    Stamp,
    TokenDemand,
    UpstreamRequest,
    WholeAnswer,
)
from gateway.translation.routes import (
    CHAT_PATH,
    check_model_id,
    choose_route,
    first_uncarried_legacy,
    inference_path,
)
from gateway.translation.usage import StreamMeter, TokenUsage
from policies.estimate import estimate_text_tokens

_decoder: Final = msgspec.json.Decoder(CompletionRequest)
_encode: Final = msgspec.json.Encoder().encode

# OpenAI's default for this route; chat has none.
DEFAULT_MAX_TOKENS: Final = 16


class TextTranslator:
    """Implements `Translator` for text completions."""

    def __init__(
        self, raw: bytes, *, dialect: Dialect, prompt_form: PromptForm
    ) -> None:
        self._request = decode_body(raw, _decoder)
        check_model_id(self._request.model)
        self._prompt = _prompt_of(self._request)
        self._max_tokens = self._request.max_tokens or DEFAULT_MAX_TOKENS
        self._dialect = dialect
        self._prompt_form = prompt_form
        tokens = estimate_text_tokens(self._prompt)
        self._demand = TokenDemand(
            input_tokens=tokens,
            text_tokens=tokens,
            max_output_tokens=self._max_tokens,
            choices=self._request.n or 1,
            input_param="prompt",
        )
        self._reading = TextReading(
            self._request.model,
            self._demand,
            self._max_tokens,
            self._prompt if self._request.echo else "",
        )

    @property
    def model(self) -> str:
        return self._request.model

    @property
    def is_stream(self) -> bool:
        return bool(self._request.stream)

    @property
    def demand(self) -> TokenDemand:
        return self._demand

    def find_route(self) -> Route:
        return choose_route(self._dialect, first_uncarried_legacy(self._request))

    def to_upstream(self) -> UpstreamRequest:
        request = self._request
        turns = [FlatMessage("user", self._prompt)]
        if self.find_route() == "chat":
            return UpstreamRequest(
                "chat", CHAT_PATH, _encode(self._chat_body(turns)), self.is_stream
            )
        body = inference_body(
            prompt=None if self._prompt_form == "messages" else self._prompt,
            messages=None if self._prompt_form == "prompt" else turns,
            request=request,
            max_tokens=self._max_tokens,
        )
        path = inference_path(request.model)
        return UpstreamRequest("inference", path, _encode(body), self.is_stream)

    def _chat_body(self, turns: list[FlatMessage]) -> dict[str, Any]:
        # One user message is what a text prompt becomes on a chat route.
        body: dict[str, Any] = {
            "model": self._request.model,
            "messages": turns,
            "max_tokens": self._max_tokens,
        }
        for name in _CHAT_PARAMETERS:
            value = getattr(self._request, name)
            if value is not None:
                body[name] = value
        if self.is_stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        return body

    def from_upstream(self, body: bytes, stamp: Stamp) -> WholeAnswer:
        model, choices, usage = self._reading.read(body)
        completion = {
            **_head(stamp, model),
            "choices": choices,
            "usage": usage.to_openai(),
        }
        return WholeAnswer(_encode(completion), usage)

    def stream(self, stamp: Stamp) -> TextStream:
        options = self._request.stream_options
        return TextStream(
            self._reading, stamp, wants_usage=bool(options and options.include_usage)
        )


class TextReading(msgspec.Struct, frozen=True):
    """What reading an answer takes of its request: of a long prompt, its estimate."""

    model: str
    demand: TokenDemand
    max_tokens: int
    # What every choice begins with.
    echo: str

    def read(self, body: bytes) -> tuple[str, list[dict[str, Any]], TokenUsage]:
        """The model, the choices in this route's form and the usage of an answer."""
        answer = decode_answer(body)
        choices = read_choices(answer)
        usage = usage_of(answer, choices, self.demand.text_tokens)
        said = [
            _choice(
                choice.index,
                self.echo + (choice.text or ""),
                choice.finish_reason or default_finish(choice, usage, self.max_tokens),
            )
            for choice in choices
        ]
        return answered_model(answer, self.model), said, usage


class TextStream:
    """Writes the chunks of one streamed text completion."""

    def __init__(
        self, reading: TextReading, stamp: Stamp, *, wants_usage: bool
    ) -> None:
        demand = reading.demand
        self._reading = reading
        self._head = _head(stamp, reading.model)
        self._usage_member = {"usage": None} if wants_usage else {}
        # What stands around a text of the first choice, as in a chat's stream.
        head = _encode(self._head)[:-1]
        self._text_head = b"data: " + head + b',"choices":[{"index":0,"text":'
        usage_member = b',"usage":null' if wants_usage else b""
        self._text_tail = (
            b',"logprobs":null,"finish_reason":null}]' + usage_member + b"}\n\n"
        )
        self._wants_usage = wants_usage
        self._most_tokens = demand.most_output_tokens
        self._meter = StreamMeter(demand.text_tokens, demand.most_output_tokens)
        # Which choices have begun, and whether each has ended.
        self._finished: dict[int, bool] = {}

    @property
    def usage(self) -> TokenUsage:
        return self._meter.usage

    def feed(self, data: bytes) -> bytes:
        said = decode_event(data)
        if self._finished.get(0) is False:
            text = plain_text_of(said)
            if text is not None:
                self._meter.add(text)
                return b"".join((self._text_head, _encode(text), self._text_tail))
        event = read_event(said)
        frames = []
        for piece in event.pieces:
            if self._finished.get(piece.index):
                # Nothing can follow a finish reason; an upstream that goes on is not
                # heard, and not charged for it.
                continue
            self._meter.add(piece.text)
            text = self._opening(piece.index) + piece.text
            if text or piece.finish_reason:
                frames.append(self._chunk(piece.index, text, piece.finish_reason))
            self._finished[piece.index] = piece.finish_reason is not None
        self._meter.note(event.reported)
        return b"".join(frames)

    def feed_whole(self, body: bytes) -> bytes:
        _, choices, usage = self._reading.read(body)
        self._meter.settle(usage)
        self._finished = {choice["index"]: True for choice in choices}
        return b"".join([self._frame(choice) for choice in choices])

    def finish(self, *, is_marked: bool) -> bytes:
        is_whole = self._finished and all(self._finished.values())
        if not is_whole and not is_marked:
            raise UpstreamError(
                "The upstream ended its stream before the answer's end.",
                fault="cut_short",
            )
        most = self._most_tokens
        is_cut = most is not None and self.usage.output_tokens >= most
        frames = [
            self._chunk(index, self._opening(index), "length" if is_cut else "stop")
            for index in self._finished or (0,)
            if not self._finished.get(index)
        ]
        if self._wants_usage:
            last = {**self._head, "choices": [], "usage": self.usage.to_openai()}
            frames.append(b"data: " + _encode(last) + b"\n\n")
        frames.append(DONE_FRAME)
        return b"".join(frames)

    def _opening(self, index: int) -> str:
        return "" if index in self._finished else self._reading.echo

    def _chunk(self, index: int, text: str, finish_reason: str | None) -> bytes:
        return self._frame(_choice(index, text, finish_reason))

    def _frame(self, choice: dict[str, Any]) -> bytes:
        chunk = {**self._head, "choices": [choice], **self._usage_member}
        return b"data: " + _encode(chunk) + b"\n\n"


_CHAT_PARAMETERS: Final = (
    "temperature",
    "top_p",
    "top_k",
    "n",
    "stop",
    "seed",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "user",
)


def _choice(index: int, text: str, finish_reason: str | None) -> dict[str, Any]:
    # Of OpenAI's reasons this route knows these only.
    if finish_reason not in {None, "stop", "length", "content_filter"}:
        finish_reason = "stop"
    return {
        "index": index,
        "text": text,
        "logprobs": None,
        "finish_reason": finish_reason,
    }


def _head(stamp: Stamp, model: str) -> dict[str, Any]:
    return {
        "id": stamp.answer_id,
        "object": "text_completion",
        "created": stamp.created_s,
        "model": model,
    }


def _prompt_of(request: CompletionRequest) -> str:
    """The one text prompt, or InvalidRequest for what LLMTune has no word for."""
    prompt = request.prompt
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str):
        prompt = prompt[0]
    if not isinstance(prompt, str):
        raise InvalidRequest(
            "'prompt' must be one text: LLMTune takes neither token ids nor several"
            " prompts in one request.",
            param="prompt",
        )
    for name, neutral in (("logprobs", 0), ("best_of", 1), ("suffix", "")):
        if (getattr(request, name) or neutral) != neutral:
            raise InvalidRequest(
                f"'{name}' is not available: LLMTune's routes have no counterpart.",
                param=name,
            )
    return prompt
