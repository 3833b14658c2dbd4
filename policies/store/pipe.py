"""
One server's pipelined connection: what is asked in one tick leaves in a few writes.

A command waits for its own deadline and no longer, connecting included. Replies come
in order, so a command unanswered for a whole time-out condemns its connection. What was
not written yet survives a lost connection and goes out on the next.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

from redis.asyncio.connection import AbstractConnection

from policies.store.bounds import MAX_WAITING
from policies.store.dialer import open_link
from policies.store.errors import (
    Reason,
    Redirected,
    ScriptMissing,
    StoreUnavailable,
)
from policies.store.link import Command, Link, pack
from policies.store.scripts import Script

# How long an overdue reply may still be on its way through our own event loop: at least
# one more look at the sockets.
_GRACE_S: Final = 0.002
# So much of a time-out counts as a whole one: a command is written a little after its
# time-out began, and waiting for the difference would only help a dead connection.
_WHOLE_SHARE: Final = 0.9
# A socket closes in the next tick; TLS included. More means the loop is in trouble.
_CLOSE_TIMEOUT_S: Final = 1.0

# Of a tick with many commands, so many go out before the rest are made: Redis works on
# them meanwhile, where else each side waits for all of the other's work. With one write
# 32 refused callers kept their process busy for 86 % of the time, with four for all.
FLUSHED_AT: Final = 8

_ASKING: Final = pack("ASKING")


class Pipe:
    """
    Commands to one server.

    Measured with 32 workers that call a small script without pause: 11 us a call, 7 us
    of them our CPU. redis-py's pipeline, executed once per tick, costs 27 us and 22 us.
    """

    def __init__(
        self,
        connection: AbstractConnection,
        *,
        timeout_s: float,
        connect_timeout_s: float,
        max_waiting: int = MAX_WAITING,
        scripts: Sequence[Script] = (),
        is_of_cluster: bool = False,
    ) -> None:
        """`is_of_cluster` passes redirections on, to whoever can follow them."""
        self.flushes_total = 0
        self._is_of_cluster = is_of_cluster
        self._scripts = scripts
        self._connection = connection
        self._timeout_s = timeout_s
        self._connect_timeout_s = connect_timeout_s
        self._max_waiting = max_waiting
        self._queue: list[Command] = []
        self._is_flush_due = False
        self._link: Link | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at_s = 0.0
        self._is_alarm_a_grace = False
        self._loading: dict[str, asyncio.Future[Any]] = {}
        self._is_closed = False

    @property
    def is_connected(self) -> bool:
        return self._link is not None

    @property
    def waiting(self) -> int:
        """Commands not yet written, or written and not yet answered."""
        return len(self._queue) + (len(self._link.pending) if self._link else 0)

    def execute(
        self,
        wire: bytes,
        deadline_s: float,
        script: Script | None = None,
        *,
        is_asking: bool = False,
        read: Callable[[Any], Any] | None = None,
    ) -> asyncio.Future[Any]:
        """
        Queue a packed command for this tick's write; the future of its reply.

        Its script is loaded where it is not known. A plain future and no coroutine: a
        caller needs no task, and one that awaits it saves two coroutines.
        """
        loop = asyncio.get_running_loop()
        if is_asking:
            # One piece, so that nothing can get in between and use up the permission.
            wire = _ASKING + wire
        reply: asyncio.Future[Any] = loop.create_future()
        self._send(Command(wire, reply, deadline_s, int(is_asking), script, read), loop)
        return reply

    def _send(self, command: Command, loop: asyncio.AbstractEventLoop) -> None:
        if self._is_closed:
            command.fail("closed", "")
            return
        # As `waiting` says, which would be a call for each command.
        link = self._link
        waiting = len(self._queue) + (len(link.pending) if link is not None else 0)
        if waiting >= self._max_waiting:
            command.fail("overloaded", f"{waiting} commands are waiting")
            return
        self._queue.append(command)
        if len(self._queue) >= FLUSHED_AT and link is not None:
            self._flush()
        elif not self._is_flush_due:
            self._is_flush_due = True
            loop.call_soon(self._flush)
        # Time-outs are alike, so this sets one alarm for all that comes until it rings.
        if self._alarm is None or command.deadline_s < self._alarm_at_s:
            self._set_alarm(command.deadline_s)

    def _fail(self, command: Command, problem: Exception) -> None:
        """Meet the error that a command was answered by, or tell its caller."""
        if command.reply.done():
            return
        if isinstance(problem, ScriptMissing) and command.script is not None:
            if command.loading is None:
                self._load_and_run(command, command.script)
                return
            # Replies come in order, so the load has been answered.
            failed = command.loading.exception()
            missing = problem
            problem = StoreUnavailable("refused", "scripts do not stay loaded")
            problem.__cause__ = missing
            if isinstance(failed, Exception):
                problem = failed
        elif isinstance(problem, Redirected) and not self._is_of_cluster:
            # Some slots are here and work, so nothing else would ever tell.
            told = "this is one node of a cluster; ask for redis+cluster://"
            problem = StoreUnavailable("cluster", told)
        command.reply.set_exception(problem)

    def _load_and_run(self, command: Command, script: Script) -> None:
        command.loading = self._load(script, command.deadline_s)
        command.skips = int(command.wire.startswith(_ASKING))
        self._send(command, asyncio.get_running_loop())

    def close(self) -> None:
        """Begin to close; whoever still waits is told."""
        self._is_closed = True
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        self._fail_queue("closed", "")
        if self._link is not None:
            self._link.drop("closed", "")
        if self._connecting is not None:
            self._connecting.cancel()

    async def aclose(self) -> None:
        """Close, and wait until nothing is left."""
        link, connecting = self._link, self._connecting
        self.close()
        if connecting is not None:
            await asyncio.wait([connecting])
        if link is not None:
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                await link.wait_gone()

    def _load(self, script: Script, deadline_s: float) -> asyncio.Future[Any]:
        # A flushed or restarted Redis misses the script for all who are in flight; one
        # load before the first of them serves all.
        loading = self._loading.get(script.sha)
        if loading is None:
            wire = pack("SCRIPT", "LOAD", script.text)
            loading = self._loading[script.sha] = self.execute(wire, deadline_s)
            loading.add_done_callback(lambda done: self._forget_load(script.sha, done))
        return loading

    def _forget_load(self, sha: str, loading: asyncio.Future[Any]) -> None:
        del self._loading[sha]
        # Whoever needs the error reads it from its own command.
        if not loading.cancelled():
            loading.exception()

    def _flush(self) -> None:
        self._is_flush_due = False
        # A caller that left before its command did has asked for nothing.
        self._queue = [command for command in self._queue if not command.reply.done()]
        if not self._queue:
            return
        if self._link is None:
            self._start_connecting()
            return
        queue, self._queue = self._queue, []
        self.flushes_total += 1
        self._link.write(queue, asyncio.get_running_loop().time())

    def _start_connecting(self) -> None:
        if self._connecting is None and not self._is_closed:
            self._connecting = asyncio.create_task(self._connect())

    async def _connect(self) -> None:
        link = Link(self._forget_link, self._fail)
        try:
            await open_link(self._connection, link, self._connect_timeout_s)
        except StoreUnavailable as problem:
            self._fail_queue(problem.reason, problem.detail)
            return
        finally:
            self._connecting = None
        if link.is_open:
            self._link = link
            self._load_ahead(link)
        self._flush()

    def _load_ahead(self, link: Link) -> None:
        """
        Load the scripts that are known beforehand, before anything uses them.

        A script loaded when it is missed runs after commands that were sent later: a
        settlement after the admission that needs its place.
        """
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        due_s = now_s + self._timeout_s
        loads = [
            Command(pack("SCRIPT", "LOAD", each.text), loop.create_future(), due_s)
            for each in self._scripts
        ]
        for load in loads:
            # Whoever runs the script will hear why it could not be loaded.
            load.reply.add_done_callback(lambda done: done.exception())
        if loads:
            link.write(loads, now_s)

    def _forget_link(self) -> None:
        self._link = None

    def _fail_queue(self, reason: Reason, detail: str) -> None:
        queue, self._queue = self._queue, []
        for command in queue:
            command.fail(reason, detail)

    def _set_alarm(self, at_s: float, *, is_grace: bool = False) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._is_alarm_a_grace = is_grace
        # Noted here: for less than a millisecond uvloop's handles do not know it.
        self._alarm_at_s = at_s
        self._alarm = asyncio.get_running_loop().call_at(at_s, self._on_alarm)

    def _on_alarm(self) -> None:
        self._alarm = None
        due_s = self._next_due_s()
        if due_s is None:
            return
        now_s = asyncio.get_running_loop().time()
        if due_s > now_s:
            self._set_alarm(due_s)
        elif not self._is_alarm_a_grace:
            # A loop that stood still has not read its sockets, and may have written
            # late: as long as it stood still, Redis gets once more.
            late_s = min(now_s - self._alarm_at_s, self._timeout_s)
            self._set_alarm(now_s + max(late_s, _GRACE_S), is_grace=True)
        else:
            self._expire(now_s)
            due_s = self._next_due_s()
            if due_s is not None:
                self._set_alarm(due_s)

    def _next_due_s(self) -> float | None:
        pending = self._link.pending if self._link else ()
        dues = [c.deadline_s for c in (*self._queue, *pending) if not c.reply.done()]
        if pending:
            # Also where every caller has left: the connection is judged all the same.
            dues.append(pending[0].written_s + self._timeout_s)
        return min(dues, default=None)

    def _expire(self, now_s: float) -> None:
        for command in self._queue:
            if command.deadline_s <= now_s:
                command.fail("timeout", "no connection in time")
        link = self._link
        if link is None or not link.pending:
            return
        if now_s - link.pending[0].written_s >= self._timeout_s * _WHOLE_SHARE:
            link.drop("timeout", "no reply in time")
            return
        # Late because of its wait for a connection: the connection is not to blame.
        for command in link.pending:
            if command.deadline_s <= now_s:
                command.fail("timeout", "no reply in time", is_ambiguous=True)
