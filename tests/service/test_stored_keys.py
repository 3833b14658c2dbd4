"""Keys of the store through whole gateways: made, rotated, revoked under traffic."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import httpx
import pytest

from policies.key_cache import LOOKUP_BURST
from policies.key_names import KEY_RECORDS
from policies.key_store import KeyStore, new_stored_key
from policies.keyring import KeyRecord, digest_of, new_api_key
from policies.plans import KeyLimits, Rate
from tests.conftest import StartGateway
from tests.contract.test_command_line import run
from tests.gateway_under_test import GatewayUnderTest, chat_body
from tests.policies.keys_in_redis import key_store
from tests.redis_fixtures import StartRedis
from tests.redis_servers import RedisServer
from tests.servers.process import until
from tests.upstream import PATIENCE_S, ScriptedUpstream

# Of a busy test machine; what a test is about is never this close.
RELAXED: Final[dict[str, Any]] = {"store_timeout_s": 1.0}
MINUTE: Final = timedelta(minutes=1)


@pytest.fixture
async def server(start_redis: StartRedis) -> RedisServer:
    """A Redis of the test's own, to count its commands and to kill it."""
    return await start_redis()


@pytest.fixture
async def operator(server: RedisServer) -> AsyncIterator[KeyStore]:
    """Makes and revokes keys, as the command line does."""
    async with key_store(server.unix_url) as keys:
        yield keys


@pytest.fixture
async def gateway(start_gateway: StartGateway, server: RedisServer) -> GatewayUnderTest:
    """A gateway that asks the server for keys."""
    return await start_gateway(store_url=server.unix_url, **RELAXED)


async def make(operator: KeyStore, **fields: Any) -> str:
    """Keep a new key of plan `open`; the key."""
    api_key = new_api_key()
    known = {"sha256": digest_of(api_key), "workspace": "acme", "plan": "open"}
    record = KeyRecord(**(known | fields))
    await operator.create(new_stored_key(record, datetime.now(UTC)))
    return api_key


async def chat(gateway: GatewayUnderTest, api_key: str) -> httpx.Response:
    headers = {"authorization": f"Bearer {api_key}"}
    return await gateway.client.post(
        "/v1/chat/completions", json=chat_body(), headers=headers
    )


async def list_models(gateway: GatewayUnderTest, api_key: str) -> int:
    """The status of a call that costs no limit."""
    headers = {"authorization": f"Bearer {api_key}"}
    return (await gateway.client.get("/v1/models", headers=headers)).status_code


async def until_status(
    gateway: GatewayUnderTest, api_key: str, status: int, within_s: float = PATIENCE_S
) -> None:
    """Call until the answer has that status."""
    deadline_s = time.monotonic() + within_s
    while await list_models(gateway, api_key) != status:
        assert time.monotonic() < deadline_s, f"no {status} within {within_s} s"


async def test_a_key_from_the_command_line_works_at_once(
    gateway: GatewayUnderTest, server: RedisServer
) -> None:
    """Without a restart or a reload, and until the command line revokes it."""
    environment = {
        "GATEWAY_STORE_URL": server.url,
        "GATEWAY_PLANS_DIR": str(gateway.gateway.settings.plans_dir),
    }
    options = ("--workspace", "acme", "--plan", "open")
    made = await asyncio.to_thread(run, "keys", "create", *options, **environment)
    api_key = made[1].strip()

    assert (await chat(gateway, api_key)).status_code == 200
    key_id = digest_of(api_key)[:8]
    done = await asyncio.to_thread(run, "keys", "revoke", key_id, **environment)

    assert done[0] == 0
    await until_status(gateway, api_key, 401, within_s=1)


