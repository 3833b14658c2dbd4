"""What of prompts, answers and keys is in a span: nothing, unless it is asked for."""

from __future__ import annotations

import json
from typing import Any, Final

import pytest

from gateway.tracing.bodies import MOST_TEXT, streamed_messages
from gateway.tracing.watching import KEPT_BYTES, WatchedStream
from gateway.translation.usage import TokenUsage
from tests.gateway_under_test import (
    UPSTREAM_KEY,
    GatewayUnderTest,
    chat_body,
)
from tests.servers.otlp import Collector
from tests.traced import StartTraced, received
from tests.upstream import ScriptedUpstream

SECRET_PROMPT: Final = "the-prompts-own-words"
SECRET_ANSWER: Final = "the-answers-own-words"


class TestContent:
    """Prompts and answers are nobody's business, unless the operator says so."""

    async def say_secrets(
        self, gateway: GatewayUnderTest, upstream: ScriptedUpstream, **body: Any
    ) -> None:
        upstream.will_answer({"text": SECRET_ANSWER, "tokens": 12, "model": "m"})
        messages = [{"role": "user", "content": SECRET_PROMPT}]
        await gateway.post("/v1/chat/completions", **chat_body(messages=messages))
        upstream.will_stream({"text": SECRET_ANSWER})
        streamed = chat_body(messages=messages, stream=True)
        await gateway.post("/v1/chat/completions", **streamed)

    async def test_no_span_holds_text_or_keys(
        self,
        start_traced: StartTraced,
        collector: Collector,
        upstream: ScriptedUpstream,
    ) -> None:
        """Looked for in the bytes that were exported."""
        gateway = await start_traced()

        await self.say_secrets(gateway, upstream)
        await received(collector, servers=2)

        exported = b"".join(collector.raw)
        for secret in (SECRET_PROMPT, SECRET_ANSWER, UPSTREAM_KEY, gateway.key()):
            assert secret.encode() not in exported

    async def test_text_is_in_spans_where_it_is_asked_for(
        self,
        start_traced: StartTraced,
        collector: Collector,
        upstream: ScriptedUpstream,
    ) -> None:
        """Whole and streamed, and keys all the same nowhere."""
        gateway = await start_traced(
            OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT="true"
        )

        await self.say_secrets(gateway, upstream)
        await received(collector, servers=2)

        for attempt in collector.of_kind("CLIENT"):
            assert SECRET_PROMPT in attempt.attributes["gen_ai.input.messages"]
            [said] = json.loads(attempt.attributes["gen_ai.output.messages"])
            assert said == {
                "role": "assistant",
                "parts": [{"type": "text", "content": SECRET_ANSWER}],
                "finish_reason": "stop",
            }
        assert UPSTREAM_KEY.encode() not in b"".join(collector.raw)

    @pytest.mark.parametrize("said", ["false", "no_content", "0"])
    async def test_whoever_says_no_means_it(
        self,
        start_traced: StartTraced,
        collector: Collector,
        upstream: ScriptedUpstream,
        said: str,
    ) -> None:
        """A word that is not one of those for yes is none."""
        gateway = await start_traced(
            OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT=said
        )

        await self.say_secrets(gateway, upstream)
        await received(collector, servers=2)

        assert SECRET_PROMPT.encode() not in b"".join(collector.raw)

    async def test_text_is_kept_within_bounds(
        self,
        start_traced: StartTraced,
        collector: Collector,
        upstream: ScriptedUpstream,
    ) -> None:
        """Of a prompt and an answer what a collector takes, and of streams as well."""
        gateway = await start_traced(
            OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT="true"
        )
        long = "word " * 10_000
        upstream.will_stream(*({"text": long} for _ in range(4)))

        said = [{"role": "user", "content": long}, {"role": "user", "content": "more"}]
        await gateway.chat(stream=True, messages=said)
        await received(collector)

        (attempt,) = collector.of_kind("CLIENT")
        for name in ("gen_ai.input.messages", "gen_ai.output.messages"):
            [message] = json.loads(attempt.attributes[name])
            [part] = message["parts"]
            assert len(part["content"]) == MOST_TEXT

    async def test_a_large_body_is_not_read_a_second_time(
        self, start_traced: StartTraced, collector: Collector
    ) -> None:
        """Its parameters are not worth a millisecond of everybody's."""
        gateway = await start_traced()

        messages = [{"role": "user", "content": "word " * 40_000}]
        await gateway.chat(messages=messages, max_tokens=9)
        await received(collector)

        (attempt,) = collector.of_kind("CLIENT")
        assert "gen_ai.request.max_tokens" not in attempt.attributes


def test_of_a_stream_only_its_beginning_is_held() -> None:
    """However long it is, and whatever its frames' sizes."""
    watched = WatchedStream(Echo(), keeps_text=True)

    for _ in range(4):
        watched.feed(b"x" * (KEPT_BYTES // 3))

    assert sum(map(len, watched.frames)) == KEPT_BYTES


class Echo:
    """A stream whose frames are what came."""

    usage = TokenUsage(0, 0, is_reported=False)

    def feed(self, data: bytes) -> bytes:
        return data

    def feed_whole(self, body: bytes) -> bytes:
        return body

    def finish(self, *, is_marked: bool) -> bytes:
        return b""


async def test_limits_of_spans_are_kept(
    start_traced: StartTraced, collector: Collector
) -> None:
    """A backend that refuses more would refuse the whole batch."""
    gateway = await start_traced(
        OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT="3",
        OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT="5",
        OTEL_SPAN_EVENT_COUNT_LIMIT="1",
    )

    await gateway.chat(stream=True)
    await received(collector)

    assert len(collector.server.events) == 1
    for span in collector.spans:
        assert len(span.attributes) == 3
        texts = [each for each in span.attributes.values() if isinstance(each, str)]
        assert all(len(each) <= 5 for each in texts)


class TestStreamsText:
    """What is kept of a stream's text, where that is asked for."""

    def test_each_choice_has_its_text_and_its_end(self) -> None:
        """The convention has no message without one."""
        frames = [
            _chunk(0, "Hel") + _chunk(1, "Ho"),
            _chunk(1, "la", "length") + _chunk(0, "lo", "stop"),
        ]

        said = json.loads(streamed_messages(frames, ["length", "stop"]))

        assert [m["parts"][0]["content"] for m in said] == ["Hello", "Hola"]
        assert [m["finish_reason"] for m in said] == ["stop", "length"]

    @pytest.mark.parametrize(
        ("reasons", "told"), [(["length"], "length"), ([], "error")]
    )
    def test_what_came_after_what_is_kept_is_why_it_ended(
        self, reasons: list[str], told: str
    ) -> None:
        """And a stream that broke off says so."""
        [said] = json.loads(streamed_messages([_chunk(0, "Hel")], reasons))

        assert told == said["finish_reason"]


def _chunk(index: int, text: str, reason: str | None = None) -> bytes:
    choice = {"index": index, "delta": {"content": text}, "finish_reason": reason}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"
