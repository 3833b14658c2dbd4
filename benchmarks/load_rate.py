"""
A constant rate of whole completions, whatever the answers do.

    python -m benchmarks.load_rate < a job as JSON

Open loop: a request is due at its time, and its latency counts from then, also while it
waits for a free connection. A gateway that stalls is charged for every request that
should have been sent meanwhile. Prints its figures as JSON.
"""

from __future__ import annotations

import json
import re
import socket
import sys
import time
from collections import deque
from typing import Any, Final

from benchmarks.figures import percentile
from benchmarks.loopback import loopback_port
from benchmarks.poller import READ, Poller, stop_collecting
from benchmarks.requests import Target, raw_request, whole_body

END_WITHIN_S: Final = 3.0
_READ_BYTES: Final = 65_536
_LENGTH: Final = re.compile(rb"content-length: *([0-9]+)", re.IGNORECASE)


class Connection:
    """One of the pool: idle, or busy with the request that was due at `due_ns`."""

    __slots__ = ("due_ns", "received", "socket")

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=5)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received = b""
        self.due_ns = 0


class Rate:
    """The requests of one job; those of the warm-up are sent and not counted."""

    def __init__(self, target: Target, *, connections: int, count_from_ns: int) -> None:
        self._target = target
        self._body = whole_body()
        self._poller = Poller()
        pool = [Connection(target.port) for _ in range(connections)]
        self._by_fd = {each.socket.fileno(): each for each in pool}
        for fd in self._by_fd:
            self._poller.watch(fd, READ)
        self._idle = deque(pool)
        self._due: deque[int] = deque()
        self._turn = 0
        self._count_from_ns = count_from_ns
        self.latencies_ns: list[int] = []
        self.asked = 0
        self.errors = 0

    @property
    def unanswered(self) -> int:
        return len(self._due) + len(self._by_fd) - len(self._idle)

    def add(self, due_ns: int) -> None:
        """A request is due: it goes out now, or with the next free connection."""
        self.asked += due_ns >= self._count_from_ns
        self._due.append(due_ns)
        self._send()

    def work(self, within_s: float) -> None:
        for fd, _ in self._poller.ready(within_s):
            self._read(self._by_fd[fd])

    def _send(self) -> None:
        while self._due and self._idle:
            connection = self._idle.popleft()
            connection.due_ns = self._due.popleft()
            self._turn += 1
            request = raw_request(self._target, self._body, self._turn)
            connection.socket.send(request)

    def _read(self, connection: Connection) -> None:
        try:
            data = connection.socket.recv(_READ_BYTES)
        except OSError:
            data = b""
        if not data:
            # Never given back: the pool is smaller by one, and what was asked is lost.
            self.errors += 1
            self._poller.forget(connection.socket.fileno())
            return
        connection.received += data
        if not is_complete(connection.received):
            return
        if connection.due_ns >= self._count_from_ns:
            self.latencies_ns.append(time.monotonic_ns() - connection.due_ns)
            self.errors += not connection.received.startswith(b"HTTP/1.1 200")
        connection.received = b""
        self._idle.append(connection)
        self._send()


def is_complete(received: bytes) -> bool:
    """Whether these bytes are a whole answer, by its length or its last chunk."""
    head, end, body = received.partition(b"\r\n\r\n")
    if not end:
        return False
    length = _LENGTH.search(head)
    if length:
        return len(body) >= int(length[1])
    return body.endswith(b"0\r\n\r\n")


def run(job: dict[str, Any]) -> dict[str, float]:
    port = loopback_port(job["url"])
    target = Target(port, tuple(tuple(lines) for lines in job["header_sets"]))
    gap_ns = int(1e9 / job["per_s"])
    next_ns = time.monotonic_ns() + gap_ns
    count_from_ns = next_ns + int(job["warm_s"] * 1e9)
    end_ns = count_from_ns + int(job["window_s"] * 1e9)
    rate = Rate(target, connections=job["connections"], count_from_ns=count_from_ns)
    stop_collecting()
    last_ns = end_ns + int(END_WITHIN_S * 1e9)
    while (now_ns := time.monotonic_ns()) < last_ns:
        while next_ns <= now_ns and next_ns < end_ns:
            rate.add(next_ns)
            next_ns += gap_ns
        if next_ns >= end_ns and not rate.unanswered:
            break
        wake_ns = next_ns if next_ns < end_ns else last_ns
        rate.work(max(wake_ns - time.monotonic_ns(), 0) / 1e9)
    latencies = sorted(rate.latencies_ns)
    return {
        "p50_ms": percentile(latencies, 0.50) / 1e6,
        "p99_ms": percentile(latencies, 0.99) / 1e6,
        "asked": rate.asked,
        "errors": rate.errors + rate.asked - len(latencies),
    }


def main() -> None:
    print(json.dumps(run(json.load(sys.stdin))), flush=True)


if __name__ == "__main__":
    main()
