"""The conventions' metrics, as a real collector receives them."""

from __future__ import annotations

from tests.gateway_under_test import (
    MODEL,
    until,
)
from tests.servers.otlp import Collector
from tests.traced import StartTraced, ask
from tests.upstream import ScriptedUpstream


async def test_metrics_go_over_otlp_where_they_are_asked_for(
    start_traced: StartTraced, collector: Collector
) -> None:
    """The conventions' histograms, of every request, traced or not."""
    gateway = await start_traced(
        OTEL_TRACES_EXPORTER="none",
        OTEL_METRICS_EXPORTER="otlp",
        OTEL_METRIC_EXPORT_INTERVAL="50",
    )

    await ask(gateway)
    await gateway.chat(stream=True)
    names = {
        "http.server.request.duration",
        "gen_ai.client.operation.duration",
        "gen_ai.client.operation.time_to_first_chunk",
        "gen_ai.client.token.usage",
    }
    await until(lambda: names <= set(collector.points), "every metric")

    ((told, point), *_) = collector.points["http.server.request.duration"]
    assert told["http.route"] == "/v1/chat/completions"
    assert point.explicit_bounds[-1] == 600
    assert collector.spans == []


async def test_metrics_say_what_failed_and_no_model_that_is_none(
    start_traced: StartTraced, collector: Collector, upstream: ScriptedUpstream
) -> None:
    """Anybody can ask for any model; each would be a series for ever."""
    gateway = await start_traced(
        OTEL_TRACES_EXPORTER="none",
        OTEL_METRICS_EXPORTER="otlp",
        OTEL_METRIC_EXPORT_INTERVAL="50",
    )
    upstream.will_answer({"error": "broken"}, status=500)
    await ask(gateway)
    await ask(gateway)
    operations = collector.points.setdefault("gen_ai.client.operation.duration", [])
    await until(lambda: len({str(told) for told, _ in operations}) == 2, "both")

    servers = [told for told, _ in collector.points["http.server.request.duration"]]
    assert {"failed", None} == {told.get("error.type") for told in servers}
    models = {told.get("error.type"): told for told, _ in operations}
    assert "gen_ai.request.model" not in models["failed"]
    assert models[None]["gen_ai.request.model"] == MODEL
    tokens = collector.points["gen_ai.client.token.usage"]
    assert {"input", "output"} == {told["gen_ai.token.type"] for told, _ in tokens}
