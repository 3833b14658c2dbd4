"""
One generation a key, over replicas that are real processes, one of which is killed.

    python -m tests.proofs.replays [--askers 1000] [--recorded 500] [--recorded-bytes N]

crowd     a thousand at once with one key over two replicas, whole and streamed
cut       clients that leave in the middle of their stream and ask again
killed    kill -9 of the replica that runs what others follow
lost      Redis killed, with all it had, between the claim and the keeping
recorded  hundreds of long streams at once, with and without a key: memory
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec
import uvloop

from tests.proofs.check import Check, report, until
from tests.proofs.deployment import Deployment, GatewayProcess, deployed
from tests.proofs.lean_client import Answer
from tests.proofs.sums import sum_checks
from tests.servers.redis_server import RedisServer

LEASE_S: Final = 6.0
# A look at the store, a takeover, and its answer, on two busy cores.
SLACK_S: Final = 4.0
CUTS: Final = 20
KILLED: Final = 20
# Eight seconds, of which the killed one has sent two.
EVENTS_KILLED: Final = 160
FOLLOWERS: Final = 3
MONTHLY: Final = (
    "quotas: [{of: requests, limit: 1000000000, per: month},"
    " {of: tokens, limit: 1000000000, per: month}]\n"
)
ROOMY: Final = (
    "idempotency: {max_answer_bytes: 4194304, max_workspace_bytes: 4294967296}\n"
)
PLANS: Final = {
    name: f"plan: {name}\n{MONTHLY}{ROOMY}"
    for name in ("whole", "streamed", "cut", "killed", "waiting", "lost", "memory")
}
EVENT_BYTES: Final = 16 * 1024


class Terms(msgspec.Struct, frozen=True):
    """How large the proof is."""

    askers: int = 1000
    recorded: int = 500
    recorded_bytes: int = 1024 * 1024


class Replays:
    """Two replicas, and what is asked of them."""

    def __init__(
        self, deployment: Deployment, server: RedisServer, terms: Terms
    ) -> None:
        self._deployment = deployment
        self._server = server
        self._terms = terms
        self._victim, self._other = deployment.gateways

    async def ask(
        self, plan: str, key: str | None, gateway: GatewayProcess, **fields: int | bool
    ) -> Answer:
        return await self._deployment.chat(
            plan, url=gateway.url, idempotency_key=key, **fields
        )

    async def asked(self, plan: str) -> int:
        """How many requests of a plan's workspace the upstream has seen."""
        tally = await self._deployment.tally()
        return int(tally[f"ws-{plan}"]["asked"]) if f"ws-{plan}" in tally else 0

    async def until_asked(self, plan: str, count: int) -> None:
        async def has_seen() -> bool:
            return await self.asked(plan) >= count

        await until(has_seen, f"{count} requests of {plan}", within_s=20)

    async def sums(self, plan: str, answers: list[Answer]) -> list[Check]:
        """Held against the upstream's own, once everything is settled."""

        async def is_settled() -> bool:
            limits = await self._deployment.limits(plan, self._other.url)
            used = limits["requests-per-calendar-month"]["used"]
            return bool(used == len(answers))

        await until(is_settled, f"{len(answers)} settlements of {plan}", within_s=10)
        return await sum_checks(
            self._deployment,
            plan,
            await self._deployment.tally(),
            requests=len(answers),
            tokens=sum(answer.tokens for answer in answers),
        )

    async def crowd(self, plan: str, *, is_stream: bool) -> list[Check]:
        """All of them while it runs: the answer begins when most have been sent."""
        askers = self._terms.askers
        gateways = self._deployment.gateways
        fields = {"after": 3000} if not is_stream else {"events": 80}
        answers = await asyncio.gather(
            *(
                self.ask(plan, "one", gateways[n % 2], stream=is_stream, **fields)
                for n in range(askers)
            )
        )
        bodies = {answer.body for answer in answers}
        statuses = Counter(answer.status for answer in answers)
        marked = sum("idempotent-replayed" in answer.headers for answer in answers)
        joined_s = max(a.asked_s for a in answers) - min(a.asked_s for a in answers)
        took_s = max(answer.took_s for answer in answers)
        return [
            Check(f"{plan}: answers", f"{dict(statuses)}", statuses == {200: askers}),
            Check(f"{plan}: different ones", f"{len(bodies)}", len(bodies) == 1),
            Check(f"{plan}: replays", f"{marked}", marked == askers - 1),
            Check(
                f"{plan}: requests the upstream saw",
                f"{(asked := await self.asked(plan))}",
                asked == 1,
            ),
            Check(f"{plan}: took", f"{took_s:.1f} s, sent within {joined_s:.1f} s"),
            *await self.sums(plan, answers[:1]),
        ]

    async def cut(self) -> list[Check]:
        """Their retries go to the other replica."""
        leaving = [
            asyncio.ensure_future(
                self.ask("cut", f"{n}", self._victim, stream=True, events=60)
            )
            for n in range(CUTS)
        ]
        await self.until_asked("cut", CUTS)
        await asyncio.sleep(0.5)
        for each in leaving:
            each.cancel()
        await asyncio.wait(leaving)
        retries = await asyncio.gather(
            *(
                self.ask("cut", f"{n}", self._other, stream=True, events=60)
                for n in range(CUTS)
            )
        )
        whole = sum(answer.body.count(b'"word "') == 59 for answer in retries)
        asked = await self.asked("cut")
        return [
            Check("cut: retries with the whole text", f"{whole}", whole == CUTS),
            Check("cut: requests the upstream saw", f"{asked}", asked == CUTS),
            *await self.sums("cut", list(retries)),
        ]

    async def killed(self) -> list[Check]:
        """Some are in the middle of a stream, some were sent nothing yet."""
        stream = {"stream": True, "events": EVENTS_KILLED}
        victims = [
            asyncio.ensure_future(self.ask("killed", f"{n}", self._victim, **stream))
            for n in range(KILLED)
        ]
        victims += [
            asyncio.ensure_future(
                self.ask("waiting", f"{n}", self._victim, after=2 * 1000)
            )
            for n in range(KILLED)
        ]
        await self.until_asked("killed", KILLED)
        await self.until_asked("waiting", KILLED)
        following = [
            asyncio.ensure_future(self.ask("killed", f"{n}", self._other, **stream))
            for n in range(KILLED)
            for _ in range(FOLLOWERS)
        ]
        waiting = [
            asyncio.ensure_future(
                self.ask("waiting", f"{n}", self._other, after=2 * 1000)
            )
            for n in range(KILLED)
            for _ in range(FOLLOWERS)
        ]
        await asyncio.sleep(1.0)
        killed_s = time.monotonic()
        self._victim.kill()
        await self._victim.process.wait()
        await asyncio.gather(*victims)

        told = await asyncio.gather(*following)
        told_s = max(a.asked_s + a.took_s for a in told) - killed_s
        served = await asyncio.gather(*waiting)
        served_s = max(a.asked_s + a.took_s for a in served) - killed_s
        interrupted = sum(
            b"answer_interrupted" in answer.body and b'"word "' in answer.body
            for answer in told
        )
        short = {"stream": True, "events": EVENTS_KILLED}
        retries = await asyncio.gather(
            *(self.ask("killed", f"{n}", self._other, **short) for n in range(KILLED))
        )
        whole = sum(
            answer.body.count(b'"word "') == EVENTS_KILLED - 1 for answer in retries
        )
        bodies = {(n % KILLED): set[bytes]() for n in range(KILLED)}
        for at, answer in enumerate(served):
            bodies[at // FOLLOWERS].add(answer.body)
        equal = sum(len(each) == 1 for each in bodies.values())
        once = [served[at] for at in range(0, len(served), FOLLOWERS)]
        return [
            Check(
                "killed: followers told in their stream",
                f"{interrupted} of {len(told)}, the last {told_s:.1f} s after it",
                interrupted == len(told) and told_s <= LEASE_S + SLACK_S,
            ),
            Check("killed: retries with the whole text", f"{whole}", whole == KILLED),
            *await self.charged("killed", list(retries)),
            Check(
                "waiting: answered by a takeover",
                f"{sum(a.status == 200 for a in served)} of {len(served)}, the last"
                f" {served_s:.1f} s after it",
                all(a.status == 200 for a in served)
                and served_s <= LEASE_S + SLACK_S + 2,
            ),
            Check("waiting: keys with equal answers", f"{equal}", equal == KILLED),
            *await self.charged("waiting", once),
        ]

    async def charged(self, plan: str, answers: list[Answer]) -> list[Check]:
        """Once a key, though the upstream was asked twice."""
        requests, tokens = len(answers), sum(answer.tokens for answer in answers)

        async def is_settled() -> bool:
            limits = await self._deployment.limits(plan, self._other.url)
            return bool(
                limits["requests-per-calendar-month"]["used"] == requests
                and limits["tokens-per-calendar-month"]["used"] == tokens
            )

        with suppress(TimeoutError):
            await until(is_settled, "the settlements", within_s=10)
        limits = await self._deployment.limits(plan, self._other.url)
        used = (
            limits["requests-per-calendar-month"]["used"],
            limits["tokens-per-calendar-month"]["used"],
        )
        asked = await self.asked(plan)
        return [
            Check(
                f"{plan}: requests and tokens charged, and answered once",
                f"{used}, {(requests, tokens)}; the upstream saw {asked}",
                used == (requests, tokens),
            )
        ]

    async def lost(self) -> list[Check]:
        """Redis forgets the claims of what runs; nobody gets another's answer."""
        running = [
            asyncio.ensure_future(
                self.ask("lost", f"s{n}", self._other, stream=True, events=80)
            )
            for n in range(10)
        ]
        running += [
            asyncio.ensure_future(self.ask("lost", f"w{n}", self._other, after=4000))
            for n in range(10)
        ]
        await self.until_asked("lost", 20)
        self._server.kill()
        await self._server.restart()
        first = await asyncio.gather(*running)
        await asyncio.sleep(1.0)
        again = await asyncio.gather(
            *(
                self.ask("lost", f"s{n}", self._other, stream=True, events=80)
                for n in range(10)
            ),
            *(self.ask("lost", f"w{n}", self._other, after=4000) for n in range(10)),
        )
        served = sum(answer.status == 200 for answer in (*first, *again))
        replays = [
            (one.body, other.body)
            for one, other in zip(first, again, strict=True)
            if "idempotent-replayed" in other.headers
        ]
        wrong = sum(one != other for one, other in replays)
        return [
            Check("lost: answered", f"{served} of 40", served == 40),
            Check(
                "lost: retries replayed, the rest run again",
                f"{len(replays)} of 20, {wrong} of them wrong",
                wrong == 0 and len(replays) >= 10,
            ),
        ]

    async def recorded(self) -> list[Check]:
        """The same streams without keys first, then with, at once."""
        count, events = self._terms.recorded, self._terms.recorded_bytes // EVENT_BYTES
        checks, grown = [], []
        for is_keyed in (False, True):
            before_kib = memory_kib(self._other, "VmRSS")
            reset_peak(self._other)
            answers = await asyncio.gather(
                *(
                    self.ask(
                        "memory",
                        f"{n}" if is_keyed else None,
                        self._other,
                        stream=True,
                        events=events,
                        size=EVENT_BYTES,
                        after=3000,
                    )
                    for n in range(count)
                )
            )
            peak_kib = memory_kib(self._other, "VmHWM")
            grown.append((peak_kib - before_kib) / count)
            whole = sum(answer.body.endswith(b"[DONE]\n\n") for answer in answers)
            of = sum(len(answer.body) for answer in answers) / count
            name = "with a key" if is_keyed else "without a key"
            checks += [
                Check(f"memory, {name}: whole", f"{whole}", whole == count),
                Check(
                    f"memory, {name}",
                    f"{before_kib / 1024:.0f} MiB before, {peak_kib / 1024:.0f} MiB at"
                    f" most, {grown[-1]:.0f} KiB a stream of {of / 1024:.0f} KiB, in"
                    f" {max(a.took_s for a in answers):.0f} s",
                ),
            ]
            del answers
        stored = self._server.command("INFO", "memory")["used_memory"] / 2**20
        # Twice 64 KiB and what one read brings, which is 256 KiB where the machine
        # cannot keep up: before the recording, and in it; and a piece's three forms.
        most_kib = 800
        return [
            *checks,
            Check(
                "memory: of a stream with a key",
                f"{grown[1]:.0f} KiB, bound {most_kib}; in Redis {stored:.0f} MiB",
                grown[1] <= most_kib,
            ),
        ]


def memory_kib(gateway: GatewayProcess, field: str) -> int:
    status = Path(f"/proc/{gateway.process.pid}/status").read_text(encoding="ascii")
    line = next(each for each in status.splitlines() if each.startswith(field))
    return int(line.split()[1])


def reset_peak(gateway: GatewayProcess) -> None:
    """The peak is counted from here."""
    Path(f"/proc/{gateway.process.pid}/clear_refs").write_text("5", encoding="ascii")


async def run(terms: Terms) -> int:
    async with (
        RedisServer() as server,
        deployed(
            PLANS,
            store_url=server.url,
            replicas=2,
            GATEWAY_REPLAY_LEASE_TTL_S=f"{LEASE_S:g}",
            # A slow machine is no outage.
            GATEWAY_STORE_TIMEOUT_S="2",
        ) as deployment,
    ):
        replays = Replays(deployment, server, terms)
        checks = [
            *await replays.crowd("whole", is_stream=False),
            *await replays.crowd("streamed", is_stream=True),
            *await replays.cut(),
            *await replays.killed(),
            *await replays.lost(),
            *await replays.recorded(),
        ]
    return report(checks)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--askers", type=int, default=1000)
    parser.add_argument("--recorded", type=int, default=500)
    parser.add_argument("--recorded-bytes", type=int, default=1024 * 1024)
    asked = parser.parse_args()
    terms = Terms(asked.askers, asked.recorded, asked.recorded_bytes)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run(terms))


if __name__ == "__main__":
    sys.exit(main())