async def test_a_key_revoked_stops_on_every_replica_within_a_second(
    start_gateway: StartGateway, server: RedisServer, operator: KeyStore
) -> None:
    """While all of them serve it, and long before any cache would ask again."""
    options = {"store_url": server.unix_url, "key_cache_ttl_s": 3600.0, **RELAXED}
    replicas = [await start_gateway(**options), await start_gateway(**options)]
    api_key = await make(operator)
    for replica in replicas:
        assert await list_models(replica, api_key) == 200

    await operator.revoke(digest_of(api_key))

    await asyncio.gather(
        *(until_status(replica, api_key, 401, within_s=1) for replica in replicas)
    )


async def test_a_revocation_nobody_heard_of_takes_effect_with_the_ttl(
    start_gateway: StartGateway, server: RedisServer, operator: KeyStore
) -> None:
    """As where a subscription died in silence: the record goes without a message."""
    gateway = await start_gateway(
        store_url=server.unix_url, key_cache_ttl_s=0.3, **RELAXED
    )
    api_key = await make(operator)
    assert await list_models(gateway, api_key) == 200

    server.command("HDEL", KEY_RECORDS, digest_of(api_key))

    await until_status(gateway, api_key, 401, within_s=1.3)


async def test_a_key_near_its_end_is_told_of_until_it_is_replaced(
    gateway: GatewayUnderTest, operator: KeyStore
) -> None:
    """By the metric that an alert asks, which is absent while nothing is to be told."""
    name = "llmtune_gateway_stored_keys_next_expiry_timestamp_seconds"
    value = gateway.gateway.telemetry.registry.get_sample_value
    ends = datetime(2100, 1, 1, tzinfo=UTC)
    api_key = await make(operator, expires_at=ends)
    assert value(name) is None
    assert await list_models(gateway, api_key) == 200
    assert value(name) == ends.timestamp()

    await operator.rotate(digest_of(api_key), digest_of(new_api_key()), MINUTE)

    await until(lambda: value(name) is None, "the change to be heard")
    assert await list_models(gateway, api_key) == 200
    assert value(name) is None


async def test_a_rotated_key_works_beside_the_new_one_for_the_overlap(
    gateway: GatewayUnderTest, operator: KeyStore
) -> None:
    """Then the old one is refused, and the new one goes on."""
    old, new = await make(operator), new_api_key()
    assert await list_models(gateway, old) == 200

    overlap = timedelta(seconds=1)
    await operator.rotate(digest_of(old), digest_of(new), overlap)

    assert await list_models(gateway, new) == 200
    assert await list_models(gateway, old) == 200
    await until_status(gateway, old, 401, within_s=2)
    assert await list_models(gateway, new) == 200


async def test_a_key_of_the_file_overrules_the_store(
    gateway: GatewayUnderTest, operator: KeyStore
) -> None:
    """The same digest in both: what the file says holds."""
    fields = {"sha256": digest_of(gateway.key()), "workspace": "x", "plan": "gone"}
    record = KeyRecord(**fields)  # type: ignore[arg-type]
    await operator.create(new_stored_key(record, datetime.now(UTC)))

    assert (await chat(gateway, gateway.key())).status_code == 200


async def test_a_key_is_held_to_limits_of_its_own(
    gateway: GatewayUnderTest, operator: KeyStore
) -> None:
    """Its workspace's other keys are not, and its successor takes over what it used."""
    limits = KeyLimits(rates=(Rate(of="requests", limit=1, per="hour"),))
    held, free = await make(operator, limits=limits), await make(operator)
    assert (await chat(gateway, held)).status_code == 200
    successor = new_api_key()
    await operator.rotate(digest_of(held), digest_of(successor), MINUTE)

    refused = [await chat(gateway, held), await chat(gateway, successor)]

    assert [429, 429] == [answer.status_code for answer in refused]
    assert refused[0].json()["error"]["details"]["dimension"].startswith("key-")
    assert (await chat(gateway, free)).status_code == 200


