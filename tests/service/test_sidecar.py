"""Next to an application: no key, the plan from the environment, the mesh's headers."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import httpx
import pytest

from gateway.addresses import Address, check_exposure
from gateway.mesh import last_uri
from gateway.settings import Settings, SettingsProblem, load_settings
from gateway.trusted_peers import TrustedPeers
from tests.conftest import StartGateway
from tests.gateway_under_test import UPSTREAM_KEY, GatewayUnderTest, chat_body
from tests.servers.process import ReservedPort
from tests.service.test_access_line import last_line
from tests.upstream import ScriptedUpstream

SMALL: Final = "plan: small\nquotas: [{of: requests, limit: 3, per: day}]\n"
SIDECAR: Final = {"sidecar_workspace": "shop", "sidecar_plan": "open"}
IDENTITY: Final = (
    'By=spiffe://mesh/ns/a/sa/gw;Hash=ab12;Subject="CN=x,O=y;URI=spiffe://mesh/forged";'
    "URI=spiffe://mesh/ns/shop/sa/cart"
)

APPENDED: Final = 'By=b;Hash=h;Subject="";URI=spiffe://real'


@pytest.fixture
async def gateway(start_gateway: StartGateway) -> GatewayUnderTest:
    return await start_gateway(**SIDECAR)


@pytest.fixture
async def application(gateway: GatewayUnderTest) -> AsyncIterator[httpx.AsyncClient]:
    """What runs beside it, and knows no key."""
    async with httpx.AsyncClient(base_url=gateway.url) as client:
        yield client


@pytest.mark.parametrize(
    "headers",
    [{}, {"authorization": "Bearer unused"}, {"authorization": "Basic Og=="}],
    ids=["no key", "an SDK's placeholder", "another scheme"],
)
async def test_the_application_needs_no_key(
    application: httpx.AsyncClient,
    upstream: ScriptedUpstream,
    gateway: GatewayUnderTest,
    headers: dict[str, str],
) -> None:
    """It is its workspace, and the gateway's key goes upstream."""
    answer = await application.post(
        "/v1/chat/completions", json=chat_body(), headers=headers
    )

    assert 200 == answer.status_code, answer.text
    assert f"Bearer {UPSTREAM_KEY}" == upstream.last.headers["authorization"]
    limits = (await application.get("/v1/limits")).json()
    assert ("shop", "open") == (limits["workspace"], limits["plan"])


async def test_the_sidecars_plan_is_enforced(start_gateway: StartGateway) -> None:
    """It saves the key, not the limits."""
    gateway = await start_gateway(
        {"small": SMALL}, sidecar_workspace="shop", sidecar_plan="small"
    )
    async with httpx.AsyncClient(base_url=gateway.url) as client:
        answers = [
            await client.post("/v1/chat/completions", json=chat_body())
            for _ in range(5)
        ]

    assert {200: 3, 429: 2} == {
        status: sum(each.status_code == status for each in answers)
        for status in {each.status_code for each in answers}
    }


async def test_a_web_page_cannot_spend_the_plan(
    application: httpx.AsyncClient, upstream: ScriptedUpstream
) -> None:
    """A browser on the same machine sends what any page asks, and names the page."""
    answer = await application.post(
        "/v1/chat/completions",
        json=chat_body(),
        headers={"origin": "https://evil.example", "content-type": "text/plain"},
    )

    assert (403, "origin_not_allowed") == (
        answer.status_code,
        answer.json()["error"]["code"],
    )
    assert [] == upstream.requests


@pytest.mark.parametrize(
    ("variables", "complaint"),
    [
        (
            {"GATEWAY_SIDECAR_WORKSPACE": "shop"},
            "GATEWAY_SIDECAR_WORKSPACE='shop': needs GATEWAY_SIDECAR_PLAN",
        ),
        (
            {"GATEWAY_SIDECAR_PLAN": "open"},
            "GATEWAY_SIDECAR_PLAN='open': needs GATEWAY_SIDECAR_WORKSPACE",
        ),
        (
            {"GATEWAY_SIDECAR_WORKSPACE": "a b", "GATEWAY_SIDECAR_PLAN": "open"},
            "GATEWAY_SIDECAR_WORKSPACE='a b': must be 1 to 64 of",
        ),
        (
            {"GATEWAY_SIDECAR_WORKSPACE": "shop", "GATEWAY_SIDECAR_PLAN": "open"},
            "GATEWAY_SIDECAR_WORKSPACE='shop': needs GATEWAY_UPSTREAM_API_KEY",
        ),
        (
            {
                "GATEWAY_SIDECAR_WORKSPACE": "shop",
                "GATEWAY_SIDECAR_PLAN": "open",
                "GATEWAY_UPSTREAM_API_KEY": "k",
                "GATEWAY_CORS_ORIGINS": "*",
            },
            "GATEWAY_SIDECAR_WORKSPACE='shop': not with GATEWAY_CORS_ORIGINS=*",
        ),
        (
            {"GATEWAY_TRUSTED_PROXIES": "10.0.0.0/33"},
            "GATEWAY_TRUSTED_PROXIES='10.0.0.0/33': networks such as",
        ),
        (
            {"GATEWAY_TRUSTED_PROXIES": "10.0.0.1/8"},
            "GATEWAY_TRUSTED_PROXIES='10.0.0.1/8': networks such as",
        ),
    ],
)
def test_a_half_set_sidecar_does_not_start(
    variables: dict[str, str], complaint: str
) -> None:
    """One line, with the variable and what it needs."""
    with pytest.raises(SettingsProblem) as problem:
        load_settings(variables)

    assert str(problem.value).startswith(complaint)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "gw.example"])  # noqa: S104
