"""
The client side of streams: opens many, and times every event by the stamp it carries.

    python -m benchmarks.load_streams < a job as JSON

Says `window` when all streams are open and have settled and `end` when the window has
passed, one a line, so that the runner can look at the gateway at these moments; last
the figures, as JSON. A client's own lateness counts as latency: its CPU share, which
the runner prints, says whether it was the limit.
"""

from __future__ import annotations

import json
import re
import socket
import sys
import time
from array import array
from bisect import bisect_right
from typing import Any, Final

from benchmarks.figures import percentile
from benchmarks.loopback import loopback_port
from benchmarks.poller import READ, WRITE, Poller, start_connecting, stop_collecting
from benchmarks.requests import Target, raw_request, stream_body
from benchmarks.upstream_stream import INTERVAL_NS

# So that no event of the window is missed for being late by less than this.
GRACE_S: Final = 0.5
END_WITHIN_S: Final = 1.5
ON_TIME_NS: Final = 100_000_000
_READ_BYTES: Final = 16_384
_LINE_FEED: Final = 0x0A
# How long a turn may wait for sockets: streams are opened in steps of this.
_TURN_S: Final = 0.001

_STAMPS: Final = re.compile(rb"t([0-9]{19}) ")
_EVENTS_PER_S: Final = 1_000_000_000 // INTERVAL_NS


class Timeline:
    """When a job's streams are opened, measured and over; ns of CLOCK_MONOTONIC."""

    def __init__(self, job: dict[str, Any], start_ns: int) -> None:
        self.streams: int = job["streams"]
        self.start_ns = start_ns
        self.gap_ns = int(job["ramp_s"] * 1e9 / self.streams)
        self.window_ns = start_ns + int((job["ramp_s"] + job["settle_s"]) * 1e9)
        self.end_ns = self.window_ns + int(job["window_s"] * 1e9)
        self.over_ns = self.end_ns + int(GRACE_S * 1e9)

    def opens_ns(self, number: int) -> int:
        return self.start_ns + number * self.gap_ns

    def events_of(self, number: int) -> int:
        """Enough for a stream to last until everything is over."""
        lasts_s = (self.over_ns - self.opens_ns(number)) / 1e9
        return int(lasts_s * _EVENTS_PER_S) + 1


class Stream:
    """One stream and how far it is."""

    __slots__ = ("asked_ns", "cut", "has_token", "is_answered", "number", "socket")

    def __init__(self, number: int, connection: socket.socket) -> None:
        self.number = number
        self.socket = connection
        self.asked_ns = 0
        self.is_answered = False
        self.has_token = False
        # The start of an event whose rest has not come yet.
        self.cut = b""


