"""
One worker: the ordinary gateway, in a process that its supervisor has forked.

It ends as the gateway does, when it is told to or when its supervisor is gone; and says
last what it has counted.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from typing import Any, Final, NamedTuple

import uvloop

from gateway.addresses import Address
from gateway.app import Gateway
from gateway.binding import Bound
from gateway.complaints import Complaint, complaint_of
from gateway.server import calm_collector, running_gateway, signalled
from gateway.settings import Settings
from gateway.tracing.semconv import WORKER_SLOT
from gateway.workers.link import Link
from gateway.workers.messages import Failed, Leaving, Serving

logger = logging.getLogger(__name__)

STOPPING: Final = (signal.SIGTERM,)


class Post(NamedTuple):
    """Where a worker works."""

    slot: int
    settings: Settings
    address: Address
    bound: Bound
    channel: socket.socket


def work(post: Post) -> int:
    """Serve until told to stop, or left alone; the exit code."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_work(post))


async def _work(post: Post) -> int:
    told = signalled(STOPPING)
    # Held back since before the fork, so that none could come too early.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
    link = Link()
    async with link.connected(post.channel):
        try:
            await _serve(post, link, told)
        except Exception as error:
            complaint = complaint_of(error)
            if complaint is None:
                logger.exception("worker failed")
                complaint = Complaint(f"a worker failed: {error!r}", 1)
            link.say(Failed(*complaint))
            return complaint.exit_code
        finally:
            # After the last settlement.
            link.say_count()
    return 0


def _environment(post: Post) -> dict[str, str]:
    """The process's, and which worker this is: what it exports must not be mixed up."""
    return {**os.environ, WORKER_SLOT: str(post.slot)}


async def _serve(post: Post, link: Link, told: asyncio.Future[signal.Signals]) -> None:
    who = {"worker": post.slot, "pid": os.getpid()}
    gateway = Gateway(
        post.settings, families=link.families, environment=_environment(post)
    )
    link.follow(gateway.telemetry)
    ends: set[asyncio.Future[Any]] = {told, link.lost}
    async with running_gateway(gateway, post.address, post.bound):
        link.say(Serving())
        logger.info("worker serves", extra={"facts": who})
        await gateway.finish_making()
        calm_collector()
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        link.say(Leaving())
        reason = told.result().name if told.done() else "no supervisor"
        logger.info("worker stops", extra={"facts": {**who, "reason": reason}})
