"""
Ask a gateway on this machine how it is: a probe that starts in a twentieth of a second.

For pods whose API only their own containers reach, and images without curl.
"""

from __future__ import annotations

import http.client
import socket
from pathlib import Path
from typing import Final

# A live gateway answers in a millisecond; probes ask every few seconds.
TIMEOUT_S: Final = 2.0


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def ask(path: str, *, host: str, port: int, uds: Path | None = None) -> str | None:
    """None where the gateway answers this path with 200, else what is wrong."""
    connection = (
        http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
        if uds is None
        else _UnixConnection(uds)
    )
    where = f"{host}:{port}" if uds is None else str(uds)
    try:
        connection.request("GET", path)
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return f"{where}: {str(error) or type(error).__name__}"
    finally:
        connection.close()
    return None if status == 200 else f"{where}{path} answers {status}"
