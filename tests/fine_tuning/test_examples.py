"""Training files are checked as they are read."""

from __future__ import annotations

from collections.abc import AsyncIterator

from gateway.fine_tuning.examples import CHECKED_TOGETHER, find_problem


async def test_a_file_of_tiny_lines_is_not_held_in_memory() -> None:
    """A megabyte of them would take a hundred, and the first is wrong already."""
    read = 0

    async def lines() -> AsyncIterator[bytes]:
        nonlocal read
        for _ in range(CHECKED_TOGETHER):
            read += 1
            yield b"1"

    problem = await find_problem(lines())

    assert problem is not None
    assert problem.message.startswith("Line 1 ")
    assert read < 10_000
