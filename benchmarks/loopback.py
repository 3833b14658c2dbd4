"""The one rule about addresses: load goes to this machine and nowhere else."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit


class NotLoopback(ValueError):
    """An address that a load tool refuses."""


def loopback_port(url: str) -> int:
    """The port of a loopback http URL with an explicit port; refuses anything else."""
    parts = urlsplit(url)
    if parts.scheme != "http" or not is_loopback(parts.hostname) or not parts.port:
        raise NotLoopback(f"{url} is not http://127.0.0.1:PORT, and gets no load")
    return parts.port


def is_loopback(host: str | None) -> bool:
    """Whether a host is a literal loopback address; a name could resolve anywhere."""
    try:
        return host is not None and ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
