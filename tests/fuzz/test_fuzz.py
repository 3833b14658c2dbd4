"""
Ten thousand and more bad requests against a listening gateway: no crash, no leak.

Every case is made from its number alone, so a complaint names all that is needed to see
it again. `FUZZ_REQUESTS` asks for more of them.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from random import Random
from typing import Final

import pytest

from gateway.secret import Secret
from gateway.simulator.server import running_simulator
from gateway.simulator.settings import SimulatorSettings
from tests.fuzz import bodies, heads
from tests.fuzz.wire import Answer, NoAnswer, Peer, complaint, request
from tests.gateway_under_test import GatewayUnderTest, gateway_under_test
from tests.servers.process import ReservedPort

REQUESTS: Final = int(os.environ.get("FUZZ_REQUESTS", "10000"))
# Garbage costs a connection each, and often a time-out.
GARBAGE_SHARE: Final = 0.04
SEED: Final = 20261122
CONNECTIONS: Final = 24
HEADER_TIMEOUT_S: Final = 0.5

PLANS: Final = {
    "tight": "plan: tight\nconcurrency: 2\nrates:\n"
    "  - {of: requests, limit: 3, per: second}\n"
    "request: {max_output_tokens: 8, max_input_tokens: 500, max_body_bytes: 4096}\n"
}
SECRET: Final = "whsec_of_the_fuzz"
SHORT_ANSWERS: Final = SimulatorSettings(
    answer_tokens_min=4, answer_tokens_max=8, webhook_secret=SECRET
)

pytestmark = pytest.mark.timeout(60 + REQUESTS // 100)


class ErrorLog(logging.Handler):
    """Remembers what was logged as an error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(logging.Formatter().format(record))


@pytest.fixture
def errors() -> Iterator[list[str]]:
    log = ErrorLog()
    logging.getLogger().addHandler(log)
    yield log.lines
    logging.getLogger().removeHandler(log)


@asynccontextmanager
async def fuzzed_gateway(folder: Path) -> AsyncIterator[GatewayUnderTest]:
    async with AsyncExitStack() as running:
        simulator = await running.enter_async_context(running_simulator(SHORT_ANSWERS))
        port = ReservedPort()
        running.callback(port.release)
        gateway = gateway_under_test(
            folder,
            PLANS,
            upstream_url=simulator.base_url,
            port=port.number,
            # So that fine-tunes run, whose files LLMTune fetches.
            public_url=f"http://127.0.0.1:{port.number}",
            webhook_secret=Secret(SECRET),
            http_max_body_bytes=64 * 1024,
            http_header_timeout_s=HEADER_TIMEOUT_S,
            http_body_timeout_s=0.5,
            http_keepalive_timeout_s=1.0,
        )
        yield await running.enter_async_context(gateway)


class Cases:
    """The requests of a run, by number."""

    def __init__(self, gateway: GatewayUnderTest) -> None:
        self._open = b"Bearer " + gateway.key().encode()
        self._tight = b"Bearer " + gateway.key("tight").encode()
        swaps = list(bodies.swapped_everywhere())
        Random(SEED).shuffle(swaps)
        self._swaps = swaps

    def auth(self, random: Random) -> bytes:
        return self._tight if random.random() < 0.1 else self._open

    def well_framed(self, number: int) -> bytes:
        """Something wrong inside of a request that HTTP can carry."""
        random = Random(f"{SEED}/{number}")
        auth = self.auth(random)
        kind = random.random()
        if kind < 0.14:
            return heads.odd_path(random, auth)
        if kind < 0.24:
            return heads.odd_headers(random, auth)
        if kind < 0.27:
            return heads.chunked(random, auth)
        route, body = self._body(number, random)
        headers = [heads.JSON, (b"authorization", auth)]
        return request(b"POST", route.encode(), headers, body)

    def _body(self, number: int, random: Random) -> tuple[str, bytes]:
        kind = random.random()
        if kind < 0.65:
            return self._swaps[number % len(self._swaps)]
        if kind < 0.95:
            return bodies.mutated(random)
        size = random.choice([1, 10, 200, 5000, 100_000])
        return random.choice([*bodies.BODIES]), random.randbytes(size)

    def garbage(self, number: int) -> bytes:
        """Something that HTTP cannot carry."""
        random = Random(f"{SEED}/garbage/{number}")
        return heads.garbage(random, self.auth(random))


