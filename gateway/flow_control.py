"""Back-pressure of one client connection, both ways."""

from __future__ import annotations

import asyncio


class FlowControl:
    """Whether the client is read from, and whether it reads what is written to it."""

    __slots__ = ("_drained", "_transport", "is_read_paused", "write_paused")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.is_read_paused = False
        self.write_paused = False
        # Who waits for the client to catch up; made when somebody does.
        self._drained: asyncio.Future[None] | None = None

    async def drain(self) -> None:
        """Until the client has caught up, or is gone."""
        while self.write_paused:
            if self._drained is None:
                self._drained = asyncio.get_running_loop().create_future()
            # One that leaves must not take the others' wait with it.
            await asyncio.shield(self._drained)

    def pause_reading(self) -> None:
        if not self.is_read_paused:
            self.is_read_paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self.is_read_paused:
            self.is_read_paused = False
            self._transport.resume_reading()

    def pause_writing(self) -> None:
        self.write_paused = True

    def resume_writing(self) -> None:
        self.write_paused = False
        drained, self._drained = self._drained, None
        if drained is not None:
            drained.set_result(None)
