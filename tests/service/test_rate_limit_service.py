"""Envoy's protocol by a real gRPC client: the plans of the API, decided as there."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import repeat
from pathlib import Path
from typing import Any, Final

import grpc
import pytest

from gateway.addresses import Address, check_ports
from gateway.key_options import CommandProblem
from gateway.rate_limit import messages as m
from gateway.settings import Settings
from tests.conftest import StartGateway
from tests.gateway_under_test import GatewayUnderTest, workspace_of
from tests.servers.process import ReservedPort
from tests.servers.redis_server import RedisServer
from tests.serving import count_of, environment_of, free_port, serving
from tests.upstream import ScriptedUpstream

PLAN: Final = (
    "plan: small\nconcurrency: 1\n"
    "quotas: [{of: requests, limit: 3, per: day}, {of: tokens, limit: 100, per: day}]\n"
)
RATE: Final = "plan: paced\nrates: [{of: requests, limit: 1, per: hour}]\n"
CLOSED: Final = f"{PLAN}on_store_failure: closed\n".replace("small", "closed")
SINGLE: Final = (
    "plan: single\nconcurrency: 1\nquotas: [{of: requests, limit: 100000, per: day}]\n"
)
SUSPENDED: Final = "plan: suspended\nconcurrency: 0\n"
PLANS: Final = {
    **{"small": PLAN, "paced": RATE, "closed": CLOSED, "single": SINGLE},
    "suspended": SUSPENDED,
}


class Proxy:
    """A proxy that asks."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.send = channel.unary_unary(f"/{m.SERVICE}/{m.METHOD}")
        self._call = channel.unary_unary(
            f"/{m.SERVICE}/{m.METHOD}",
            request_serializer=m.Request.SerializeToString,
            response_deserializer=m.Response.FromString,
        )

    async def ask(
        self,
        *descriptors: dict[str, str],
        hits: int = 0,
        domain: str = "llmtune",
        own_hits: int | tuple[int, ...] | None = None,
        timeout: float = 10,
    ) -> Any:
        """`own_hits` are the descriptors' own, which overrule the request's."""
        owned = own_hits if isinstance(own_hits, tuple) else repeat(own_hits)
        request = m.Request(domain=domain, hits_addend=hits)
        for entries, own in zip(descriptors, owned, strict=False):
            descriptor = request.descriptors.add()
            for key, value in entries.items():
                descriptor.entries.add(key=key, value=value)
            if own is not None:
                descriptor.hits_addend.value = own
        return await self._call(request, timeout=timeout)


class Mesh(Proxy):
    """A proxy, and the gateway it asks."""

    def __init__(self, gateway: GatewayUnderTest, channel: grpc.aio.Channel) -> None:
        super().__init__(channel)
        self.gateway = gateway

    async def codes(self, *descriptors: dict[str, str], **fields: Any) -> list[int]:
        return [each.code for each in (await self.ask(*descriptors, **fields)).statuses]

    async def used(self, plan: str = "small") -> dict[str, int]:
        return await self.gateway.used(plan)

    async def refused(
        self, *descriptors: dict[str, str], **fields: Any
    ) -> tuple[str, str]:
        """Of a call that gets no decision: its status and what is said."""
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await self.ask(*descriptors, **fields)
        return refusal.value.code().name, refusal.value.details() or ""


@asynccontextmanager
async def mesh_of(start_gateway: StartGateway, **settings: Any) -> AsyncIterator[Mesh]:
    port = ReservedPort()
    gateway = await start_gateway(PLANS, rate_limit_port=port.number, **settings)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port.number}") as channel:
        yield Mesh(gateway, channel)
    port.release()


@pytest.fixture(params=["memory", "redis"])
async def mesh(
    request: pytest.FixtureRequest, start_gateway: StartGateway
) -> AsyncIterator[Mesh]:
    """A gateway whose ledger is in memory or in Redis."""
    if request.param == "memory":
        async with mesh_of(start_gateway) as mesh:
            yield mesh
        return
    async with RedisServer() as server:
        settings = {"store_url": server.url, "store_timeout_s": 2.0}
        async with mesh_of(start_gateway, **settings) as mesh:
            yield mesh
            # What is not settled yet would wait for a server that is gone.
            await mesh.gateway.gateway.admission.finish_settling()


