"""
Signals as something to wait for beside the workers' channels.

No event loop: the supervisor forks whenever a worker has died, and a loop, or a thread,
does not survive that whole.
"""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

STOPPING: Final = (signal.SIGTERM, signal.SIGINT)
_HEARD: Final = (*STOPPING, signal.SIGCHLD)


class Signals:
    """What has come since it was last looked at; readable when something has."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in _HEARD:
            # A handler has to be there for Python to write the signal's number.
            signal.signal(number, lambda *_: None)

    def fileno(self) -> int:
        return self._reader.fileno()

    def read(self) -> list[signal.Signals]:
        numbers = b""
        with contextlib.suppress(BlockingIOError):
            while more := self._reader.recv(4096):
                numbers += more
        return [signal.Signals(number) for number in numbers]

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let no signal come while the block runs, in which this process is two."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _HEARD)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _HEARD)

    def leave_to_worker(self) -> None:
        """
        In a worker: hear none of them any more.

        SIGTERM stays held until it is listened for. A Ctrl-C is sent to all processes
        of the terminal, and what becomes of the workers is the supervisor's to say.
        """
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for number in (signal.SIGTERM, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGCHLD))
        self.close()

    def close(self) -> None:
        self._reader.close()
        self._writer.close()
