"""Getting in: TLS, users and their rights, sockets."""

from __future__ import annotations

import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.redis_fixtures import StartRedis
from tests.redis_servers import Certificates
from tests.servers.sentinel import SentinelServer
from tests.servers.tls import TlsRelay
from tests.store.conftest import COUNT, LEAST_RIGHTS, OpenStore, refusal


async def test_tls_is_verified(
    start_redis: StartRedis, to_store: OpenStore, certificates: Certificates
) -> None:
    """With the right authority a call is served."""
    server = await start_redis(tls=certificates.server_context())
    store = to_store(f"{server.tls_url}?ssl_ca_certs={certificates.ca_cert}")

    assert store.certificate_expiry_s is None
    assert [1, 2] == [await store.run(COUNT, ["n"], [1]) for _ in range(2)]
    # The test's certificates last two days; an operator is told before they end.
    left_s = (store.certificate_expiry_s or 0) - time.time()
    assert 0 < left_s <= 2 * 86_400


async def test_tls_shows_the_clients_certificate(
    start_redis: StartRedis, to_store: OpenStore, certificates: Certificates
) -> None:
    """Mutual TLS needs nothing but the two files."""
    context = certificates.server_context(needs_client_cert=True)
    server = await start_redis(tls=context)
    trust = f"ssl_ca_certs={certificates.ca_cert}"
    ours = f"ssl_certfile={certificates.client_cert}"
    store = to_store(
        f"{server.tls_url}?{trust}&{ours}&ssl_keyfile={certificates.client_key}"
    )

    assert 1 == await store.run(COUNT, ["n"], [1])


async def test_sentinels_and_their_master_are_reached_by_tls(
    start_redis: StartRedis, to_store: OpenStore, certificates: Certificates
) -> None:
    """With `rediss+sentinel` no word goes in the clear, to either of them."""
    context = certificates.server_context()
    master = await start_redis(tls=context)
    # It cannot reach the master, which it watches at its TLS port, and has no time to
    # mind.
    watch = f"gateway-test 127.0.0.1 {urlsplit(master.tls_url).port} 1"
    sentinel = SentinelServer()
    with sentinel.config_file.open("a") as config:
        config.write(f"sentinel monitor {watch}\n")
        config.write("sentinel down-after-milliseconds gateway-test 600000\n")
    relay = TlsRelay(context, sentinel.port)
    relay.start()
    trust = f"ssl_ca_certs={certificates.ca_cert}&ssl_check_hostname=false"
    url = f"rediss+sentinel://localhost:{relay.port}/gateway-test"

    async with sentinel:
        trusting, wary = to_store(f"{url}?{trust}"), to_store(url)
        served = await trusting.run(COUNT, ["n"], [1])
        refused = await refusal(wary.ping())
        # Before the relays, which leave open what is open when they stop.
        await trusting.aclose()
        await wary.aclose()
    relay.stop()

    assert 1 == served
    assert ("connection", False) == (refused.reason, refused.is_ambiguous)


@pytest.mark.parametrize("trusted", ["another", "system"])
async def test_an_unknown_authority_is_refused(
    start_redis: StartRedis,
    to_store: OpenStore,
    certificates: Certificates,
    tmp_path: Path,
    trusted: str,
) -> None:
    """No word is exchanged with a server that cannot prove itself."""
    server = await start_redis(tls=certificates.server_context())
    other = Certificates(tmp_path / "other").ca_cert
    query = f"?ssl_ca_certs={other}" if trusted == "another" else ""

    refused = await refusal(to_store(f"{server.tls_url}{query}").ping())

    assert ("refused", False) == (refused.reason, refused.is_ambiguous)
    assert "CERTIFICATE_VERIFY_FAILED" in refused.detail


async def test_a_certificate_for_another_name_is_refused_unless_told_otherwise(
    start_redis: StartRedis, to_store: OpenStore, certificates: Certificates
) -> None:
    """The name is checked by default; a private network may switch it off."""
    server = await start_redis(tls=certificates.server_context())
    url = server.tls_url.replace("localhost", "127.0.0.1")
    url += f"?ssl_ca_certs={certificates.ca_cert}"

    assert "refused" == (await refusal(to_store(url).ping())).reason
    await to_store(f"{url}&ssl_check_hostname=false").ping()


async def test_a_user_with_the_least_rights_is_served(
    start_redis: StartRedis, to_store: OpenStore
) -> None:
    """The rights that the README lists are enough."""
    rules = f">p%40ss {LEAST_RIGHTS} +incrby"
    server = await start_redis(users={"gateway": rules})
    login = "gateway:p%2540ss"
    store = to_store(server.url.replace("redis://", f"redis://{login}@"))

    await store.ping()

    assert 1 == await store.run(COUNT, ["gw:n"], [1])
    assert 0 == await store.call("PUBLISH", "gw:news", "x", key="gw:news")
    assert "refused" == (await refusal(store.run(COUNT, ["n"], [1]))).reason


@pytest.mark.parametrize("password", ["", ":wrong-secret@", "gateway:wrong-secret@"])
async def test_a_wrong_password_is_refused_and_not_shown(
    start_redis: StartRedis, to_store: OpenStore, password: str
) -> None:
    """It is no time-out and no lost connection, and the log shows no password."""
    server = await start_redis(password="right", users={"gateway": ">right +@all"})
    url = server.url.replace(":right@", password)

    refused = await refusal(to_store(url).ping())

    assert ("auth", False) == (refused.reason, refused.is_ambiguous)
    assert "secret" not in str(refused)


async def test_the_database_and_the_name_are_set(
    start_redis: StartRedis, to_store: OpenStore
) -> None:
    """Operators find the gateway in CLIENT LIST, in the database they named."""
    server = await start_redis()
    store = to_store(server.unix_url.replace("db=0", "db=3"))

    described = await store.call("CLIENT", "INFO", key="")

    assert b" name=under-test " in described
    assert b" db=3 " in described


async def test_a_missing_socket_is_a_lost_connection(
    to_store: OpenStore, tmp_path: Path
) -> None:
    """Where nobody listens, a call fails at once."""
    refused = await refusal(to_store(f"unix://{tmp_path}/none.sock").ping())

    assert ("connection", False) == (refused.reason, refused.is_ambiguous)