def named(plan: str = "small", **more: str) -> dict[str, str]:
    return {"workspace": workspace_of(plan), "plan": plan, **more}


class TestDecisions:
    """As the API would decide, of the same limits."""

    async def test_requests_are_admitted_up_to_the_limit(self, mesh: Mesh) -> None:
        codes = [await mesh.codes(named()) for _ in range(4)]

        assert [[m.OK]] * 3 + [[m.OVER_LIMIT]] == codes

    async def test_hits_may_be_tokens(self, mesh: Mesh) -> None:
        """Sixty and forty fit into a hundred; one more does not, and costs nothing."""
        asked = [
            await mesh.codes(named(of="tokens"), hits=hits) for hits in (60, 41, 40, 1)
        ]

        assert [[m.OK], [m.OVER_LIMIT], [m.OK], [m.OVER_LIMIT]] == asked
        assert 100 == (await mesh.used())["tokens-per-calendar-day"]
        assert 0 == (await mesh.used())["requests-per-calendar-day"]

    async def test_a_call_is_admitted_as_a_whole_or_not_at_all(
        self, mesh: Mesh
    ) -> None:
        """And says of each descriptor whether it was the one."""
        codes = await mesh.codes(named(), named(of="tokens"), hits=101)

        # A hundred and one requests are too many as well, and bind longer or as long.
        assert m.OVER_LIMIT in codes
        assert {0} == set((await mesh.used()).values())

    async def test_the_api_and_the_mesh_count_together(self, mesh: Mesh) -> None:
        """One ledger."""
        await mesh.gateway.chat("small", max_tokens=1)
        first = await mesh.ask({"api_key": f"Bearer {mesh.gateway.key('small')}"})
        second = await mesh.ask(named())
        third = await mesh.ask(named())

        assert [m.OK, m.OK, m.OVER_LIMIT] == [
            each.overall_code for each in (first, second, third)
        ]

    async def test_what_was_spent_is_charged_whatever_is_left(self, mesh: Mesh) -> None:
        """Known after the answer only: it is told, and the next is refused."""
        told = await mesh.ask(named(of="tokens", report="true"), hits=250)
        after = await mesh.ask(named(of="tokens"))

        assert (m.OK, m.OVER_LIMIT) == (told.overall_code, after.overall_code)
        assert 250 == (await mesh.used())["tokens-per-calendar-day"]

    async def test_asking_with_no_hits_looks_without_spending(self, mesh: Mesh) -> None:
        """Envoy's own word for it: a descriptor's addend of 0."""
        before = await mesh.codes(named(), own_hits=0)
        assert {0} == set((await mesh.used()).values())
        await mesh.ask(named(), hits=3)

        assert ([m.OK], [m.OVER_LIMIT]) == (
            before,
            await mesh.codes(named(), own_hits=0),
        )

    async def test_a_look_at_one_unit_holds_what_is_spent_of_the_other(
        self, mesh: Mesh
    ) -> None:
        """A request that spends itself, while no token is left: no, and none spent."""
        both = (named(), named(of="tokens"))
        assert [m.OK, m.OK] == await mesh.codes(*both, own_hits=(1, 0))
        await mesh.ask(named(of="tokens", report="true"), hits=100)

        codes = await mesh.codes(*both, own_hits=(1, 0))

        assert [m.OK, m.OVER_LIMIT] == codes
        assert 1 == (await mesh.used())["requests-per-calendar-day"]

    async def test_a_suspended_workspace_is_refused(self, mesh: Mesh) -> None:
        """No place is asked for here, but it has none; what it spent it may report."""
        told = await mesh.codes(named("suspended", of="tokens", report="true"), hits=9)
        looked = await mesh.codes(named("suspended"), own_hits=0)
        asked = await mesh.codes(named("suspended"))

        assert ([m.OK], [m.OVER_LIMIT], [m.OVER_LIMIT]) == (told, looked, asked)
        assert {0} == set((await mesh.gateway.used("suspended")).values())

    async def test_no_place_is_held(self, mesh: Mesh) -> None:
        """The protocol has no end of a request; the plan's one place stays free."""
        await mesh.ask(named())
        await mesh.ask(named())

        assert 200 == (await mesh.gateway.chat("small", max_tokens=1)).status_code

    async def test_the_api_keeps_its_places_beside_a_busy_mesh(
        self, mesh: Mesh
    ) -> None:
        """Not even between a call's admission and its settlement is one taken."""
        are_asking = True

        async def ask_on() -> None:
            while are_asking:
                await mesh.ask(named("single"))

        asking = [asyncio.create_task(ask_on()) for _ in range(4)]
        statuses = {
            (await mesh.gateway.chat("single", max_tokens=1)).status_code
            for _ in range(20)
        }
        are_asking = False
        await asyncio.gather(*asking)

        assert {200} == statuses

    async def test_the_most_hits_are_counted(self, mesh: Mesh) -> None:
        """And do not break the ledger's integers."""
        hits = 1_000_000_000
        told = await mesh.ask(named(of="tokens", report="true"), hits=hits)

        assert m.OK == told.overall_code
        assert hits == (await mesh.used())["tokens-per-calendar-day"]