def test_strangers_are_not_let_in_without_a_key(host: str) -> None:
    """Who can reach it from outside the pod is not in the pod."""
    with pytest.raises(Exception, match="lets in whoever reaches"):
        check_exposure(Settings(sidecar_workspace="shop"), Address(host))


@pytest.mark.parametrize(
    "address",
    [
        Address("127.0.0.1"),
        Address("::1"),
        Address("localhost"),
        Address(uds=Path("s")),
    ],
)
def test_a_sidecar_listens_on_loopback_or_a_socket(address: Address) -> None:
    """What only the pod can reach."""
    check_exposure(Settings(sidecar_workspace="shop"), address)


# What the mesh says in headers.

B3: Final = {"x-b3-traceid": "80f198ee56343ba864fe8b2a57d3eff7", "x-b3-sampled": "1"}
W3C: Final = {"traceparent": "00-80f198ee56343ba864fe8b2a57d3eff7-05e3ac9a4f6e3b90-01"}


async def test_a_mesh_tracers_headers_go_on(
    application: httpx.AsyncClient, upstream: ScriptedUpstream
) -> None:
    """Else the proxies before and behind tell of two traces."""
    await application.post(
        "/v1/chat/completions", json=chat_body(), headers={**B3, **W3C}
    )

    assert {**B3, **W3C}.items() <= upstream.last.headers.items()


@pytest.mark.parametrize(
    ("trusted", "is_carried"),
    [((), False), (("10.0.0.0/8", "unix"), False), (("127.0.0.0/8",), True)],
    ids=["nobody", "others", "this peer"],
)
async def test_only_a_trusted_peer_says_who_its_client_is(
    start_gateway: StartGateway,
    upstream: ScriptedUpstream,
    caplog: pytest.LogCaptureFixture,
    trusted: tuple[str, ...],
    *,
    is_carried: bool,
) -> None:
    """Anybody can write the header."""
    gateway = await start_gateway(trusted_proxies=trusted)

    caplog.set_level(logging.INFO, logger="gateway.access")
    await gateway.client.post(
        "/v1/chat/completions",
        json=chat_body(),
        headers={"x-forwarded-client-cert": IDENTITY, **gateway.auth()},
    )

    identity = IDENTITY if is_carried else None
    assert identity == upstream.last.headers.get("x-forwarded-client-cert")
    name = "spiffe://mesh/ns/shop/sa/cart" if is_carried else None
    assert name == last_line(caplog).get("peer_identity")


@pytest.mark.parametrize(
    ("value", "uri"),
    [
        (IDENTITY, "spiffe://mesh/ns/shop/sa/cart"),
        (f"URI=spiffe://told/by/client,{IDENTITY}", "spiffe://mesh/ns/shop/sa/cart"),
        ("URI=spiffe://first,Hash=12", None),
        ('Subject="a\\",URI=spiffe://forged"', None),
        ("", None),
        ("URI=", None),
        # A client's own, in front of what the proxy appends.
        (f'URI=spiffe://evil;X=",{APPENDED}', "spiffe://real"),
        (f'URI=spiffe://evil;X="a\\",{APPENDED}', "spiffe://real"),
        (f'URI=spiffe://evil;X="\\,{APPENDED}', "spiffe://real"),
        ('URI=spiffe://evil;X=",By=b;Hash=h;Subject=""', None),
        ('URI=spiffe://evil;Subject="', None),
        ('Subject="CN=\\"a,b\\"";URI=spiffe://quoted', "spiffe://quoted"),
    ],
)
def test_the_last_elements_uri_is_the_peers_own_word(
    value: str, uri: str | None
) -> None:
    """What stands before it is what the peer was told; quotes hide what they hold."""
    assert uri == last_uri(value.encode())


@pytest.mark.parametrize(
    ("peers", "host", "is_trusted"),
    [
        (("unix",), None, True),
        (("10.0.0.0/8",), None, False),
        (("10.0.0.0/8",), "10.1.2.3", True),
        (("10.0.0.0/8",), "11.1.2.3", False),
        (("unix",), "127.0.0.1", False),
        (("10.0.0.0/8",), "::ffff:10.1.2.3", True),
        (("fe80::/10",), "fe80::1%eth0", True),
        (("::1",), "::1", True),
        (("10.0.0.0/8",), "nonsense", False),
    ],
)
def test_a_peer_is_trusted_by_its_address(
    peers: tuple[str, ...], host: str | None, *, is_trusted: bool
) -> None:
    """Asked twice, since answers are remembered."""
    trusted = TrustedPeers(peers)

    assert [is_trusted] * 2 == [trusted.trusts(host) for _ in range(2)]


async def test_probes_reach_the_ops_port_where_the_api_is_not(
    start_gateway: StartGateway,
) -> None:
    """As a kubelet's come over the pod's address, to a sidecar on loopback."""
    port = ReservedPort()
    port.release()
    await start_gateway(**SIDECAR, ops_port=port.number, ops_host="127.0.0.2")

    async with httpx.AsyncClient() as client:
        live = await client.get(f"http://127.0.0.2:{port.number}/livez")
        chat = await client.post(
            f"http://127.0.0.2:{port.number}/v1/chat/completions", json=chat_body()
        )
        with pytest.raises(httpx.ConnectError):
            await client.get(f"http://127.0.0.1:{port.number}/livez")

    # Whoever reaches it from outside the pod finds no API there.
    assert (200, 404) == (live.status_code, chat.status_code)
