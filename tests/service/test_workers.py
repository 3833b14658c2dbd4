"""Several workers of one replica: who serves, who dies, and how all of it stops."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final, TypeAlias

import httpx
import pytest

from tests.gateway_under_test import chat_body
from tests.redis_servers import RedisServer
from tests.serving import (
    START_WITHIN_S,
    Serving,
    count_of,
    environment_of,
    free_port,
    serving,
    shrunk,
)
from tests.upstream import LAST_CHUNK, PATIENCE_S, STREAM_HEAD, ScriptedUpstream, frame

Environment: TypeAlias = tuple[dict[str, str], dict[str, str]]

# All at one worker of two: once in two million runs.
STREAMS: Final = 22
END: Final = frame({"text": "lo"}) + frame("[DONE]") + LAST_CHUNK


@pytest.fixture
def environment(
    tmp_path: Path, upstream: ScriptedUpstream, redis_server: RedisServer
) -> Environment:
    return environment_of(tmp_path, upstream, redis_server.url)


class Streams:
    """Open streams, each on a connection of its own, that wait in the middle."""

    def __init__(self, running: Serving, upstream: ScriptedUpstream) -> None:
        self._running = running
        self._upstream = upstream
        self._go_on = asyncio.Event()
        self._begun = asyncio.Semaphore(0)
        self._reading: list[asyncio.Task[str]] = []

    async def open(self, count: int = STREAMS) -> None:
        """Open them, and wait until each has its first event."""
        for _ in range(count):
            self._upstream.will(STREAM_HEAD, frame({"text": "Hel"}), self._go_on, END)
            self._reading.append(asyncio.ensure_future(self._read()))
        for _ in range(count):
            await asyncio.wait_for(self._begun.acquire(), PATIENCE_S * 2)

    async def _read(self) -> str:
        """How it ends: its last line, or nothing if it broke off."""
        last = ""
        try:
            async with (
                self._running.client() as client,
                client.stream(
                    "POST", "/v1/chat/completions", json=chat_body(stream=True)
                ) as response,
            ):
                async for line in response.aiter_lines():
                    if '"Hel"' in line:
                        self._begun.release()
                    last = line or last
        except httpx.RemoteProtocolError:
            return ""
        return last

    async def broken(self) -> int:
        """Wait until some have broken off, and count them."""
        await asyncio.wait(
            self._reading, timeout=PATIENCE_S, return_when=asyncio.FIRST_COMPLETED
        )
        # All of a killed process end at one moment.
        await asyncio.wait(self._reading, timeout=0.2)
        return sum(task.done() for task in self._reading)

    async def finish(self) -> list[str]:
        self._go_on.set()
        return await asyncio.wait_for(asyncio.gather(*self._reading), PATIENCE_S)


async def test_workers_share_the_connections(
    environment: Environment, upstream: ScriptedUpstream
) -> None:
    """Each has some of what is in flight, and `/metrics` has all."""
    async with serving(environment) as running:
        streams = Streams(running, upstream)
        await streams.open()
        async with running.client() as client:
            readiness = [(await client.get("/readyz")).json() for _ in range(20)]
        samples = await running.scrape()

        assert max(each["in_flight"] for each in readiness) < STREAMS
        # The scrape is one itself.
        assert count_of(samples, "requests_in_flight") == STREAMS + 1
        assert count_of(samples, "workers") == 2
        await streams.finish()


async def test_sigterm_drains_every_worker(
    environment: Environment, upstream: ScriptedUpstream
) -> None:
    """What runs finishes at each of them, and the exit code is 0."""
    async with serving(environment) as running:
        streams = Streams(running, upstream)
        await streams.open()
        running.process.send_signal(signal.SIGTERM)
        await running.until_told("accepts no more", 2)
        async with running.client() as client:
            # Not queued where nobody would come to accept it.
            with pytest.raises(httpx.ConnectError):
                await client.get("/livez")

        ends = await streams.finish()
        await running.until_silent()

        assert ["data: [DONE]"] * STREAMS == ends
        assert 0 == await running.process.wait()


async def test_ctrl_c_drains_too(
    environment: Environment, upstream: ScriptedUpstream
) -> None:
    """A terminal sends it to every process, which must not be a second signal."""
    async with serving(environment) as running:
        streams = Streams(running, upstream)
        await streams.open(4)
        os.killpg(running.process.pid, signal.SIGINT)
        await running.until_told("worker stops", 2)

        ends = await streams.finish()
        await running.until_silent()

        assert ["data: [DONE]"] * 4 == ends
        assert 0 == await running.process.wait()


async def test_a_second_signal_ends_it_at_once(
    environment: Environment, upstream: ScriptedUpstream
) -> None:
    """Who insists is not made to wait for streams."""
    async with serving(environment) as running:
        streams = Streams(running, upstream)
        await streams.open(4)
        running.process.send_signal(signal.SIGTERM)
        await running.until_told("worker stops", 2)

        code = await running.end()

        assert -signal.SIGTERM == code
        assert [""] * 4 == await streams.finish()


async def test_workers_do_not_outlive_their_supervisor(
    environment: Environment, upstream: ScriptedUpstream
) -> None:
    """They drain when it is killed: nobody would restart, stop or count them."""
    async with serving(environment) as running:
        streams = Streams(running, upstream)
        await streams.open(4)
        running.process.kill()
        stopped = await running.until_told("worker stops", 2)

        assert ["data: [DONE]"] * 4 == await streams.finish()
        await running.until_silent()
        assert {"no supervisor"} == {line["reason"] for line in stopped}


async def test_a_killed_worker_is_replaced(
    environment: Environment, upstream: ScriptedUpstream
) -> None:
    """The other's streams run on, and nothing that was counted is taken back."""
    async with serving(environment) as running:
        streams = Streams(running, upstream)
        await streams.open()
        before = await running.scrape()
        os.kill(running.pids[0], signal.SIGKILL)
        broken = await streams.broken()
        await running.until_told("worker serves", 3)

        after = await running.scrape()
        ends = await streams.finish()

        assert [] == shrunk(before, after)
        assert count_of(after, "worker_restarts_total") == 1
        assert count_of(after, "workers") == 2
        assert 0 < broken < STREAMS
        assert ends.count("data: [DONE]") == STREAMS - broken
        (told,) = running.told("worker ended unasked")
        assert ("SIGKILL", 0) == (told["signal"], told["worker"])