class TestAnswers:
    """What a proxy hands to its client."""

    @pytest.fixture
    async def mesh(self, start_gateway: StartGateway) -> AsyncIterator[Mesh]:
        async with mesh_of(start_gateway) as mesh:
            yield mesh

    async def test_it_tells_where_the_tightest_limit_stands(self, mesh: Mesh) -> None:
        answer = await mesh.ask(named(), named(of="tokens"), hits=2)
        requests, tokens = answer.statuses

        limit = requests.current_limit
        assert (3, m.UNITS["day"], "requests-per-calendar-day") == (
            limit.requests_per_unit,
            limit.unit,
            limit.name,
        )
        assert (1, 98) == (requests.limit_remaining, tokens.limit_remaining)
        assert 0 < requests.duration_until_reset.seconds <= 86_400

    async def test_its_headers_are_the_apis(self, mesh: Mesh) -> None:
        """An application sees no difference."""
        admitted = headers_of(await mesh.ask(named()))
        of_api = (await mesh.gateway.get("/v1/limits", "small")).headers

        names = [name for name in of_api if "ratelimit" in name]
        assert set(names) == set(admitted)
        same = "x-ratelimit-remaining-requests"
        assert of_api[same] == admitted[same]

    async def test_a_refusal_is_the_apis_own(self, mesh: Mesh) -> None:
        """Envelope, code, wait and advice."""
        await mesh.ask(named("paced"))
        refusal = await mesh.ask(named("paced"))
        of_api = await mesh.gateway.chat("paced", max_tokens=1)

        ours, theirs = json.loads(refusal.raw_body)["error"], of_api.json()["error"]
        assert (429, "rate_limit_exceeded") == (of_api.status_code, ours["code"])
        assert theirs["details"]["dimension"] == ours["details"]["dimension"]
        headers = headers_of(refusal)
        assert "application/json" == headers["content-type"]
        assert (
            0 <= int(headers["retry-after"]) - int(of_api.headers["retry-after"]) <= 1
        )
        assert of_api.headers["x-should-retry"] == headers["x-should-retry"]

    async def test_a_shadow_limit_refuses_nothing(
        self, start_gateway: StartGateway
    ) -> None:
        port = ReservedPort()
        shadow = "quotas: [{of: requests, limit: 1, per: day, shadow: true}]"
        gateway = await start_gateway(
            {"shadow": f"plan: shadow\n{shadow}\n"}, rate_limit_port=port.number
        )
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port.number}") as channel:
            mesh = Mesh(gateway, channel)
            codes = [await mesh.codes(named("shadow")) for _ in range(3)]
        port.release()

        assert [[m.OK]] * 3 == codes

    async def test_every_call_is_counted_by_its_end(self, mesh: Mesh) -> None:
        await mesh.ask(named())
        await mesh.ask(named(), hits=9)
        await mesh.ask(named(report="true"))
        await mesh.ask({"remote_address": "10.0.0.1"})
        await mesh.ask({"api_key": "nobodys"})
        await mesh.refused(named(), domain="other")

        metrics = (await mesh.gateway.client.get("/metrics")).text
        for outcome in ("ok", "over_limit", "reported", "unmatched"):
            assert f'rate_limit_calls_total{{outcome="{outcome}"}} 1.0' in metrics
        for outcome in ("unknown_key", "invalid"):
            assert f'rate_limit_calls_total{{outcome="{outcome}"}} 1.0' in metrics
        for outcome in ("unavailable", "proxy_gone", "failed"):
            assert f'rate_limit_calls_total{{outcome="{outcome}"}} 0.0' in metrics

    async def test_a_refused_look_is_a_rejection(self, mesh: Mesh) -> None:
        """For who is refused by it: counted by plan and dimension as the API's."""
        await mesh.ask(named(), hits=3)
        await mesh.ask(named(), own_hits=0)

        metrics = (await mesh.gateway.client.get("/metrics")).text
        rejections = [
            line
            for line in metrics.splitlines()
            if line.startswith("llmtune_gateway_rejections_total")
        ]
        assert ["1.0"] == [line.split()[-1] for line in rejections]
        assert 'limit="requests-per-calendar-day"' in rejections[0]


