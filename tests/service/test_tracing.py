"""Traces as a real collector receives them: who is whose parent, and how each ended."""

from __future__ import annotations

import asyncio
import os
import re
from typing import Any

import pytest

from policies.ledger import Decision, Demand
from policies.memory_ledger import MemoryLedger
from tests.conftest import StartGateway
from tests.gateway_under_test import (
    MODEL,
    chat_body,
    until,
)
from tests.servers.otlp import Collector, otlp_over_grpc
from tests.traced import (
    PARENT,
    SAMPLED,
    TRACE,
    UNSAMPLED,
    StartTraced,
    ask,
    received,
)
from tests.upstream import ScriptedUpstream


class TestOneRequest:
    """What one trace holds."""

    async def test_a_trace_goes_on_from_caller_to_upstream(
        self,
        start_traced: StartTraced,
        collector: Collector,
        upstream: ScriptedUpstream,
    ) -> None:
        """Caller, gateway, attempt and upstream are one chain of parents."""
        gateway = await start_traced()

        await ask(
            gateway, traceparent=SAMPLED, tracestate="vendor=1", baggage="tenant=a"
        )
        await received(collector)

        (attempt,) = collector.of_kind("CLIENT")
        sent = upstream.last.headers
        assert collector.server.parent_id == PARENT
        assert {TRACE} == {span.trace_id for span in collector.spans}
        assert attempt.parent_id == collector.server.span_id
        assert sent["traceparent"] == f"00-{TRACE}-{attempt.span_id}-01"
        assert (sent["tracestate"], sent["baggage"]) == ("vendor=1", "tenant=a")
        assert collector.server.trace_state == "vendor=1"

    async def test_a_request_has_its_own_trace_by_the_conventions(
        self, start_traced: StartTraced, collector: Collector
    ) -> None:
        """Server, admission and attempt, named and described as dashboards expect."""
        gateway = await start_traced()

        response = await ask(gateway, x_client_request_id="mine-1")
        await received(collector)

        server, (admission,) = collector.server, collector.of_kind("INTERNAL")
        (attempt,) = collector.of_kind("CLIENT")
        assert server.name == "POST /v1/chat/completions"
        assert server.attributes["http.response.status_code"] == 200
        assert (
            server.attributes["llmtune.request_id"] == response.headers["x-request-id"]
        )
        assert server.attributes["llmtune.client_request_id"] == "mine-1"
        assert server.attributes["server.port"] == gateway.address.port
        assert admission.name == "admission.admit"
        assert admission.attributes["llmtune.admission.decision"] == "admitted"
        assert admission.attributes["llmtune.admission.adjustment_tokens"] < 0
        told = attempt.attributes
        assert attempt.name == f"chat {chat_body()['model']}"
        assert told["gen_ai.request.max_tokens"] == 9
        assert told["gen_ai.response.finish_reasons"] == ["stop"]
        assert told["gen_ai.response.id"] == response.json()["id"]
        usage = response.json()["usage"]
        assert told["gen_ai.usage.output_tokens"] == usage["completion_tokens"]
        assert server.started_ns <= attempt.started_ns < attempt.ended_ns
        # Its body had ended before the answer was made.
        assert attempt.ended_ns < server.ended_ns
        assert not any(span.is_error for span in collector.spans)

    @pytest.mark.parametrize(
        ("path", "body", "operation"),
        [
            pytest.param(
                "/v1/batch/inference",
                {"modelId": MODEL, "requests": [{"id": "1", "prompt": "x"}]},
                "batch",
                id="batch",
            ),
            pytest.param(
                "/v1/fine-tune",
                {"baseModel": MODEL, "dataset": "x"},
                "fine_tune",
                id="fine-tune",
            ),
        ],
    )
    async def test_a_jobs_creation_is_no_completion(
        self,
        start_traced: StartTraced,
        collector: Collector,
        upstream: ScriptedUpstream,
        path: str,
        body: dict[str, Any],
        operation: str,
    ) -> None:
        """It would count as a very quick one; and it says what the upstream said."""
        gateway = await start_traced()
        upstream.will_answer({"jobId": "job-1", "id": "job-1"}, status=202)

        await gateway.post(path, **body)
        await received(collector)

        (attempt,) = collector.of_kind("CLIENT")
        assert attempt.name == f"{operation} {MODEL}"
        assert attempt.attributes["gen_ai.operation.name"] == operation
        assert attempt.attributes["http.response.status_code"] == 202
        assert not attempt.is_error

    @pytest.mark.parametrize(
        "odd",
        [
            pytest.param(f'"seed":{10**30}', id="a whole number"),
            pytest.param(f'"top_k":{10**400}', id="one that is no float"),
            pytest.param('"temperature":"hot"', id="a word"),
        ],
    )
    async def test_what_no_attribute_can_hold_is_left_out(
        self,
        start_traced: StartTraced,
        collector: Collector,
        caplog: pytest.LogCaptureFixture,
        odd: str,
    ) -> None:
        """LLMTune's own route takes anything; a traceback for each would fill a log."""
        gateway = await start_traced()

        body = f'{{"modelId":"{MODEL}","prompt":"x",{odd}}}'
        answer = await gateway.client.post(
            "/v1/playground/inference", content=body, headers=gateway.auth()
        )
        await received(collector)

        assert answer.status_code == 200
        assert len(collector.of_kind("CLIENT")) == 1
        assert caplog.text.count("Traceback") == 0

    async def test_a_token_in_a_path_is_not_in_the_trace(
        self, start_traced: StartTraced, collector: Collector
    ) -> None:
        """It opens a file to whoever has it."""
        gateway = await start_traced()
        await gateway.client.get("/v1/files/handover/the-token/train.jsonl")
        await received(collector)
        told = collector.server.attributes
        assert "/v1/files/handover/{token}" == told["url.path"] == told["http.route"]

    async def test_the_access_line_and_exemplars_know_the_trace(
        self,
        start_traced: StartTraced,
        collector: Collector,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """From a log line to its trace and back."""
        gateway = await start_traced()

        with caplog.at_level("INFO", "gateway.access"):
            await ask(gateway, traceparent=SAMPLED)
            await received(collector)

        facts = caplog.records[-1].__dict__["facts"]
        assert (facts["trace_id"], facts["span_id"]) == (
            TRACE,
            collector.server.span_id,
        )

    async def test_the_access_line_knows_a_trace_that_begins_here(
        self,
        start_traced: StartTraced,
        collector: Collector,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """Where nobody in front of the gateway traces."""
        gateway = await start_traced()

        with caplog.at_level("INFO", "gateway.access"):
            await ask(gateway)
            await received(collector)

        assert caplog.records[-1].__dict__["facts"]["trace_id"] == (
            collector.server.trace_id
        )

    async def test_a_streams_spans_end_with_the_stream(
        self,
        start_traced: StartTraced,
        collector: Collector,
        upstream: ScriptedUpstream,
    ) -> None:
        """With the first token's moment and the end's."""
        gateway = await start_traced()
        go_on = asyncio.Event()
        head, *rest = _stream_steps()
        upstream.will(head, go_on, *rest)

        async with gateway.stream_chat() as stream:
            await stream.text_until("Hel")
            assert collector.spans == []
            go_on.set()
            await stream.text_until("lo")
            while await stream.next_event() is not None:
                pass
        await received(collector)

        (attempt,) = collector.of_kind("CLIENT")
        assert collector.server.events == ["first_token", "end"]
        assert attempt.attributes["gen_ai.response.finish_reasons"] == ["stop"]
        assert attempt.attributes["gen_ai.response.time_to_first_chunk"] >= 0
        assert attempt.attributes["gen_ai.response.id"].startswith("chatcmpl-")

    async def test_a_resource_names_service_and_pod(
        self, start_traced: StartTraced, collector: Collector
    ) -> None:
        """What a chart sets with the downward API; stated attributes first."""
        gateway = await start_traced(
            OTEL_RESOURCE_ATTRIBUTES="k8s.namespace.name=stated,team=a",
            K8S_NAMESPACE_NAME="unheard",
            K8S_POD_NAME="gateway-7",
            K8S_POD_UID="uid-7",
        )

        await ask(gateway)
        await received(collector)

        resource = collector.resource
        assert resource["service.name"] == "llmtune-gateway"
        assert resource["k8s.namespace.name"] == "stated"
        assert resource["k8s.pod.name"] == "gateway-7"
        assert resource["service.instance.id"] == "uid-7"
        assert resource["team"] == "a"


class TestHowItEnded:
    """The status of whatever does not go well."""

    async def test_a_rejected_request_has_no_attempt(
        self, start_traced: StartTraced, collector: Collector
    ) -> None:
        """429 with the limit that binds, and for a server no error."""
        gateway = await start_traced({"shut": "plan: shut\nconcurrency: 0"})

        response = await gateway.chat("shut")
        await received(collector)

        (admission,) = collector.of_kind("INTERNAL")
        assert 429 == response.status_code
        assert collector.server.attributes["http.response.status_code"] == 429
        assert not collector.server.is_error
        assert admission.attributes["llmtune.admission.decision"] == "rejected"
        assert admission.attributes["llmtune.admission.limit"] == "concurrency"
        assert collector.of_kind("CLIENT") == []

    async def test_an_invalid_request_has_a_server_span_alone(
        self, start_traced: StartTraced, collector: Collector
    ) -> None:
        """400 is the caller's own affair."""
        gateway = await start_traced()

        await gateway.post_raw(b"{")
        await received(collector)

        (span,) = collector.spans
        assert span.attributes["http.response.status_code"] == 400
        assert not span.is_error
        assert "error.type" not in span.attributes

    async def test_each_attempt_is_a_span(
        self,
        start_traced: StartTraced,
        collector: Collector,
        upstream: ScriptedUpstream,
    ) -> None:
        """A refused one is an error with its status; its retry says that it is one."""
        gateway = await start_traced()
        upstream.will_answer({"error": "busy"}, status=503)

        response = await ask(gateway)
        await received(collector)

        first, second = collector.of_kind("CLIENT")
        parents = [request.headers["traceparent"] for request in upstream.requests]
        assert 200 == response.status_code
        assert first.is_error
        assert first.attributes["http.response.status_code"] == 503
        assert second.attributes["http.request.resend_count"] == 1
        assert not second.is_error
        assert [first.span_id, second.span_id] == [p.split("-")[2] for p in parents]

    async def test_an_upstream_that_cuts_a_stream_is_an_error_of_both_spans(
        self,
        start_traced: StartTraced,
        collector: Collector,
        upstream: ScriptedUpstream,
    ) -> None:
        """Although both have seen a 200."""
        gateway = await start_traced()
        upstream.will_stream({"text": "Hel"}, then="cut")

        await gateway.chat(stream=True)
        await received(collector)

        (attempt,) = collector.of_kind("CLIENT")
        assert attempt.is_error
        assert collector.server.is_error
        assert collector.server.attributes["http.response.status_code"] == 200
        assert attempt.attributes["error.type"] == "hung_up"

    async def test_an_upstream_that_fails_is_a_502(
        self,
        start_traced: StartTraced,
        collector: Collector,
        upstream: ScriptedUpstream,
    ) -> None:
        """An error of the server's, with a word for it."""
        gateway = await start_traced()
        upstream.will_answer({"error": "broken"}, status=500)

        response = await ask(gateway)
        await received(collector)

        assert collector.server.is_error
        assert collector.server.attributes["error.type"]
        status = collector.server.attributes["http.response.status_code"]
        assert response.status_code == status

    async def test_a_client_that_left_is_a_499_and_no_error(
        self,
        start_traced: StartTraced,
        collector: Collector,
        upstream: ScriptedUpstream,
    ) -> None:
        """Its attempt was given up, and nothing is wrong with the upstream."""
        gateway = await start_traced()
        upstream.will_stream({"text": "Hel"}, then="hang")

        async with gateway.stream_chat() as stream:
            await stream.text_until("Hel")
        await received(collector)

        (attempt,) = collector.of_kind("CLIENT")
        for span in (collector.server, attempt):
            assert span.attributes["error.type"] == "client_gone"
            assert not span.is_error
        assert collector.server.attributes["http.response.status_code"] == 499
        assert collector.server.events == ["first_token"]

    @pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
    async def test_a_shutdowns_deadline_is_no_fault_of_the_upstreams(
        self,
        start_traced: StartTraced,
        start_gateway: StartGateway,
        collector: Collector,
        upstream: ScriptedUpstream,
        *,
        stream: bool,
    ) -> None:
        """An error of ours, and of an attempt that was given up none."""
        await start_traced()  # sets the variables
        gateway = await start_gateway(environment=os.environ, drain_timeout_s=0.2)
        upstream.will_stream({"text": "Hel"}, then="hang")

        asking = asyncio.ensure_future(gateway.chat(stream=stream))
        await until(lambda: bool(upstream.requests), "an attempt")
        await gateway.server.drain()
        await asking
        await received(collector)

        (attempt,) = collector.of_kind("CLIENT")
        assert collector.server.is_error
        assert not attempt.is_error
        for span in (collector.server, attempt):
            assert span.attributes["error.type"] == "shutting_down"

    async def test_a_replay_has_no_attempt(
        self, start_traced: StartTraced, collector: Collector
    ) -> None:
        """Who asks again under a key gets a trace that says so."""
        gateway = await start_traced()

        await ask(gateway, idempotency_key="order-1")
        await ask(gateway, idempotency_key="order-1")
        await received(collector, servers=2)

        outcomes = [s.attributes["llmtune.replay"] for s in collector.of_kind("SERVER")]
        assert outcomes == ["first", "stored"]
        assert len(collector.of_kind("CLIENT")) == 1

    async def test_probes_are_not_traced(
        self, start_traced: StartTraced, collector: Collector
    ) -> None:
        """Nobody looks for them, and they come every few seconds."""
        gateway = await start_traced()

        await gateway.client.get("/livez")
        await ask(gateway)
        await received(collector)

        assert collector.server.attributes["http.route"] == "/v1/chat/completions"


class TestSampling:
    """The head decides, and everybody behind it alike."""

    async def test_an_unsampled_trace_is_carried_on_and_not_exported(
        self,
        start_traced: StartTraced,
        collector: Collector,
        upstream: ScriptedUpstream,
    ) -> None:
        """The upstream is told of a new parent, and of the same no."""
        gateway = await start_traced()

        await ask(gateway, traceparent=UNSAMPLED, tracestate="vendor=1")
        dropped = upstream.last.headers
        await ask(gateway)
        await received(collector)

        version, trace_id, parent, flags = dropped["traceparent"].split("-")
        assert (version, trace_id, flags) == ("00", TRACE, "00")
        assert parent != PARENT
        assert dropped["tracestate"] == "vendor=1"
        assert TRACE not in {span.trace_id for span in collector.spans}

    @pytest.mark.parametrize(
        ("sampler", "argument", "parent", "is_kept"),
        [
            ("always_on", "", UNSAMPLED, True),
            ("always_off", "", SAMPLED, False),
            ("traceidratio", "1", UNSAMPLED, True),
            ("traceidratio", "0", SAMPLED, False),
            ("parentbased_always_on", "", UNSAMPLED, False),
            ("parentbased_always_off", "", SAMPLED, True),
            ("parentbased_always_off", "", "", False),
            ("parentbased_traceidratio", "0", SAMPLED, True),
            ("parentbased_traceidratio", "1", UNSAMPLED, False),
        ],
    )
    async def test_each_sampler_heeds_the_caller_or_does_not(
        self,
        start_traced: StartTraced,
        collector: Collector,
        upstream: ScriptedUpstream,
        sampler: str,
        argument: str,
        parent: str,
        *,
        is_kept: bool,
    ) -> None:
        """By its name; and the upstream hears of the decision, not of the caller's."""
        gateway = await start_traced(
            OTEL_TRACES_SAMPLER=sampler, OTEL_TRACES_SAMPLER_ARG=argument
        )

        await ask(gateway, **({"traceparent": parent} if parent else {}))
        tracing = gateway.gateway.tracing
        assert tracing is not None
        await tracing.aclose()

        flags = int(upstream.last.headers["traceparent"].split("-")[3], 16)
        assert bool(flags & 1) is is_kept
        assert len(collector.of_kind("SERVER")) == is_kept

    @pytest.mark.parametrize(("came", "sent"), [("", 3), ("01", 1), ("03", 3)])
    async def test_whether_an_id_is_random_is_said_of_whoever_drew_it(
        self,
        start_traced: StartTraced,
        upstream: ScriptedUpstream,
        came: str,
        sent: int,
    ) -> None:
        """Ours are; a caller's are what it says (W3C, level 2)."""
        gateway = await start_traced()

        parent = {"traceparent": f"00-{TRACE}-{PARENT}-{came}"} if came else {}
        await ask(gateway, **parent)

        flags = upstream.last.headers["traceparent"].split("-")[3]
        assert int(flags, 16) == sent

    async def test_a_dropped_root_makes_the_upstream_drop_it(
        self,
        start_traced: StartTraced,
        collector: Collector,
        upstream: ScriptedUpstream,
    ) -> None:
        """By flags 00, or each would decide for itself."""
        gateway = await start_traced(
            OTEL_TRACES_SAMPLER="parentbased_traceidratio", OTEL_TRACES_SAMPLER_ARG="0"
        )

        await ask(gateway)
        sent = upstream.last.headers["traceparent"]
        await ask(gateway, traceparent=SAMPLED)
        await received(collector)

        assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-00", sent)
        assert {TRACE} == {span.trace_id for span in collector.spans}

    @pytest.mark.parametrize(
        "headers",
        [
            pytest.param({"traceparent": "garbage"}, id="garbage"),
            pytest.param({"traceparent": f"ff-{TRACE}-{PARENT}-01"}, id="version"),
            pytest.param({"traceparent": f"00-{'0' * 32}-{PARENT}-01"}, id="zeros"),
            pytest.param({"tracestate": "a=1"}, id="state alone"),
            pytest.param(
                {"traceparent": "\xff" * 55, "baggage": "=;,\xe9"}, id="not ASCII"
            ),
        ],
    )
    async def test_malformed_headers_begin_a_new_trace(
        self,
        start_traced: StartTraced,
        collector: Collector,
        upstream: ScriptedUpstream,
        headers: dict[str, str],
    ) -> None:
        """A stranger's mistake is no error, and goes no further."""
        gateway = await start_traced()
        sent = [
            (name.encode(), value.encode("latin-1"))
            for name, value in (gateway.auth() | headers).items()
        ]

        response = await gateway.client.post(
            "/v1/chat/completions", json=chat_body(), headers=sent
        )
        await received(collector)

        assert 200 == response.status_code
        assert collector.server.parent_id == ""
        assert collector.server.trace_id in upstream.last.headers["traceparent"]
        assert "tracestate" not in upstream.last.headers

    async def test_oversized_state_and_baggage_end_here(
        self,
        start_traced: StartTraced,
        collector: Collector,
        upstream: ScriptedUpstream,
    ) -> None:
        """The upstream is not sent a stranger's kilobytes."""
        gateway = await start_traced()
        state = ",".join(f"k{n}={'v' * 100}" for n in range(100))

        await ask(
            gateway, traceparent=SAMPLED, tracestate=state, baggage=f"a={'b' * 9000}"
        )
        await received(collector)

        assert collector.server.parent_id == PARENT
        assert {"tracestate", "baggage"}.isdisjoint(upstream.last.headers)


async def test_spans_go_over_grpc_too(start_traced: StartTraced) -> None:
    """The other protocol of the two, to a real server of it."""
    with otlp_over_grpc() as collector:
        gateway = await start_traced(
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
            OTEL_EXPORTER_OTLP_PROTOCOL="grpc",
        )

        await ask(gateway)
        await received(collector)

        assert collector.server.name == "POST /v1/chat/completions"


def _stream_steps() -> tuple[bytes, bytes, bytes]:
    from tests.upstream import LAST_CHUNK, STREAM_HEAD, frame

    return (
        STREAM_HEAD + frame({"text": "Hel"}),
        frame({"text": "lo"}),
        frame("[DONE]") + LAST_CHUNK,
    )


async def test_a_slow_request_is_found_from_its_metric(
    start_traced: StartTraced, collector: Collector
) -> None:
    """Prometheus' exemplars name the trace, in OpenMetrics and of sampled ones only."""
    gateway = await start_traced()
    await ask(gateway, traceparent=SAMPLED)
    await ask(gateway, traceparent=f"00-{'ab' * 16}-{PARENT}-00")
    await received(collector)

    accept = {"accept": "application/openmetrics-text"}
    text = (await gateway.client.get("/metrics", headers=accept)).text
    named = {line.split("_bucket")[0] for line in text.splitlines() if TRACE in line}
    assert named == {
        "llmtune_gateway_request_duration_seconds",
        "llmtune_gateway_added_latency_seconds",
    }
    assert "ab" * 16 not in text


class BrokenLedger(MemoryLedger):
    """Fails as nothing should, with a secret in what it says."""

    async def admit(self, demand: Demand) -> Decision:
        raise KeyError("the-secret-in-its-text")


async def test_a_fault_of_ours_is_found_from_its_log_line(
    start_traced: StartTraced,
    start_gateway: StartGateway,
    collector: Collector,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The line names the trace; the span names the exception's class and no more."""
    await start_traced()  # sets the variables
    ledger = BrokenLedger(lambda: 0)
    gateway = await start_gateway(environment=os.environ, ledger=ledger)

    answer = await ask(gateway, traceparent=SAMPLED)
    await received(collector)

    [line] = [record for record in caplog.records if record.msg == "internal error"]
    assert answer.status_code == 500
    assert line.facts["trace_id"] == TRACE  # type: ignore[attr-defined]
    assert collector.server.is_error
    assert collector.server.attributes["error.type"] == "KeyError"
    assert b"the-secret-in-its-text" not in b"".join(collector.raw)
