"""What a large object costs: the growth of a process that writes and reads one."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.storage.objects import MIB

SIZE = 64 * MIB
MOST_GROWTH = 16 * MIB

MEASURED = """
import asyncio, hashlib, json, re, sys
from pathlib import Path
from tests.storage.objects import MIB, pattern, read, streamed, write
from gateway.storage.multipart import FormBounds, parts
from gateway.storage.opening import open_storage

SIZE = int(sys.argv[2])

def peak_bytes():
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1]) * 1024

def form():
    yield (b'--b\\r\\nContent-Disposition: form-data; name="file"; '
           b'filename="a"\\r\\n\\r\\n')
    yield from pattern(SIZE)
    yield b"\\r\\n--b--\\r\\n"

async def upload(storage):
    bounds = FormBounds(max_bytes=2 * SIZE)
    kind = b"multipart/form-data; boundary=b"
    async for part in parts(kind, streamed(form()), bounds):
        return await storage.put("a", aiter(part))

async def main():
    storage = open_storage(sys.argv[1])
    await write(storage, "small", b"1" * 1000)
    await read(storage, "small")
    before = peak_bytes()
    stored = await upload(storage)
    written, digest = peak_bytes(), hashlib.sha256()
    async for chunk in storage.open("a"):
        digest.update(chunk)
    assert stored.sha256 == digest.hexdigest()
    await storage.aclose()
    print(json.dumps([stored.bytes, written - before, peak_bytes() - before]))

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_an_object_is_never_held(storage_url: str) -> None:
    told = subprocess.run(
        [sys.executable, "-c", MEASURED, storage_url, str(SIZE)],
        capture_output=True,
        check=True,
    )

    stored, growth_written, growth = json.loads(told.stdout)
    print(f"{storage_url.partition(':')[0]}: a form of {SIZE // MIB} MiB takes", end="")
    print(f" {growth_written / MIB:.1f} MiB to write, {growth / MIB:.1f} in all")
    assert SIZE == stored
    assert growth < MOST_GROWTH