class TestBadInput:
    """Clear, bounded, and nothing charged."""

    @pytest.fixture
    async def mesh(self, start_gateway: StartGateway) -> AsyncIterator[Mesh]:
        async with mesh_of(start_gateway) as mesh:
            yield mesh

    @pytest.mark.parametrize(
        ("descriptors", "fields", "said"),
        [
            ([], {}, "there are no descriptors"),
            ([{"workspace": "a"}], {}, "a workspace needs a plan"),
            ([{"plan": "small"}], {}, "a plan a workspace"),
            ([named(), named("paced")], {}, "several callers"),
            ([named(of="words")], {}, "neither requests nor tokens"),
            ([named(report="yes")], {}, "neither true nor false"),
            ([named()], {"domain": "edge"}, "not 'llmtune'"),
            ([named()], {"hits": 2**32 - 1}, "is more than"),
            ([named()], {"own_hits": 2**64 - 1}, "is more than"),
            ([named()] * 33, {}, "more than 32"),
            ([{"workspace": "a", "plan": "none"}], {}, "there is no such plan"),
            (
                [{"workspace": "a b\n", "plan": "small"}],
                {},
                "no workspace of that",
            ),
        ],
    )
    async def test_it_is_told_to_the_mesh(
        self,
        mesh: Mesh,
        descriptors: list[dict[str, str]],
        fields: dict[str, Any],
        said: str,
    ) -> None:
        code, text = await mesh.refused(*descriptors, **fields)

        assert "INVALID_ARGUMENT" == code
        assert said in text
        assert {0} == set((await mesh.used()).values())

    @pytest.mark.parametrize("key", ["", "nobodys", "Bearer x\n", "k" * 9000, "ü"])
    async def test_an_unknown_key_passes_no_proxy(self, mesh: Mesh, key: str) -> None:
        """An error would, where errors pass."""
        answer = await mesh.ask({"api_key": key})

        assert m.OVER_LIMIT == answer.overall_code
        assert "invalid_api_key" == json.loads(answer.raw_body)["error"]["code"]

    @pytest.mark.parametrize("characters", [70_000, 1_000_000])
    async def test_a_message_has_a_bound(self, mesh: Mesh, characters: int) -> None:
        code, _ = await mesh.refused({"api_key": "k" * characters})

        assert "RESOURCE_EXHAUSTED" == code

    @pytest.mark.parametrize(
        "message",
        [
            pytest.param(b"\x0a\x02\xff\xfe", id="no UTF-8"),
            pytest.param(b"\xff" * 50, id="no protobuf"),
            pytest.param(b"\x12\x7f", id="cut short"),
        ],
    )
    async def test_what_cannot_be_read_is_said_and_counted(
        self, mesh: Mesh, message: bytes
    ) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await mesh.send(message, timeout=10)

        assert grpc.StatusCode.INVALID_ARGUMENT == refusal.value.code()
        assert "the message cannot be read" == refusal.value.details()
        invalid = 'llmtune_gateway_rate_limit_calls_total{outcome="invalid"} 1.0'
        await mesh.gateway.until_metric(invalid)

    async def test_a_mesh_that_asks_wrongly_fills_no_log(
        self, mesh: Mesh, caplog: pytest.LogCaptureFixture
    ) -> None:
        """It would do so with each of its requests; nor is there a client's key in."""
        secret = "llmtune_gw_secret"
        for _ in range(5):
            await mesh.refused({"workspace": f"Bearer {secret}", "plan": "small"})
            await mesh.refused(named(of=secret))

        told = [r for r in caplog.records if r.name == "gateway.rate_limit.service"]
        assert 1 == len(told)
        assert secret not in caplog.text

    async def test_what_names_nobody_is_another_limiters(self, mesh: Mesh) -> None:
        answer = await mesh.ask({"generic_key": "x"}, {"remote_address": "::1"})

        assert [m.OK] * 3 == [
            answer.overall_code,
            *(each.code for each in answer.statuses),
        ]


