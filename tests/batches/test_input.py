"""Input files of the worst kind cost neither a core nor the memory."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final

import pytest

from gateway.batches.lines import CheckedLine, check_line, parse_of
from gateway.batches.pace import Pace
from gateway.batches.planning import MAX_LINES, Cutter, chunk_key
from gateway.batches.planning import Plan as CutPlan
from gateway.files.service import split_lines
from gateway.storage.opening import open_storage
from policies.plans import Plan
from tests.batches.conftest import ENDPOINT, BatchHouse, StartHouse, jsonl, line

MIB: Final = 1024 * 1024
PARSE: Final = parse_of(ENDPOINT, "auto", "both")


def check(raw: bytes, number: int) -> CheckedLine:
    return check_line(raw, number, ENDPOINT, PARSE, 512, Plan(plan="open"))


async def pieces(*all_pieces: bytes) -> AsyncIterator[bytes]:
    for piece in all_pieces:
        yield piece


class Input:
    """Lines as they are asked for, and how many bytes of them are nowhere else."""

    def __init__(self, folder: Path, count: int, make: Callable[[int], bytes]) -> None:
        self._folder = folder
        self._count = count
        self._make = make
        self._read_bytes = 0
        self.most_held_bytes = 0

    async def lines(self) -> AsyncIterator[bytes]:
        for number in range(self._count):
            raw = self._make(number)
            self._read_bytes += len(raw)
            if number % 20 == 0:
                self._look()
            yield raw

    def _look(self) -> None:
        kept = sum(each.stat().st_size for each in self._folder.rglob("chunk-*"))
        self.most_held_bytes = max(self.most_held_bytes, self._read_bytes - kept)

    async def cut(self) -> CutPlan:
        cutter = Cutter(open_storage(self._folder.as_uri()), "batch", check, Pace())
        return await cutter.cut(self.lines(), MAX_LINES)


async def test_a_file_of_one_line_is_looked_through_once() -> None:
    """It was looked through anew with each piece: minutes of a core for one file."""
    began_s = time.monotonic()
    found = [
        each async for each in split_lines(pieces(*[b"x" * 65_536] * 512), 64 * MIB)
    ]
    assert [32 * MIB] == [len(each) for each in found]
    assert time.monotonic() - began_s < 2


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        ((b"a\nb\n",), [b"a", b"b"]),
        ((b"a", b"b\n", b"\n", b"c"), [b"ab", b"", b"c"]),
        ((b"abc", b"def\n", b"gh"), [b"abcd", b"gh"]),
        ((b"abcdef\nabcdef\n",), [b"abcd", b"abcd"]),
        ((), []),
    ],
)
async def test_a_line_is_cut_where_it_is_too_long_anyway(
    content: tuple[bytes, ...], lines: list[bytes]
) -> None:
    assert lines == [each async for each in split_lines(pieces(*content), 3)]


async def test_lines_of_a_mebibyte_are_not_kept_by_the_hundred(tmp_path: Path) -> None:
    def large(number: int) -> bytes:
        return json.dumps(line(str(number), "x" * 900_000)).encode()

    file = Input(tmp_path, 60, large)
    plan = await file.cut()
    assert 60 == plan.lines
    assert file.most_held_bytes < 16 * MIB


async def test_a_model_for_each_line_does_not_keep_the_whole_file(
    tmp_path: Path,
) -> None:
    """Each has a chunk of its own, which may not grow until the end."""

    def alone(number: int) -> bytes:
        made = line(str(number), "x" * 100_000, model=f"model-{number}")
        return json.dumps(made).encode()

    file = Input(tmp_path, 600, alone)
    plan = await file.cut()
    assert (600, None) == (plan.chunks, plan.model)
    assert file.most_held_bytes < 40 * MIB
    assert (tmp_path / chunk_key("batch", 599)).exists()


async def test_a_line_that_is_too_long_is_named(house: BatchHouse) -> None:
    started = await house.start([line("a"), line("b", "x" * (2 * MIB))])
    ended = await house.ended(started["id"])
    (error,) = ended["errors"]["data"]
    assert ("line_too_long", 2) == (error["code"], error["line"])


@pytest.mark.parametrize(
    "limit", ["0", "101", "000000001999", "000000001" + "0" * 5000]
)
async def test_a_limit_beyond_a_page_is_refused(house: BatchHouse, limit: str) -> None:
    """Also one whose first digits are a good one, or that nobody can read."""
    refused = await house.gateway.get(f"/v1/batches?limit={limit}")
    assert (400, "limit") == (refused.status_code, refused.json()["error"]["param"])


async def test_windows_line_ends_and_blank_lines_are_no_mistake(
    house: BatchHouse,
) -> None:
    content = jsonl([line("a"), line("b")]).replace(b"\n", b"\r\n\r\n")
    uploaded = await house.upload(content)
    created = await house.gateway.post(
        "/v1/batches",
        input_file_id=uploaded.json()["id"],
        endpoint=ENDPOINT,
        completion_window="24h",
    )
    ended = await house.ended(created.json()["id"])
    assert {"total": 2, "completed": 2, "failed": 0} == ended["request_counts"]


async def test_a_line_larger_than_the_plan_lets_a_request_be_is_refused(
    start_house: StartHouse,
) -> None:
    """As the call alone would have been, and the others are run."""
    plan = "plan: small\nrequest: {max_input_tokens: 50}\n"
    house = await start_house({"small": plan})

    started = await house.start([line("a"), line("b", "word " * 200)], "small")
    ended = await house.ended(started["id"], "small")

    assert {"total": 2, "completed": 1, "failed": 1} == ended["request_counts"]
    (told,) = await house.lines_of(ended["error_file_id"], "small")
    code = told["response"]["body"]["error"]["code"]
    assert ("b", "context_length_exceeded") == (told["custom_id"], code)