async def test_a_key_may_use_its_own_models_only(
    gateway: GatewayUnderTest, operator: KeyStore
) -> None:
    """A stored key narrows its plan as a file's does."""
    api_key = await make(operator, models=("other/*",))

    assert (await chat(gateway, api_key)).status_code == 404


async def test_an_expired_key_is_refused(
    gateway: GatewayUnderTest, operator: KeyStore
) -> None:
    """It is still listed, and opens nothing."""
    api_key = await make(operator, expires_at=datetime.now(UTC) - MINUTE)

    assert (await chat(gateway, api_key)).status_code == 401


async def test_while_redis_is_away_known_keys_work_and_others_wait(
    gateway: GatewayUnderTest, operator: KeyStore, server: RedisServer
) -> None:
    """Nobody is told that a key is wrong by a gateway that cannot know."""
    known, unseen = await make(operator), await make(operator)
    assert await list_models(gateway, known) == 200

    server.kill()

    assert await list_models(gateway, known) == 200
    answer = await chat(gateway, unseen)
    assert (503, "store_unavailable") == (
        answer.status_code,
        answer.json()["error"]["code"],
    )
    assert "true" == answer.headers["x-should-retry"]
    assert 0 < int(answer.headers["retry-after-ms"]) <= 5000
    # What cannot be one of the store's keys needs no store to be refused.
    assert await list_models(gateway, "sk-other") == 401
    assert await list_models(gateway, unseen[:-1] + "!") == 401


async def test_a_silent_redis_holds_no_request_up(
    start_gateway: StartGateway, operator: KeyStore, server: RedisServer
) -> None:
    """A server that takes questions and gives no answers costs the time-out at most."""
    gateway = await start_gateway(store_url=server.unix_url, store_timeout_s=0.05)
    api_key = await make(operator)
    server.freeze()

    started_s = time.monotonic()
    answer = await chat(gateway, api_key)
    took_s = time.monotonic() - started_s

    assert answer.status_code == 503
    assert took_s < 1
    server.thaw()
    await until_status(gateway, api_key, 200)


async def test_a_client_that_leaves_during_the_lookup_leaves_nothing(
    gateway: GatewayUnderTest, operator: KeyStore, server: RedisServer
) -> None:
    """The look-up ends for itself, and whoever asks next is served."""
    api_key = await make(operator)
    server.freeze()
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.address.port)
    head = f"GET /v1/models HTTP/1.1\r\nhost: x\r\nauthorization: {api_key}\r\n\r\n"
    writer.write(head.encode())
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    server.thaw()

    await until_status(gateway, api_key, 200)
    del reader


async def test_guesses_reach_redis_in_bounded_numbers(
    gateway: GatewayUnderTest, operator: KeyStore, server: RedisServer
) -> None:
    """Those in our form within a budget, others never; good keys go on working."""
    api_key = await make(operator)
    assert await list_models(gateway, api_key) == 200
    server.command("CONFIG", "RESETSTAT")
    # Each new to the gateway; the last two kinds cannot be ours.
    guesses = [new_api_key() for _ in range(LOOKUP_BURST * 2)]
    guesses += [f"{new_api_key()[:-1]}!" for _ in range(200)]
    guesses += [f"sk-{number}" for number in range(200)]
    started_s = time.monotonic()

    statuses = [await list_models(gateway, guess) for guess in guesses]

    elapsed_s = time.monotonic() - started_s
    stats = server.command("INFO", "commandstats")
    assert {401, 503} >= set(statuses)
    assert stats["cmdstat_hget"]["calls"] <= LOOKUP_BURST + 100 * (elapsed_s + 1)
    assert [401] * 400 == statuses[-400:]
    assert await list_models(gateway, api_key) == 200


