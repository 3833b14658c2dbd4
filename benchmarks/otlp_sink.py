"""
A collector that takes every OTLP request over HTTP and forgets it.

`python -m benchmarks.otlp_sink PORT`; it ends when it is told to.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from typing import Final

_TAKEN: Final = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\n"
    b"content-length: 0\r\n\r\n"
)


async def _take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = head.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0]
            await reader.readexactly(int(length))
            writer.write(_TAKEN)
    writer.close()


async def _serve(port: int) -> None:
    server = await asyncio.start_server(_take, "127.0.0.1", port)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
