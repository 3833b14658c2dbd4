"""`webhooks list`, `replay`, `check` and `secret` as people meet them."""

from __future__ import annotations

import asyncio
import json
import re
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest

from gateway.batches.inbox import EVENTS, WHAT_CAME
from gateway.webhooks.outbox import Outbox
from gateway.webhooks.registrations import Registrations
from gateway.webhooks.relay import Relay
from gateway.webhooks.signing import find_secret_problem, new_secret
from policies.jobs.redis_jobs import RedisJobs
from policies.store.store import open_store
from tests.contract.test_command_line import run
from tests.redis_servers import RedisServer
from tests.webhooks.conftest import LOOPBACK, NO_TRUST
from tests.webhooks.hooks import HookReceiver, hooked, registered

ROOT: Final = Path(__file__).parents[2]
PATIENCE_S: Final = 5.0
HOOK: Final = {"workspace": "acme", "url": "https://hooks.example.com/x"}


class Post:
    """One workspace's relay on a real Redis, whose work a test does by hand."""

    def __init__(self, url: str, jobs: RedisJobs, receiver: HookReceiver) -> None:
        # The Redis is shared with other tests.
        self.workspace = f"ws-{uuid.uuid4().hex}"
        self._url = url
        self.jobs = jobs
        self.outbox = Outbox(jobs)
        registrations = Registrations([registered(receiver.url, self.workspace)])
        self.relay = Relay(
            self.outbox,
            lambda: registrations,
            allowed=LOOPBACK,
            trust=lambda: NO_TRUST,
            count=lambda told: None,
            next_attempt_s=lambda *_: None,
        )

    async def publish(self, event_id: str) -> str:
        """Attempt to tell of it once; the delivery's id."""
        await self.relay.publish(self.workspace, event_id, "usage.high", {})
        await self.attempt_all()
        newest = await anext(aiter(self.outbox.all_of(self.workspace)))
        return newest.delivery.id

    async def attempt_all(self) -> None:
        async for held in self.outbox.all_of(self.workspace):
            await self.relay.drive(f"{self.workspace} {held.delivery.id}")

    async def command(self, *arguments: str, exit_code: int = 0) -> str:
        """What the real program says, beside the loop that answers it."""
        store = {"GATEWAY_STORE_URL": self._url}
        code, output, errors = await asyncio.to_thread(
            lambda: run("webhooks", *arguments, **store)
        )
        assert code == exit_code, errors
        return output + errors

    async def listed(self, *arguments: str) -> list[dict[str, Any]]:
        of_it = ("--workspace", self.workspace, "--json")
        found: list[dict[str, Any]] = json.loads(
            await self.command("list", *arguments, *of_it)
        )
        return found


@pytest.fixture
async def receiver() -> AsyncIterator[HookReceiver]:
    """Takes the first, and refuses all others until it is told otherwise."""
    async with hooked(200, 500, 500, 200) as receiver:
        yield receiver


@pytest.fixture
async def office(
    redis_server: RedisServer, receiver: HookReceiver
) -> AsyncIterator[Post]:
    store = open_store(
        redis_server.url,
        timeout_s=PATIENCE_S,
        connect_timeout_s=PATIENCE_S,
        client_name="test",
    )
    yield Post(redis_server.url, RedisJobs(store), receiver)
    await store.aclose()


async def test_dead_letters_are_listed_and_replayed(
    office: Post, receiver: HookReceiver
) -> None:
    taken = await office.publish("evt_taken")
    first = await office.publish("evt_first")
    second = await office.publish("evt_second")

    assert [each["id"] for each in await office.listed()] == [second, first, taken]
    dead = await office.listed("--dead")
    assert [each["id"] for each in dead] == [second, first]
    assert {each["outcome"] for each in dead} == {"500"}

    assert "due again" in await office.command("replay", first)
    assert [each["id"] for each in await office.listed("--dead")] == [second]
    where = ("--workspace", office.workspace)
    told = await office.command("replay", "--all-dead", *where)
    assert told == "1 deliveries are due again\n"
    await office.attempt_all()

    assert await office.listed("--dead") == []
    ids = sorted(each.headers["webhook-id"] for each in receiver.told)
    assert ids == ["evt_first"] * 2 + ["evt_second"] * 2 + ["evt_taken"]


