"""Where the listeners of a gateway are, and where they may not be."""

from __future__ import annotations

from ipaddress import ip_address
from itertools import combinations
from pathlib import Path
from typing import Final

import msgspec

from gateway.key_options import CommandProblem
from gateway.settings import Settings

# Hosts that are every address of the machine.
EVERYWHERE: Final = frozenset({"", "0.0.0.0", "::"})  # noqa: S104 - not listened on here


class Address(msgspec.Struct, frozen=True):
    """Where to listen: a host and port, or a Unix socket."""

    host: str = "127.0.0.1"
    port: int = 8080
    uds: Path | None = None

    @property
    def is_local(self) -> bool:
        """Whether only this machine, or this pod, can reach it."""
        if self.uds is not None or self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        if self.uds is not None:
            return f"unix:{self.uds}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"


def ops_address(settings: Settings, api: Address) -> Address | None:
    """Where the operation routes have a port of their own, if they have."""
    if settings.ops_port is None:
        return None
    return Address(settings.ops_host or api.host, settings.ops_port)


def check_exposure(settings: Settings, address: Address) -> None:
    """CommandProblem where callers without a key could be strangers."""
    if settings.sidecar_workspace is None or address.is_local:
        return
    raise CommandProblem(
        f"GATEWAY_SIDECAR_WORKSPACE lets in whoever reaches {address}: listen on"
        " loopback or a Unix socket",
        2,
    )


def check_ports(settings: Settings, address: Address) -> None:
    """
    CommandProblem where two listeners would have one port.

    Workers share theirs, and so would not notice: each connection would be answered by
    one of two protocols.
    """
    listeners = {"--port": address} if address.uds is None and address.port else {}
    ops = ops_address(settings, address)
    if ops is not None:
        listeners["GATEWAY_OPS_PORT"] = ops
    if settings.rate_limit_port is not None:
        mesh = Address(address.host, settings.rate_limit_port)
        listeners["GATEWAY_RATE_LIMIT_PORT"] = mesh
    for (one, a), (other, b) in combinations(listeners.items(), 2):
        if a.port == b.port and (a.host == b.host or {a.host, b.host} & EVERYWHERE):
            raise CommandProblem(f"{other}={b.port} is {one} already", 2)