async def test_while_the_store_is_away_the_plan_says_what_happens(
    start_gateway: StartGateway,
) -> None:
    """A share for one, no decision for the other: the mesh's failure mode has it."""
    async with (
        RedisServer() as server,
        mesh_of(start_gateway, store_url=server.url) as mesh,
    ):
        await mesh.ask(named())
        server.kill()

        shared = await mesh.ask(named())
        code, said = await mesh.refused(named("closed"))

    assert "share" == headers_of(shared)["x-llmtune-degraded"]
    assert "UNAVAILABLE" == code
    assert "limits cannot be checked" in said


@pytest.mark.parametrize("plan", ["small", "closed"])
async def test_a_report_is_kept_while_the_store_is_away(
    start_gateway: StartGateway, plan: str
) -> None:
    """It was spent, and is charged when there is a store again."""
    async with (
        RedisServer() as server,
        mesh_of(start_gateway, store_url=server.url) as mesh,
    ):
        server.kill()
        told = await mesh.ask(named(plan, of="tokens", report="true"), hits=70)
        await server.restart()

        async with asyncio.timeout(20):
            while not await charged(mesh, plan, 70):
                pass

    assert m.OK == told.overall_code


async def charged(mesh: Mesh, plan: str, tokens: int) -> bool:
    """Whether the store says so; false while it is away."""
    status = (await mesh.gateway.client.get("/readyz")).json()
    if '"is_exact": true' not in json.dumps(status):
        return False
    return (await mesh.used(plan))["tokens-per-calendar-day"] == tokens


async def test_a_proxy_that_waits_no_longer_is_charged_nothing(
    start_gateway: StartGateway,
) -> None:
    """Its mesh has decided by then; the decision that nobody heard is taken back."""
    async with (
        RedisServer() as server,
        mesh_of(start_gateway, store_url=server.url, store_timeout_s=5.0) as mesh,
    ):
        await mesh.ask(named())
        server.freeze()
        with pytest.raises(grpc.aio.AioRpcError) as gone:
            await mesh.ask(named(), timeout=0.2)
        counted = 'llmtune_gateway_rate_limit_calls_total{outcome="proxy_gone"} 1.0'
        await mesh.gateway.until_metric(counted)
        server.thaw()

        async with asyncio.timeout(10):
            while (await mesh.used())["requests-per-calendar-day"] != 1:
                pass

    assert grpc.StatusCode.DEADLINE_EXCEEDED == gone.value.code()


async def test_a_gateway_that_ends_takes_no_more_calls(
    start_gateway: StartGateway,
) -> None:
    """The proxies go to another replica."""
    async with mesh_of(start_gateway) as mesh:
        await mesh.ask(named())
        await mesh.gateway.server.drain()

        code, _ = await mesh.refused(named())

    assert "UNAVAILABLE" == code


