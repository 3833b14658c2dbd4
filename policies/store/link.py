"""One open connection: what was written to it, and whose reply comes next."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import hiredis

from policies.store.errors import Reason, StoreUnavailable, to_error
from policies.store.scripts import Script

_INCOMPLETE: Final = object()
# After such a reply the next command should go out on a new connection: to another
# master, or with an AUTH that the server has begun to want.
_SPOILING: Final = frozenset({"replica", "auth"})


def pack(*parts: str | int | bytes) -> bytes:
    """A command as Redis reads it."""
    # hiredis declares a tuple of exactly one part, and takes any number.
    wire: bytes = hiredis.pack_command(parts)  # type: ignore[arg-type]
    return wire


def pack_head(count: int, *parts: str | int | bytes) -> bytes:
    """The beginning of a command of `count` parts, for `pack_part` to go on from."""
    return b"*%d\r\n" % count + pack_parts(*parts)


def pack_parts(*parts: str | int | bytes) -> bytes:
    """A piece of a command: what is the same in many calls is packed once."""
    wire = pack(*parts)
    return wire[wire.index(b"\n") + 1 :]


class Command:
    """Bytes for Redis and the future of their reply."""

    __slots__ = (
        "deadline_s",
        "loading",
        "read",
        "reply",
        "script",
        "skips",
        "wire",
        "written_s",
    )

    def __init__(
        self,
        wire: bytes,
        reply: asyncio.Future[Any],
        deadline_s: float,
        skips: int = 0,
        script: Script | None = None,
        read: Callable[[Any], Any] | None = None,
    ) -> None:
        self.wire = wire
        self.reply = reply
        self.deadline_s = deadline_s
        # Replies that come before the one that counts: ASKING's.
        self.skips = skips
        self.written_s = 0.0
        # What it runs, to be loaded where it is missing; and that load, once begun.
        self.script = script
        self.loading: asyncio.Future[Any] | None = None
        # What the reply becomes for its caller; None leaves it as it is.
        self.read = read

    def answer(self, reply: object) -> None:
        if self.reply.done():
            return
        if self.read is not None:
            try:
                reply = self.read(reply)
            except Exception as problem:  # noqa: BLE001 - its caller's, not the link's
                self.reply.set_exception(problem)
                return
        self.reply.set_result(reply)

    def fail(self, reason: Reason, detail: str, *, is_ambiguous: bool = False) -> None:
        if not self.reply.done():
            self.reply.set_exception(
                StoreUnavailable(reason, detail, is_ambiguous=is_ambiguous)
            )


class Link(asyncio.Protocol):
    """
    Resolves replies in the order of what was written, without a task of its own.

    Replies are parsed where the event loop delivers the bytes: per reply this costs a
    fraction of what redis-py's `read_response` does.
    """

    def __init__(
        self,
        on_lost: Callable[[], None],
        on_error: Callable[[Command, Exception], None],
    ) -> None:
        """`on_error` is given each command that was answered by an error."""
        self.pending: deque[Command] = deque()
        self._writer: asyncio.StreamWriter | None = None
        self._on_lost = on_lost
        self._on_error = on_error
        self._is_dropped = False
        self._gone = asyncio.Event()
        self._reader = hiredis.Reader(
            protocolError=to_error, replyError=to_error, notEnoughData=_INCOMPLETE
        )

    @property
    def is_open(self) -> bool:
        return self._writer is not None and not self._is_dropped

    def adopt(self, writer: asyncio.StreamWriter) -> None:
        """Write here from now on; kept whole, as its end would close the transport."""
        self._writer = writer

    def write(self, commands: list[Command], now_s: float) -> None:
        """Hand these to the socket in one write."""
        for command in commands:
            command.written_s = now_s
        self.pending.extend(commands)
        if self._writer is not None:
            self._writer.write(b"".join([command.wire for command in commands]))

    def drop(self, reason: Reason, detail: str) -> None:
        """Close at once; nobody will learn what became of the pending commands."""
        if self._is_dropped:
            return
        self._is_dropped = True
        if self._writer is not None:
            self._writer.transport.abort()
        while self.pending:
            self.pending.popleft().fail(reason, detail, is_ambiguous=True)
        self._on_lost()

    async def wait_gone(self) -> None:
        """Until the socket is closed, which follows a drop at once."""
        if self._writer is not None:
            await self._gone.wait()

    def data_received(self, data: bytes) -> None:
        if self._is_dropped:
            return
        reader, pending = self._reader, self.pending
        reader.feed(data)
        is_spoiled = False
        while True:
            try:
                reply = reader.gets()
            except Exception as problem:  # noqa: BLE001 - whatever to_error made of it
                self.drop("connection", f"not what Redis speaks: {problem}")
                return
            if reply is _INCOMPLETE:
                break
            if not pending:
                self.drop("connection", f"a reply nobody asked for: {reply!r}")
                return
            command = pending[0]
            if command.skips:
                command.skips -= 1
                continue
            pending.popleft()
            if isinstance(reply, Exception):
                is_spoiled |= self._is_spoiling(reply)
                self._on_error(command, reply)
            else:
                command.answer(reply)
        if is_spoiled:
            self.drop("replica", "the connection was given up for a new one")

    def eof_received(self) -> None:
        """Nothing more will come; the transport closes itself."""

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone.set()
        self.drop("connection", str(exc) if exc else "closed by Redis")

    def _is_spoiling(self, problem: Exception) -> bool:
        return isinstance(problem, StoreUnavailable) and problem.reason in _SPOILING
