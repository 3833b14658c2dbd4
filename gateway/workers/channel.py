"""The supervisor's end of its channel to one worker; it never waits."""

from __future__ import annotations

import socket
from typing import Final

import msgspec

from gateway.workers.messages import (
    BrokenChannel,
    Frames,
    OfWorker,
    ToWorker,
    frame_of,
)

_READ_BYTES: Final = 256 * 1024

_decode: Final = msgspec.msgpack.Decoder(OfWorker).decode


class Channel:
    """Messages out, as fast as the worker reads them, and messages in."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.socket = sock
        self._unsent = bytearray()
        self._frames = Frames()

    def fileno(self) -> int:
        return self.socket.fileno()

    @property
    def unsent_bytes(self) -> int:
        return len(self._unsent)

    def send(self, message: ToWorker) -> None:
        """Send it, or as much of it as fits now; the rest waits for `flush`."""
        self._unsent += frame_of(message)
        self.flush()

    def flush(self) -> None:
        try:
            while self._unsent:
                sent = self.socket.send(self._unsent)
                del self._unsent[:sent]
        except BlockingIOError:
            pass  # the rest leaves when the selector says that there is room
        except OSError:
            # It has ended, which reading tells too.
            self._unsent.clear()

    def receive(self) -> tuple[list[OfWorker], bool]:
        """All that has arrived, and whether more may come."""
        messages: list[OfWorker] = []
        try:
            while data := self.socket.recv(_READ_BYTES):
                messages += [_decode(payload) for payload in self._frames.feed(data)]
        except BlockingIOError:
            return messages, True
        except (OSError, BrokenChannel, msgspec.DecodeError):
            pass  # it has ended or cannot be understood: either way it is hung up on
        return messages, False

    def close(self) -> None:
        self.socket.close()