async def test_the_table_shows_no_receivers_password(office: Post) -> None:
    delivery_id = await office.publish("evt_1")

    table = await office.command("list")

    (row,) = [each for each in table.splitlines() if delivery_id in each]
    assert "evt_1" in row
    assert "delivered" in row
    assert table.startswith("ID ")
    assert "its-password" not in table


async def test_what_is_not_there_is_not_replayed(office: Post) -> None:
    nobody = "dlv_" + "0" * 34
    assert "no delivery" in await office.command("replay", nobody, exit_code=1)
    assert "must be an id" in await office.command("replay", "evt_1", exit_code=2)


async def test_what_llmtune_told_is_shown_as_it_came(office: Post) -> None:
    event_id = f"evt_{uuid.uuid4().hex}"
    came = b'{"event":"nobody.knows","data":{"a":1}}'
    await office.jobs.collect(EVENTS, event_id, {WHAT_CAME: came}, 60_000)
    assert f"{came.decode()}\n" == await office.command("show", event_id)
    told = await office.command("show", "evt_of_nobody", exit_code=1)
    assert "there is no event evt_of_nobody" in told


def test_without_a_redis_there_is_nothing_to_list() -> None:
    code, _, errors = run("webhooks", "list", GATEWAY_STORE_URL="")

    assert code == 2
    assert "memory://" in errors


def test_a_store_that_does_not_answer_is_told_in_one_line() -> None:
    url = "redis://127.0.0.1:1"
    code, output, errors = run("webhooks", "list", GATEWAY_STORE_URL=url)

    assert (1, "") == (code, output)
    assert "the store cannot be asked" in errors
    assert len(errors.splitlines()) == 1


def test_check_names_file_field_and_problem(tmp_path: Path) -> None:
    """One line a mistake, exit 1, and no secret in any."""
    file = tmp_path / "webhooks.yaml"
    hook = {**HOOK, "events": ["*"], "secret": new_secret().reveal()}
    file.write_text(json.dumps({"webhooks": [hook]}))
    code, output, errors = run("webhooks", "check", str(file))
    assert (0, "1 webhooks are good\n", "") == (code, output, errors)

    inner = {**hook, "url": "http://10.0.0.1/x"}
    file.write_text(json.dumps({"webhooks": [inner]}))
    code, _, errors = run("webhooks", "check", GATEWAY_WEBHOOKS_FILE=str(file))
    assert code == 1
    assert re.search(r"webhooks\.yaml: webhooks\[0\]\.url: leads to", errors)

    code, *_ = run(
        *("webhooks", "check", str(file)), GATEWAY_WEBHOOKS_ALLOWED="10.0.0.0/8"
    )
    assert code == 0


def test_the_documented_file_is_one(tmp_path: Path) -> None:
    """People begin with what they paste from docs/webhooks.md."""
    text = (ROOT / "docs" / "webhooks.md").read_text(encoding="utf-8")
    found = re.search(r"```yaml\n(.*?)```", text, flags=re.DOTALL)
    assert found is not None
    file = tmp_path / "webhooks.yaml"
    file.write_text(found[1])

    secret = new_secret().reveal()
    code, _, errors = run("webhooks", "check", str(file), ACME_HOOK_SECRET=secret)

    assert (0, "") == (code, errors)


@pytest.mark.parametrize("action", [("webhooks", "check", "/dev/null"), ("serve",)])
def test_whom_nobody_can_be_is_told_with_its_variable(action: tuple[str, ...]) -> None:
    code, _, errors = run(*action, GATEWAY_WEBHOOKS_ALLOWED="10.0.0.1/8")

    assert code != 0
    assert "GATEWAY_WEBHOOKS_ALLOWED" in errors
    assert "10.0.0.1/8" in errors


def test_a_new_secret_is_one() -> None:
    code, output, _ = run("webhooks", "secret")

    assert code == 0
    assert find_secret_problem(output.strip()) is None
