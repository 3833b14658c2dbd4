"""A pipe that nobody reads holds up nobody, and tells what was lost in it."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from gateway.log_pipe import MOST_KEPT_BYTES, LogPipe, without_waiting
from tests.gateway_under_test import until


class Pipe:
    """Both ends of a pipe; lines of a KiB, numbered."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        with open(self.writer, "w", closefd=False) as shared:
            output = without_waiting(shared)
        assert isinstance(output, LogPipe)
        self.log = output
        self._sent = 0
        os.set_blocking(self.reader, False)

    def write(self, lines: int) -> None:
        for _ in range(lines):
            self.log.write(f"{self._sent:0>1023}\n")
            self._sent += 1

    def read(self) -> list[bytes]:
        """All lines that are in it now."""
        found = b""
        while True:
            try:
                found += os.read(self.reader, 2**16)
            except BlockingIOError:
                return found.splitlines()

    def close(self) -> None:
        for fd in (self.reader, self.writer):
            os.close(fd)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.close()


def test_what_finds_no_room_comes_in_order(pipe: Pipe) -> None:
    pipe.write(200)
    found = pipe.read()
    while len(found) < 200:
        pipe.log.flush()
        found += pipe.read()
    pipe.write(1)

    assert list(range(201)) == [int(line) for line in [*found, *pipe.read()]]


def test_a_line_is_never_cut_by_another(pipe: Pipe) -> None:
    """Of one that has been begun, the rest comes first."""
    long = "x" * 100_000 + "\n"
    pipe.log.write(long)
    pipe.log.write("next\n")
    found = b""
    while len(found) < len(long) + 5:
        found += os.read(pipe.reader, 2**16)
        pipe.log.flush()

    assert found.decode() == long + "next\n"


def test_what_is_kept_has_a_bound_and_losses_are_told(pipe: Pipe) -> None:
    """When it is read again, after what was kept and before what follows."""
    many = MOST_KEPT_BYTES // 1024 * 2
    pipe.write(many)
    found = pipe.read()
    while not found or b"lost" not in found[-1]:
        pipe.log.flush()
        found += pipe.read()
    pipe.write(1)

    *kept, told = found
    loss = msgspec.json.decode(told)
    assert loss["message"] == "log lines were lost"
    assert len(kept) + loss["lines"] == many
    assert [int(line) for line in kept] == list(range(len(kept)))
    assert many // 2 <= len(kept) < many * 0.6
    assert [many] == [int(line) for line in pipe.read()]


async def test_room_is_looked_for_though_nothing_more_is_logged(pipe: Pipe) -> None:
    pipe.write(100)
    found = pipe.read()

    def has_all() -> bool:
        found.extend(pipe.read())
        return len(found) >= 100

    await until(has_all, "the rest")
    assert [int(line) for line in found] == list(range(100))


def test_an_end_waits_for_a_slow_reader(pipe: Pipe) -> None:
    pipe.write(100)
    found: list[bytes] = []

    def read() -> None:
        os.set_blocking(pipe.reader, True)
        while sum(map(len, found)) < 100 * 1024:
            found.append(os.read(pipe.reader, 2**16))

    reading = threading.Thread(target=read)
    reading.start()
    pipe.log.finish()
    reading.join()
    assert [int(line) for line in b"".join(found).splitlines()] == list(range(100))


def test_an_end_does_not_wait_for_a_reader_that_has_stopped(pipe: Pipe) -> None:
    pipe.write(100)
    pipe.log.finish()
    assert len(pipe.read()) < 100


def test_who_left_is_told_to_the_writer(pipe: Pipe) -> None:
    pipe.write(100)
    os.close(pipe.reader)
    with pytest.raises(BrokenPipeError):
        pipe.write(1)
    pipe.reader = os.open(os.devnull, os.O_RDONLY)


def test_a_fork_does_not_write_again_what_is_kept(pipe: Pipe) -> None:
    pipe.write(100)
    pid = os.fork()
    if pid == 0:
        pipe.read()
        pipe.log.flush()
        os._exit(len(pipe.read()))
    _, status = os.waitpid(pid, 0)

    assert status == 0


def test_the_flag_is_not_set_for_others(pipe: Pipe) -> None:
    """Who has the same open file would get errors that it does not expect."""
    assert os.get_blocking(pipe.writer)


def test_what_is_no_pipe_is_written_as_ever(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as file:
        assert without_waiting(file) is file
    for other in (file, io.StringIO()):
        assert without_waiting(other) is other