class Streams:
    """All streams of one job."""

    def __init__(self, target: Target, timeline: Timeline) -> None:
        self._target = target
        self._timeline = timeline
        self._poller = Poller()
        self._open: dict[int, Stream] = {}
        self.latencies_ns = array("q")
        self.first_tokens_ns: list[int] = []
        # All that came in the window, and of these what was sent in it too: a backlog
        # that drains is work done, and nothing delivered.
        self.in_window = 0
        self.delivered = 0
        self.ended = 0
        self.errors = 0

    @property
    def open(self) -> int:
        return len(self._open)

    def open_next(self, number: int) -> None:
        stream = Stream(number, start_connecting(self._target.port))
        self._open[stream.socket.fileno()] = stream
        self._poller.watch(stream.socket.fileno(), WRITE)

    def work(self, within_s: float) -> None:
        """Read and time what has come."""
        for fd, _ in self._poller.ready(within_s):
            stream = self._open[fd]
            try:
                if stream.asked_ns:
                    self._read(stream)
                else:
                    self._ask(stream)
            except OSError:
                self._close(stream, is_error=True)

    def _ask(self, stream: Stream) -> None:
        body = stream_body(self._timeline.events_of(stream.number))
        stream.asked_ns = time.monotonic_ns()
        stream.socket.send(raw_request(self._target, body, stream.number))
        self._poller.change(stream.socket.fileno(), READ)

    def _read(self, stream: Stream) -> None:
        data = stream.socket.recv(_READ_BYTES)
        now_ns = time.monotonic_ns()
        if not stream.is_answered:
            stream.is_answered = data.startswith(b"HTTP/1.1 200")
        if not data or not stream.is_answered:
            self._close(stream, is_error=True)
            return
        if stream.cut or data[-1] != _LINE_FEED:
            data, stream.cut = _whole_lines(stream.cut + data)
        stamps = _STAMPS.findall(data)
        if stamps:
            if not stream.has_token:
                stream.has_token = True
                self.first_tokens_ns.append(now_ns - stream.asked_ns)
            self._count(stamps, now_ns)
        if b'data: {"error"' in data:
            # Said within the stream, as a gateway does whose answer has begun.
            self._close(stream, is_error=True)
            return
        if b"[DONE]" in data:
            self.ended += 1
            self._close(stream, is_error=False)

    def _count(self, stamps: list[bytes], now_ns: int) -> None:
        timeline = self._timeline
        is_in_window = timeline.window_ns <= now_ns < timeline.end_ns
        if is_in_window:
            self.in_window += len(stamps)
        for stamp in stamps:
            sent_ns = int(stamp)
            if timeline.window_ns <= sent_ns < timeline.end_ns:
                self.latencies_ns.append(now_ns - sent_ns)
                self.delivered += is_in_window

    def _close(self, stream: Stream, *, is_error: bool) -> None:
        self.errors += is_error
        fd = stream.socket.fileno()
        self._poller.forget(fd)
        del self._open[fd]
        stream.socket.close()

    def close(self) -> None:
        """
        Leave those that did not end; an error only if no event ever came.

        What came late has made its figures worse, and may be the load's own lateness.
        """
        for stream in list(self._open.values()):
            self._close(stream, is_error=not stream.has_token)


def _whole_lines(data: bytes) -> tuple[bytes, bytes]:
    end = data.rfind(b"\n") + 1
    return data[:end], data[end:]


def run(job: dict[str, Any]) -> dict[str, float]:
    """One job from its first stream to its last figure."""
    port = loopback_port(job["url"])
    target = Target(port, tuple(tuple(lines) for lines in job["header_sets"]))
    timeline = Timeline(job, time.monotonic_ns())
    streams = Streams(target, timeline)
    stop_collecting()
    opened = 0
    said = [(timeline.end_ns, "end"), (timeline.window_ns, "window")]
    last_ns = timeline.over_ns + int(END_WITHIN_S * 1e9)
    while (now_ns := time.monotonic_ns()) < last_ns:
        while opened < timeline.streams and now_ns >= timeline.opens_ns(opened):
            streams.open_next(opened)
            opened += 1
        if said and now_ns >= said[-1][0]:
            print(said.pop()[1], flush=True)
        if not said and not streams.open:
            break
        streams.work(_TURN_S)
    streams.close()
    return _figures(streams, timeline)


def _figures(streams: Streams, timeline: Timeline) -> dict[str, float]:
    window_s = (timeline.end_ns - timeline.window_ns) / 1e9
    nominal = timeline.streams * _EVENTS_PER_S * window_s
    latencies = sorted(streams.latencies_ns)
    on_time = bisect_right(latencies, ON_TIME_NS)
    return {
        "events": streams.in_window,
        "delivered_share": streams.delivered / nominal,
        "on_time_share": on_time / nominal,
        "relay_p50_ms": percentile(latencies, 0.50) / 1e6,
        "relay_p99_ms": percentile(latencies, 0.99) / 1e6,
        "first_token_ms": percentile(sorted(streams.first_tokens_ns), 0.5) / 1e6,
        "answered": len(streams.first_tokens_ns),
        "ended": streams.ended,
        "errors": streams.errors,
    }


def main() -> None:
    print(json.dumps(run(json.load(sys.stdin))), flush=True)


if __name__ == "__main__":
    main()