async def test_no_connection_is_lost_with_its_worker(environment: Environment) -> None:
    """What is queued at a dead worker's socket is served by its successor."""
    async with serving(environment) as running:
        # Neither accepts, so that connections queue.
        for pid in running.pids:
            os.kill(pid, signal.SIGSTOP)
        async with running.client() as client:
            asked = [asyncio.ensure_future(client.get("/livez")) for _ in range(20)]
            # Connected, by the kernel, when the queue holds them.
            await asyncio.wait(asked, timeout=0.3)
            for pid in running.pids:
                os.kill(pid, signal.SIGKILL)

            answers = await asyncio.wait_for(asyncio.gather(*asked), PATIENCE_S * 2)

        assert [200] * 20 == [answer.status_code for answer in answers]


async def test_a_worker_that_is_told_to_stop_makes_room(
    environment: Environment, upstream: ScriptedUpstream
) -> None:
    """Its successor serves while it drains: its place is empty no longer than that."""
    async with serving(environment) as running:
        streams = Streams(running, upstream)
        await streams.open()
        before = await running.scrape()
        os.kill(running.pids[1], signal.SIGTERM)
        await running.until_told("worker serves", 3)

        assert [] == running.told("worker ended")
        assert ["data: [DONE]"] * STREAMS == await streams.finish()
        await running.until_told("worker ended")
        assert [] == shrunk(before, await running.scrape())


async def test_a_worker_that_cannot_start_leaves_the_others_serving(
    environment: Environment,
) -> None:
    """No connection waits at its place, and it is back when its cause is gone."""
    plan = Path(environment[0]["GATEWAY_PLANS_DIR"]) / "open.yaml"
    async with serving(environment) as running:
        good = plan.read_text()
        plan.write_text("nonsense: yes\n")
        os.kill(running.pids[0], signal.SIGKILL)
        await running.until_told("worker could not start", 2)

        async with running.client() as client:
            for _ in range(20):
                assert (await client.get("/livez")).status_code == 200
        plan.write_text(good)

        assert 0 == (await running.until_told("worker serves", 3))[-1]["worker"]


