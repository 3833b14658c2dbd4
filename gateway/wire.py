"""The client's end of one exchange, as the server gives it to our handlers."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeAlias

import msgspec

from gateway.asgi import Scope
from gateway.errors import Header

# A host and port; of a Unix socket its path and None.
Peer: TypeAlias = tuple[str, int | None]


class RequestHead(msgspec.Struct, frozen=True, gc=False):
    """What a request says before its body."""

    method: str
    version: str
    # Percent-decoded, and as it came.
    path: str
    raw_path: bytes
    query: bytes
    # Names in lower case.
    headers: list[Header]
    client: Peer | None
    server: Peer | None

    def to_scope(self) -> Scope:
        """The same in ASGI's form, for what Litestar answers."""
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": self.version,
            "method": self.method,
            "scheme": "http",
            "server": self.server,
            "client": self.client,
            "path": self.path,
            "raw_path": self.raw_path,
            "query_string": self.query,
            "root_path": "",
            "headers": self.headers,
            "state": {},
            "extensions": {},
        }


class Wire(Protocol):
    """What is written is on its way at once; only what is `async` waits."""

    @property
    def head(self) -> RequestHead: ...

    async def receive(self) -> dict[str, Any]:
        """What came of the body, as ASGI's message."""
        ...

    async def send(self, message: dict[str, Any]) -> None:
        """Write a message as ASGI says."""
        ...

    @property
    def headers(self) -> dict[bytes, bytes]:
        """The request's, by lower-case name; of several of a name, the last."""
        ...

    @property
    def is_paused(self) -> bool:
        """Whether the client reads slower than is written to it."""
        ...

    @property
    def is_gone(self) -> bool:
        """Whether the client has left."""
        ...

    async def catch_up(self, timeout_s: float) -> None:
        """Until it has read what was written, or is gone; ClientGone if it does not."""
        ...

    def when_gone(self, tell: Callable[[], None] | None) -> None:
        """Call this once the client leaves; None forgets it."""
        ...

    def take_body(self) -> bytes | None:
        """The body, if all of it has arrived and none was taken yet."""
        ...

    def begin(self, status: int, headers: list[Header]) -> None:
        """Write the head of an answer whose length its headers give, or nobody."""
        ...

    def write(self, data: bytes, *, more: bool) -> None:
        """Write some of the body, or with `more` false the last of it."""
        ...

    def push(self, data: bytes) -> bool:
        """As `write` for an event of a stream; False if the client lags behind."""
        ...

    def answer(self, status: int, headers: list[Header], body: bytes) -> None:
        """Write a whole answer, whose headers give its length."""
        ...

    def abort(self) -> None:
        """Cut the connection."""
        ...


# What answers a request.
Application: TypeAlias = Callable[[Wire], Coroutine[Any, Any, None]]