class Run:
    """What came of the cases so far."""

    def __init__(self, gateway: GatewayUnderTest) -> None:
        self.host, self.port = gateway.address.host, gateway.address.port
        self.statuses: Counter[int] = Counter()
        self.complaints: list[str] = []

    def note(self, what: str, sent: bytes, answer: Answer) -> None:
        self.statuses[answer.status] += 1
        wrong = complaint(answer, is_head=sent.startswith(b"HEAD "))
        if wrong:
            self.complain(what, sent, wrong)

    def complain(self, what: str, sent: bytes, wrong: str) -> None:
        self.complaints.append(f"{what}: {wrong}\n    sent {sent[:600]!r}")

    async def keep_asking(self, cases: Cases, numbers: Iterator[int]) -> None:
        """Ask case after case on one connection, as long as the gateway keeps it."""
        peer: Peer | None = None
        for number in numbers:
            sent = cases.well_framed(number)
            for is_again in (False, True):
                is_fresh, asked_s = peer is None, time.monotonic()
                peer = peer or await Peer.connect(self.host, self.port)
                try:
                    answer = await peer.exchange(sent)
                except (NoAnswer, ConnectionError) as error:
                    await peer.aclose()
                    peer = None
                    # A kept connection may have ended at any time. A new one only
                    # where the machine stood still for as long as headers may take.
                    was_still = time.monotonic() - asked_s >= HEADER_TIMEOUT_S
                    if is_again or (is_fresh and not was_still):
                        self.complain(f"case {number}", sent, f"no answer: {error!r}")
                        break
                    continue
                except TimeoutError:
                    self.complain(f"case {number}", sent, "no answer in time")
                    await peer.aclose()
                    peer = None
                    break
                self.note(f"case {number}", sent, answer)
                if answer.is_last:
                    await peer.aclose()
                    peer = None
                break
        if peer is not None:
            await peer.aclose()

    async def keep_breaking(self, cases: Cases, numbers: Iterator[int]) -> None:
        """Send garbage, each on its own connection, half of them half-closed."""
        for number in numbers:
            sent, what = cases.garbage(number), f"garbage {number}"
            peer = await Peer.connect(self.host, self.port)
            try:
                peer.writer.write(sent)
                if number % 2:
                    peer.writer.write_eof()
                async with asyncio.timeout(10):
                    while True:
                        answer = await peer.answer(is_head=sent.startswith(b"HEAD "))
                        self.note(what, sent, answer)
            except (NoAnswer, ConnectionError) as error:
                if any(error.args):
                    self.complain(what, sent, f"half an answer: {error!r}")
            except TimeoutError:
                self.complain(what, sent, "the connection was never closed")
            finally:
                await peer.aclose()


async def test_gateway_survives_every_bad_request(
    tmp_path: Path, errors: list[str]
) -> None:
    """
    No bad request gets a 5xx, an answer that is no envelope, or something to keep.
    """
    async with fuzzed_gateway(tmp_path) as gateway:
        run, cases = Run(gateway), Cases(gateway)
        broken = int(REQUESTS * GARBAGE_SHARE)
        numbers, garbage = iter(range(REQUESTS)), iter(range(broken))
        async with asyncio.TaskGroup() as asking:
            for _ in range(CONNECTIONS):
                asking.create_task(run.keep_asking(cases, numbers))
            for _ in range(CONNECTIONS):
                asking.create_task(run.keep_breaking(cases, garbage))
        await gateway.until_free("open")
        await gateway.until_free("tight")
        healthy = await gateway.chat()

    assert [] == run.complaints[:5], f"{len(run.complaints)} complaints"
    assert [] == errors[:5]
    assert 200 == healthy.status_code
    assert REQUESTS <= run.statuses.total()
    # The run means little unless it met the gateway's refusals of every kind.
    assert {200, 204, 400, 401, 404, 405, 413, 429, 431} <= run.statuses.keys()
