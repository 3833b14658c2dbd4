"""Lines of one tick leave in one write, in order, and none is lost."""

from __future__ import annotations

import asyncio
import io
import logging
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from gateway.json_lines import MOST_HELD_BYTES, JsonLines


class Written(io.StringIO):
    """A stream that remembers its writes."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[str] = []

    def write(self, text: str, /) -> int:
        self.writes.append(text)
        return super().write(text)


class Broken(io.StringIO):
    """A pipe whose reader has left, until it is back."""

    is_broken = True

    def write(self, text: str, /) -> int:
        if self.is_broken:
            raise BrokenPipeError
        return super().write(text)


@pytest.fixture
def stream() -> Written:
    return Written()


@pytest.fixture
def lines(stream: Written) -> JsonLines:
    return JsonLines(stream)


@pytest.fixture
def other(lines: JsonLines) -> Iterator[logging.Logger]:
    """Another logger of the process, whose records the same handler writes."""
    logger = logging.getLogger("tests.json_lines")
    logger.handlers, logger.propagate = [lines], False
    yield logger
    logger.handlers, logger.propagate = [], True


async def next_tick() -> None:
    await asyncio.sleep(0)


async def test_the_lines_of_a_tick_are_one_write(
    lines: JsonLines, stream: Written
) -> None:
    """Thirty requests that end together cost one system call."""
    for number in range(30):
        lines.write_line(b"%d\n" % number)
    assert stream.writes == []
    await next_tick()

    assert stream.writes == ["".join(f"{number}\n" for number in range(30))]


async def test_each_tick_writes_its_own(lines: JsonLines, stream: Written) -> None:
    """A line does not wait for the next."""
    for line in (b"a\n", b"b\n"):
        lines.write_line(line)
        await next_tick()

    assert stream.writes == ["a\n", "b\n"]


def test_without_a_loop_a_line_is_written_at_once(
    lines: JsonLines, stream: Written
) -> None:
    """Nobody would come to write it later."""
    lines.write_line(b"a\n")

    assert stream.writes == ["a\n"]


async def test_much_is_not_held(lines: JsonLines, stream: Written) -> None:
    """What fills half a pipe leaves before the tick is over."""
    line = b"x" * (MOST_HELD_BYTES // 2 - 1) + b"\n"
    for _ in range(3):
        lines.write_line(line)
    assert stream.writes == [line.decode() * 2]
    lines.write_line(b"y" * MOST_HELD_BYTES)
    assert len(stream.writes) == 2
    await next_tick()

    assert stream.getvalue() == line.decode() * 3 + "y" * MOST_HELD_BYTES
    assert len(stream.writes) == 2


async def test_what_others_log_comes_after_it(
    lines: JsonLines, stream: Written, other: logging.Logger
) -> None:
    """Whoever reads the log sees causes before effects."""
    lines.write_line(b"first\n")
    other.warning("second")
    lines.write_line(b"third\n")
    await asyncio.to_thread(other.warning, "fourth")
    await next_tick()

    text = stream.getvalue().splitlines()
    assert [text[0], text[2]] == ["first", "third"]
    assert ["second" in text[1], "fourth" in text[3]] == [True, True]


def test_a_closed_loop_loses_nothing(lines: JsonLines, stream: Written) -> None:
    """Its last tick never ends; the next line, flush or close brings what was held."""

    def leave(loop: asyncio.AbstractEventLoop, line: bytes) -> None:
        loop.stop()
        lines.write_line(line)

    for line, bring in ((b"a\n", lines.flush), (b"b\n", lines.close)):
        loop = asyncio.new_event_loop()
        loop.call_soon(leave, loop, line)
        loop.run_forever()
        loop.close()
        assert line.decode() not in stream.getvalue()
        bring()
        assert stream.getvalue().endswith(line.decode())


def test_a_loop_after_a_closed_one_is_asked_anew(
    lines: JsonLines, stream: Written
) -> None:
    """A process may run several, one after the other."""
    loop = asyncio.new_event_loop()
    loop.call_soon(loop.stop)
    loop.call_soon(lines.write_line, b"a\n")
    loop.run_forever()
    loop.close()

    async def write() -> None:
        lines.write_line(b"b\n")
        await next_tick()
        assert stream.writes[-1].endswith("b\n")

    asyncio.run(write())
    assert stream.getvalue() == "a\nb\n"


ENDS_IN_A_TICK = """
import asyncio, logging
from gateway.access_log import configure_logging
configure_logging("info")
loop = asyncio.new_event_loop()
loop.call_soon(loop.stop)
loop.call_soon(logging.getLogger().handlers[0].write_line, b"held\\n")
loop.run_forever()
"""


def test_the_end_of_the_process_writes_what_is_held() -> None:
    """Nobody has to remember to."""
    done = subprocess.run(
        [sys.executable, "-c", ENDS_IN_A_TICK], capture_output=True, check=True
    )

    assert done.stdout == b"held\n"


async def test_a_broken_pipe_breaks_nothing_else(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """logging's own complaint on standard error, and the next lines are written."""
    stream = Broken()
    lines = JsonLines(stream)
    lines.write_line(b"lost\n")
    await next_tick()
    assert "BrokenPipeError" in capsys.readouterr().err

    stream.is_broken = False
    lines.write_line(b"written\n")
    await next_tick()
    assert stream.getvalue() == "written\n"


async def test_what_cannot_be_written_is_complained_of_seldom(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A full disk would have a KB more to take with every request."""
    lines = JsonLines(Broken())
    for _ in range(20):
        lines.write_line(b"lost\n")
        await next_tick()
        lines.emit(logging.makeLogRecord({"msg": "lost, too"}))

    assert capsys.readouterr().err.count("Logging error") == 1


def test_a_closed_stream_breaks_nothing_else(
    lines: JsonLines, stream: Written, capsys: pytest.CaptureFixture[str]
) -> None:
    """As it is when an embedding application closes its standard output."""
    stream.close()
    lines.write_line(b"lost\n")

    assert "ValueError" in capsys.readouterr().err


async def test_one_line_that_cannot_be_encoded_is_alone_in_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A client's model name must not hide other clients' requests."""
    raw = io.BytesIO()
    lines = JsonLines(io.TextIOWrapper(raw, encoding="ascii"))
    for line in ("a\n", "ü\n", "b\n"):
        lines.write_line(line.encode())
    await next_tick()

    assert raw.getvalue() == b"a\nb\n"
    assert capsys.readouterr().err.count("Logging error") == 1


def test_records_are_json_with_their_facts(
    stream: Written, other: logging.Logger
) -> None:
    """With the exception, where there is one."""
    try:
        raise KeyError("gone")
    except KeyError:
        other.exception("it %s", "failed", extra={"facts": {"error_id": "abc"}})

    line: dict[str, Any] = msgspec.json.decode(stream.getvalue())
    assert list(line)[:5] == ["time", "level", "logger", "message", "error_id"]
    assert (line["level"], line["message"]) == ("error", "it failed")
    assert "KeyError: 'gone'" in line["exception"]


async def test_lines_that_a_pipe_would_part_go_apart() -> None:
    """Several processes write to it, and would write between the parts."""
    stream = Written()
    lines = JsonLines(stream, most_together_bytes=10)
    for line in (b"1234\n", b"678\n", b"bc\n", b"too long for ten\n", b"z\n"):
        lines.write_line(line)
    await next_tick()

    assert stream.writes == ["1234\n678\n", "bc\n", "too long for ten\n", "z\n"]