@pytest.mark.parametrize("workers", [1, 2])
async def test_the_command_serves_the_mesh_and_ends_in_order(
    tmp_path: Path, upstream: ScriptedUpstream, workers: int
) -> None:
    """On uvloop, every worker on the one port, with proxies that stay connected."""
    connections, calls = 8, 10
    async with RedisServer() as server, AsyncExitStack() as held:
        variables, keys = environment_of(tmp_path, upstream, server.url)
        port = free_port()
        environment = variables | {"GATEWAY_RATE_LIMIT_PORT": str(port)}
        running = await held.enter_async_context(
            serving((environment, keys), workers=workers)
        )
        # Else gRPC's channels of one address share a connection.
        own = (("grpc.use_local_subchannel_pool", 1),)
        proxies = [
            Proxy(
                await held.enter_async_context(
                    grpc.aio.insecure_channel(f"127.0.0.1:{port}", own)
                )
            )
            for _ in range(connections)
        ]

        key = {"api_key": f"Bearer {keys['open']}"}
        asking = [each.ask(key) for each in proxies for _ in range(calls)]
        codes = {answer.overall_code for answer in await asyncio.gather(*asking)}

        assert {m.OK} == codes
        counted = await running.scrape()
        assert connections * calls == count_of(
            counted, "rate_limit_calls_total", outcome="ok"
        )
        assert 0 == await running.end()
        # Warnings may tell of a Redis that a busy machine made wait.
        assert [] == [line for line in running.lines if line["level"] == "error"]


@pytest.mark.parametrize(
    ("settings", "address", "said"),
    [
        (
            Settings(ops_port=9090, rate_limit_port=9090),
            Address(),
            "GATEWAY_RATE_LIMIT_PORT=9090 is GATEWAY_OPS_PORT already",
        ),
        (
            Settings(rate_limit_port=8080),
            Address("::1", 8080),
            "GATEWAY_RATE_LIMIT_PORT=8080 is --port already",
        ),
        (
            Settings(ops_port=8080, ops_host="0.0.0.0"),  # noqa: S104
            Address("127.0.0.1", 8080),
            "GATEWAY_OPS_PORT=8080 is --port already",
        ),
    ],
)
def test_every_listener_has_its_own_port(
    settings: Settings, address: Address, said: str
) -> None:
    """Said before anything is started: workers would not notice."""
    with pytest.raises(CommandProblem, match=said):
        check_ports(settings, address)


@pytest.mark.parametrize(
    ("settings", "address"),
    [
        (Settings(ops_port=8080, ops_host="10.0.0.1"), Address("127.0.0.1", 8080)),
        (Settings(ops_port=8080), Address(uds=Path("gw.sock"))),
        (Settings(ops_port=9090, rate_limit_port=8081), Address(port=0)),
    ],
)
def test_ports_may_be_the_same_where_they_are_not_one(
    settings: Settings, address: Address
) -> None:
    check_ports(settings, address)


async def test_a_key_that_anybody_made_up_has_no_plan(
    start_gateway: StartGateway,
) -> None:
    """The API lets LLMTune judge it; of another's route nobody would."""
    async with mesh_of(start_gateway, default_plan="small") as mesh:
        answers = [await mesh.ask({"api_key": f"made-up-{n}"}) for n in range(3)]

    assert [m.OVER_LIMIT] * 3 == [answer.overall_code for answer in answers]
    assert "invalid_api_key" == json.loads(answers[0].raw_body)["error"]["code"]


async def test_a_taken_port_stops_the_start(start_gateway: StartGateway) -> None:
    """As the API's does."""
    async with mesh_of(start_gateway) as mesh:
        taken = mesh.gateway.gateway.settings.rate_limit_port
        said = f"GATEWAY_RATE_LIMIT_PORT={taken}: .* already in use"
        with pytest.raises(OSError, match=said):
            await start_gateway(PLANS, rate_limit_port=taken)


@pytest.mark.parametrize("taken", ["--port", "GATEWAY_RATE_LIMIT_PORT"])
async def test_a_start_that_fails_says_why_in_one_line(
    tmp_path: Path, upstream: ScriptedUpstream, taken: str
) -> None:
    """Nothing of gRPC's own beside it."""
    occupied = upstream.port
    variables, _ = environment_of(tmp_path, upstream, "redis://127.0.0.1:1/0")
    is_api = taken == "--port"
    mesh_port, api_port = (free_port(), occupied) if is_api else (occupied, 0)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", "serve", "--port", str(api_port)),
        env=variables | {"GATEWAY_RATE_LIMIT_PORT": str(mesh_port)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await asyncio.wait_for(process.communicate(), 30)

    assert 1 == process.returncode
    lines = said.decode().splitlines()
    assert 1 == len(lines), lines
    assert taken in lines[0]
    assert "already in use" in lines[0]


def headers_of(answer: Any) -> dict[str, str]:
    return {each.key: each.value for each in answer.response_headers_to_add}
