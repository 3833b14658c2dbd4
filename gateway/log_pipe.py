"""
Standard output, where it is a pipe, as something that nobody here waits for.

Its reader may stop: a collector whose disk is full, a pager. The pipe holds 64 KiB, and
a write of more would wait for it, with the event loop, every stream and every probe.
What finds no room is kept, beyond a bound it is lost, and the log says so once it is
read again.
"""

from __future__ import annotations

import asyncio
import collections
import os
import select
import stat
import threading
import time
from datetime import UTC, datetime
from typing import Final, Protocol, TextIO

import msgspec

# Some 2,000 access lines: what a busy replica writes while its collector restarts.
MOST_KEPT_BYTES: Final = 1024 * 1024
# How often room is looked for where nothing more is logged.
RETRY_S: Final = 0.25
# For a reader that is slow; one that has stopped must not hold up an end.
FINISH_WITHIN_S: Final = 1.0


class Output(Protocol):
    """What log lines are written to."""

    def write(self, text: str, /) -> int: ...

    def flush(self) -> None: ...


def without_waiting(output: TextIO) -> Output:
    """A way into the same pipe that never waits; the output itself if it is none."""
    try:
        fileno = output.fileno()
        if not stat.S_ISFIFO(os.fstat(fileno).st_mode):
            return output
        # Opened anew: not to wait is a flag of the open file, and whoever else has
        # inherited that one would have to bear it, too.
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC
        return LogPipe(os.open(f"/proc/self/fd/{fileno}", flags))
    except (OSError, ValueError, AttributeError):
        # No /proc, no right to open it or nobody who reads; no file, closed, or None,
        # which standard output is if it was closed from the start.
        return output


class LogPipe:
    """Writes what there is room for, and keeps the rest in order."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._kept: collections.deque[bytes] = collections.deque()
        self._kept_bytes = 0
        self._lost_lines = 0
        # The loop that has been asked to look for room.
        self._asked: asyncio.AbstractEventLoop | None = None
        # Beside the handler's own: who looks for room holds none.
        self._lock = threading.Lock()
        # What a supervisor has kept is written by itself alone.
        os.register_at_fork(after_in_child=self._begin_anew)

    def _begin_anew(self) -> None:
        self._lock = threading.Lock()
        self._kept.clear()
        self._kept_bytes = self._lost_lines = 0
        self._asked = None

    def write(self, text: str, /) -> int:
        """OSError if there is no reader any more."""
        with self._lock:
            self._send_kept()
            data = text.encode()
            rest = data if self._kept else self._send(data)
            if rest:
                self._keep(rest)
        return len(text)

    def flush(self) -> None:
        """Send what was kept, as far as there is room."""
        with self._lock:
            self._send_kept()

    def finish(self) -> None:
        """Send what was kept, and wait for its reader a little."""
        ends_at_s = time.monotonic() + FINISH_WITHIN_S
        room = select.poll()
        room.register(self._fd, select.POLLOUT)
        self.flush()
        while self._kept and (left_s := ends_at_s - time.monotonic()) > 0:
            room.poll(left_s * 1000)
            self.flush()

    def _send(self, data: bytes) -> bytes:
        """What there was no room for."""
        try:
            return data[os.write(self._fd, data) :]
        except BlockingIOError:
            return data

    def _send_kept(self) -> None:
        while self._kept:
            first = self._kept.popleft()
            rest = self._send(first)
            self._kept_bytes -= len(first) - len(rest)
            if rest:
                self._kept.appendleft(rest)
                return
        if self._lost_lines:
            line = _line_of_loss(self._lost_lines)
            self._lost_lines = 0
            rest = self._send(line)
            if rest:
                self._keep(rest)

    def _keep(self, data: bytes) -> None:
        # The rest of a line that has been begun always finds nothing kept.
        if self._kept and self._kept_bytes + len(data) > MOST_KEPT_BYTES:
            self._lost_lines += data.count(b"\n")
        else:
            self._kept.append(data)
            self._kept_bytes += len(data)
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return  # the next line looks for room, or the end
        if loop is not self._asked:
            self._asked = loop
            loop.call_later(RETRY_S, self._retry)

    def _retry(self) -> None:
        asked, self._asked = self._asked, None
        try:
            self.flush()
        except OSError:
            return  # the next line is told of it
        if self._kept and asked is not None:
            self._asked = asked
            asked.call_later(RETRY_S, self._retry)


def _line_of_loss(lines: int) -> bytes:
    line = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "level": "warning",
        "logger": __name__,
        "message": "log lines were lost",
        "lines": lines,
    }
    return msgspec.json.encode(line) + b"\n"