@pytest.mark.parametrize(
    "api_key",
    [
        pytest.param(new_api_key(), id="of today"),
        pytest.param("llmtune_gw_of_an_older_form", id="without checksum"),
    ],
)
async def test_a_key_of_ours_goes_to_no_upstream(
    start_gateway: StartGateway,
    upstream: ScriptedUpstream,
    server: RedisServer,
    api_key: str,
) -> None:
    """Where keys may be brought, a revoked one of ours does not count as brought."""
    gateway = await start_gateway(
        store_url=server.unix_url, default_plan="open", **RELAXED
    )

    refused = await chat(gateway, api_key)
    brought = await chat(gateway, "sk_live_theirs")

    assert (401, 200) == (refused.status_code, brought.status_code)
    keys = [request.headers["authorization"] for request in upstream.requests]
    assert ["Bearer sk_live_theirs"] == keys


async def test_a_plan_that_is_not_here_is_warned_of_once(
    gateway: GatewayUnderTest, operator: KeyStore, caplog: pytest.LogCaptureFixture
) -> None:
    """The store may name what this gateway's plan files do not."""
    api_keys = [await make(operator, plan="elsewhere") for _ in range(3)]
    caplog.set_level(logging.WARNING)

    statuses = [await list_models(gateway, api_key) for api_key in api_keys]

    assert [401, 401, 401] == statuses
    assert 1 == caplog.text.count("'elsewhere'")


async def test_stored_keys_reach_neither_log_nor_answers(
    gateway: GatewayUnderTest,
    operator: KeyStore,
    server: RedisServer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Not even in part; Redis has their digests and nothing else."""
    caplog.set_level(logging.DEBUG, logger="gateway")
    caplog.set_level(logging.DEBUG, logger="policies")
    api_key, unknown = await make(operator), new_api_key()

    answers = [await chat(gateway, api_key), await chat(gateway, unknown)]
    kept = server.command("HGETALL", KEY_RECORDS)
    server.kill()
    answers.append(await chat(gateway, new_api_key()))

    logged = str([record.__dict__ for record in caplog.records])
    seen = logged + str(kept) + "".join(answer.text for answer in answers)
    assert digest_of(api_key)[:8] in logged
    for secret in (api_key, unknown):
        assert secret[11:31] not in seen
        assert secret[-20:] not in seen


async def test_a_workspace_moved_to_another_plan_keeps_what_it_used(
    start_gateway: StartGateway, server: RedisServer, operator: KeyStore
) -> None:
    """The command puts every key of it on the plan, at once and on every replica."""
    daily = "quotas: [{{of: requests, limit: {0}, per: month}}]\n"
    plans = {
        "small": "plan: small\n" + daily.format(2),
        "large": "plan: large\n" + daily.format(3),
    }
    gateway = await start_gateway(plans, store_url=server.unix_url, **RELAXED)
    keys = [await make(operator, plan="small") for _ in range(2)]
    answers = [(await chat(gateway, keys[n % 2])).status_code for n in range(3)]
    assert answers == [200, 200, 429]

    done = await asyncio.to_thread(
        run,
        *("keys", "move", "acme", "--plan", "large"),
        GATEWAY_STORE_URL=server.url,
        GATEWAY_PLANS_DIR=str(gateway.gateway.settings.plans_dir),
    )

    assert done[:2] == (0, "workspace acme is on plan large: 2 keys\n")
    async with asyncio.timeout(PATIENCE_S):
        while (await chat(gateway, keys[0])).status_code != 200:
            pass
    assert (await chat(gateway, keys[1])).status_code == 429


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        pytest.param(("acme", "--plan", "gold"), 2, "gold is not a plan", id="plan"),
        pytest.param(("nobody", "--plan", "growth"), 1, "nobody", id="workspace"),
    ],
)
async def test_a_move_that_makes_no_sense_changes_nothing(
    server: RedisServer, arguments: tuple[str, ...], code: int, says: str
) -> None:
    """One line says what is wrong."""
    done = await asyncio.to_thread(
        run, "keys", "move", *arguments, GATEWAY_STORE_URL=server.url
    )

    assert done[0] == code
    assert says in done[2]
