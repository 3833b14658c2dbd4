"""A caller's trace headers, as odd as they come: what is made of them and sent on."""

from __future__ import annotations

import time
from typing import Any, Final

import pytest
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import (
    CarrierT,
    Getter,
    Setter,
    TextMapPropagator,
    default_getter,
    default_setter,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Sampler, SamplingResult
from opentelemetry.trace import get_current_span

from gateway.tracing.baggage import good_members
from gateway.tracing.propagation import Propagation
from gateway.tracing.sampling import Head
from gateway.tracing.spans import SpanWriter
from gateway.tracing.tracing import Tracing
from tests.conftest import StartGateway
from tests.gateway_under_test import GatewayUnderTest, chat_body
from tests.servers.otlp import Collector
from tests.traced import PARENT, SAMPLED, TRACE, UNSAMPLED, StartTraced, received
from tests.upstream import ScriptedUpstream

OTHER: Final = "ab" * 16
# What came out of it before took a tenth of a second, and more on a busy machine.
QUICK_S: Final = 0.05


async def send(gateway: GatewayUnderTest, *headers: tuple[str, str]) -> None:
    """One request with these headers, in this order and as often as they are here."""
    sent = [*gateway.auth().items(), *headers]
    answer = await gateway.client.post(
        "/v1/chat/completions",
        json=chat_body(),
        headers=[(name.encode(), value.encode("latin-1")) for name, value in sent],
    )
    assert 200 == answer.status_code


class TestDoubles:
    """A header that comes twice."""

    @pytest.mark.parametrize("flags", ["01", "00"])
    async def test_of_two_parents_neither_is(
        self,
        start_traced: StartTraced,
        collector: Collector,
        upstream: ScriptedUpstream,
        flags: str,
    ) -> None:
        """Whatever put the second there, the trace is nobody's: a new one begins."""
        gateway = await start_traced()

        second = f"00-{OTHER}-{PARENT}-{flags}"
        await send(gateway, ("traceparent", SAMPLED), ("traceparent", second))
        await received(collector)

        assert collector.server.parent_id == ""
        assert collector.server.trace_id not in {TRACE, OTHER}
        assert collector.server.trace_id in upstream.last.headers["traceparent"]

    async def test_another_headers_double_leaves_the_parent_what_it_is(
        self, start_traced: StartTraced, upstream: ScriptedUpstream
    ) -> None:
        """Proxies add to the lists of themselves as a matter of course."""
        gateway = await start_traced()

        via = ("via", "1.1 a"), ("via", "1.1 b")
        await send(gateway, ("traceparent", UNSAMPLED), *via)

        assert TRACE in upstream.last.headers["traceparent"]

    @pytest.mark.parametrize("exporter", ["none", "otlp"])
    async def test_lists_in_two_headers_are_one_list(
        self,
        start_traced: StartTraced,
        upstream: ScriptedUpstream,
        exporter: str,
    ) -> None:
        """Of tracestate and baggage, and where nothing is traced as well."""
        gateway = await start_traced(OTEL_TRACES_EXPORTER=exporter)

        await send(
            gateway,
            ("traceparent", SAMPLED),
            *(("tracestate", "a=1"), ("tracestate", "b=2")),
            *(("baggage", "c=3"), ("baggage", "d=4")),
        )

        sent = upstream.last.headers
        assert (sent["tracestate"], sent["baggage"]) == ("a=1,b=2", "c=3,d=4")

    async def test_where_only_metrics_are_exported_they_are_one_list_too(
        self, start_traced: StartTraced, upstream: ScriptedUpstream
    ) -> None:
        """And what is too long ends here."""
        gateway = await start_traced(
            OTEL_TRACES_EXPORTER="none", OTEL_METRICS_EXPORTER="otlp"
        )

        long = ("tracestate", f"a={'v' * 9000}")
        await send(
            gateway,
            ("traceparent", SAMPLED),
            ("baggage", "c=3"),
            ("baggage", "d"),
            long,
        )

        sent = upstream.last.headers
        assert (sent["traceparent"], sent["baggage"]) == (SAMPLED, "c=3,d")
        assert "tracestate" not in sent


class TestBaggage:
    """What a caller's system says to itself."""

    @pytest.mark.parametrize("parent", [SAMPLED, UNSAMPLED])
    async def test_it_goes_on_as_it_came(
        self,
        start_traced: StartTraced,
        upstream: ScriptedUpstream,
        parent: str,
    ) -> None:
        """With its properties, and not encoded anew."""
        gateway = await start_traced()
        baggage = "a=1;ttl=60;pinned,b=hello%20world,c=x+y"

        await send(gateway, ("traceparent", parent), ("baggage", baggage))

        assert baggage == upstream.last.headers["baggage"]

    @pytest.mark.parametrize(
        ("raw", "good"),
        [
            pytest.param(b"a=1 , b = 2 ; p = q ;r", b"a=1,b=2;p=q;r", id="spaces"),
            pytest.param(b"a=1,b,c=2", b"a=1,c=2", id="no value"),
            pytest.param(b"a=,b=2", b"a=,b=2", id="empty value"),
            pytest.param(b"a b=1,c=2 3,d=4", b"d=4", id="spaces within"),
            pytest.param(b'a="1",b=\\,c=\xe9,(=1,d=4', b"d=4", id="characters"),
            pytest.param(b"a=1;;b,c=2;", b"", id="empty property"),
            pytest.param(b",,a=1,", b"a=1", id="empty members"),
            pytest.param(b"a=1," * 180, b"", id="too many"),
            pytest.param(b"", b"", id="nothing"),
        ],
    )
    def test_members_that_are_none_end_here(self, raw: bytes, good: bytes) -> None:
        """And what is left of it is what was said."""
        assert good == good_members(raw)

    @pytest.mark.parametrize(
        "baggage",
        [
            pytest.param(f"a{' ' * 8000}b", id="spaces"),
            pytest.param(f"a=1{' ' * 8000};b", id="spaces that may be there"),
            pytest.param(f"a=1;{'b;' * 4000}\\", id="properties"),
            pytest.param("," * 8000, id="commas"),
        ],
    )
    async def test_no_baggage_holds_up_the_others(
        self, start_traced: StartTraced, baggage: str
    ) -> None:
        """Anybody can send it, and it is read before any key is looked at."""
        gateway = await start_traced()
        tracing = gateway.gateway.tracing
        assert tracing is not None
        took_s: list[float] = []
        begin = tracing.begin

        def timed(exchange: Any) -> None:
            began_s = time.thread_time()
            begin(exchange)
            took_s.append(time.thread_time() - began_s)

        tracing.begin = timed  # type: ignore[method-assign]
        for _ in range(3):
            await gateway.client.get("/nowhere", headers={"baggage": baggage})

        assert min(took_s) < QUICK_S


class Letters(TextMapPropagator):
    """Writes one form of a trace and reads another as well, as B3's does."""

    def extract(
        self,
        carrier: CarrierT,
        context: Context | None = None,
        getter: Getter[CarrierT] = default_getter,
    ) -> Context:
        self.read = getter.get(carrier, "x-b3-traceid")
        return context or Context()

    def inject(
        self,
        carrier: CarrierT,
        context: Context | None = None,
        setter: Setter[CarrierT] = default_setter,
    ) -> None:
        ids = get_current_span(context).get_span_context()
        setter.set(carrier, "b3", f"{ids.trace_id:032x}-{ids.span_id:016x}-1")

    @property
    def fields(self) -> set[str]:
        return {"b3"}


class Broken(Letters):
    """Fails at all it is asked for."""

    def inject(self, *_: Any, **__: Any) -> None:
        raise RuntimeError("a plugin's fault")

    extract = inject  # type: ignore[assignment]


class BrokenSampler(Sampler):
    """Fails at all it is asked for."""

    def should_sample(self, *_: Any, **__: Any) -> SamplingResult:
        raise RuntimeError("a plugin's fault")

    def get_description(self) -> str:
        return "broken"


def traced_by(propagator: TextMapPropagator, sampler: Sampler = ALWAYS_ON) -> Tracing:
    ids = RandomIdGenerator()
    writer = SpanWriter([], Resource({}), SpanLimits(), ids.generate_span_id)
    return Tracing(
        propagation=Propagation(propagator),
        head=Head(sampler),
        ids=ids,
        writer=writer,
        meters=None,
        keeps_text=False,
        shutdowns=[],
    )


class TestOthers:
    """Propagators and samplers of installed packages."""

    async def test_a_trace_has_one_parent_in_each_form(
        self, start_gateway: StartGateway, upstream: ScriptedUpstream
    ) -> None:
        """What is written anew is not sent on beside it, in whichever form it came."""
        gateway = await start_gateway()
        letters = Letters()
        gateway.gateway.edge._tracing = traced_by(letters)

        came = ("b3", f"{TRACE}-{PARENT}-1"), ("x-b3-traceid", TRACE)
        await send(gateway, *came, ("x-ot-span-context", "theirs"))

        names = upstream.last.names
        assert [TRACE] == letters.read
        assert names.count("b3") == 1
        assert "x-b3-traceid" not in names
        assert PARENT not in upstream.last.headers["b3"]
        assert upstream.last.headers["x-ot-span-context"] == "theirs"

    @pytest.mark.parametrize(
        "tracing",
        [
            pytest.param(traced_by(Broken()), id="propagator"),
            pytest.param(traced_by(Letters(), BrokenSampler()), id="sampler"),
        ],
    )
    async def test_a_plugins_fault_is_no_requests(
        self,
        start_gateway: StartGateway,
        caplog: pytest.LogCaptureFixture,
        tracing: Tracing,
    ) -> None:
        """It is answered, and the log says why nothing is traced."""
        gateway = await start_gateway()
        gateway.gateway.edge._tracing = tracing

        await send(gateway, ("traceparent", SAMPLED))

        assert "a plugin's fault" in caplog.text