async def test_all_listen_at_one_unix_socket(
    environment: Environment, tmp_path: Path
) -> None:
    """It is gone at the end, with the processes."""
    path = tmp_path / "gateway.sock"
    async with serving(environment, "--uds", str(path)) as running:
        transport = httpx.AsyncHTTPTransport(uds=str(path))
        async with httpx.AsyncClient(transport=transport) as client:
            os.kill(running.pids[0], signal.SIGKILL)
            await running.until_told("worker serves", 3)
            assert (await client.get("http://gw/livez")).status_code == 200

        assert 0 == await running.end()
        assert not path.exists()


async def test_each_listens_on_the_operation_port(environment: Environment) -> None:
    """`/metrics` is there, and there only."""
    port = free_port()
    environment[0]["GATEWAY_OPS_PORT"] = str(port)
    async with AsyncExitStack() as stack:
        running = await stack.enter_async_context(serving(environment))
        client = await stack.enter_async_context(running.client())
        ops_url = f"http://127.0.0.1:{port}"
        for pid in running.pids:
            samples = await running.scrape(ops_url)
            assert count_of(samples, "workers") == 2
            os.kill(pid, signal.SIGKILL)
            await running.until_told(
                "worker serves", len(running.told("worker serves")) + 1
            )

        assert (await client.get("/metrics")).status_code == 404


async def test_a_port_is_not_shared_with_another_command(
    environment: Environment,
) -> None:
    """The kernel would let both have half of the connections."""
    async with serving(environment) as running:
        port = running.url.rsplit(":", 1)[1]
        second = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gateway", "serve", "--workers", "2"),
            *("--port", port),
            env=environment[0],
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        _, errors = await asyncio.wait_for(second.communicate(), 30)

    assert second.returncode == 1
    assert len(errors.splitlines()) == 1
    assert b"address already in use; choose another with --port" in errors


FAILING: Final = """
import sys
from gateway.app import Gateway
from gateway.cli import main
from gateway.settings import Settings
from gateway.addresses import Address
from gateway.workers.listeners import Listeners
from gateway.workers.supervisor import Supervisor
from gateway.workers.worker import work

def fail(post):
    if post.slot == 1:
        sys.exit(3)
    return work(post)

gateway = Gateway(Settings(store_url="redis://127.0.0.1:1"))
try:
    Supervisor(gateway, Listeners(Address(port=0), None, slots=3), 3, work=fail).run()
except Exception as problem:
    print(type(problem).__name__, problem, problem.exit_code, file=sys.stderr)
"""


def test_a_worker_that_fails_at_the_first_start_ends_the_command() -> None:
    """What fails at once would fail for ever; it is told once."""
    done = subprocess.run(
        (sys.executable, "-c", FAILING),
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )

    last = done.stderr.splitlines()[-1]
    assert last.startswith("CommandProblem a worker ended at its start: ")
    assert last.endswith(" 1")


HURRIED: Final = """
from gateway.access_log import configure_logging
from gateway.addresses import Address
from gateway.app import Gateway
from gateway.settings import Settings
from gateway.workers.listeners import Listeners
from gateway.workers.supervisor import Supervisor

configure_logging("info")
gateway = Gateway(Settings(store_url="redis://127.0.0.1:1"))
Supervisor(gateway, Listeners(Address(port=0), None, slots=2), 2, hung_rounds=2).run()
"""


async def test_a_worker_that_hangs_is_replaced() -> None:
    """Its connections would wait for ever: a listening socket says not who reads it."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", HURRIED),
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    running = Serving(process, {"open": "none"})
    try:
        await running.until_told("worker serves", 2, within_s=START_WITHIN_S)
        hung = running.pids[0]
        os.kill(hung, signal.SIGSTOP)

        told = await running.until_told("worker hangs and is killed")
        assert (hung, 0) == (told[0]["pid"], told[0]["worker"])
        await running.until_told("worker serves", 3)
        samples = await running.until_counted(
            lambda samples: count_of(samples, "workers") == 2, "both workers"
        )
        assert count_of(samples, "worker_restarts_total") == 1
    finally:
        await running.aclose()
