"""
Where a webhook may go: a guard against being sent into our own network (SSRF).

Plain HTTP, ports other than 443, names without a dot and addresses that are not of the
open internet are for what the operator's allow list names, and for nothing else. A name
is looked up once, all its addresses have to pass, and only those are connected to: what
the name says a moment later changes nothing.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from ipaddress import IPv6Address, ip_network
from typing import Final, TypeAlias

import msgspec

from gateway.webhooks.addresses import (
    Address,
    Network,
    find_address_problem,
    parse_address,
)
from policies.store.resolver import Resolver

Lookup: TypeAlias = Callable[[str, int], Awaitable[Sequence[str]]]

MAX_URL_CHARS: Final = 2048
MAX_HOST_CHARS: Final = 253
# A name with more is no receiver but a list; each would be connected to in turn.
MAX_ADDRESSES: Final = 32
DEFAULT_PORTS: Final = frozenset({443})

# Of RFC 3986 only what is written the same by everybody: no credentials, no escapes in
# the host, no fragment, no backslash, which browsers take for a slash.
_URL_FORM: Final = re.compile(
    r"(?P<scheme>https?)://"
    r"(?P<host>\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z._-]+)"
    r"(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<path>(?:/[!$%&'()*+,./:;=@0-9A-Z_a-z~-]*)?"
    r"(?:\?[!$%&'()*+,./:;=?@0-9A-Z_a-z~-]*)?)",
    # ASCII, or the Kelvin sign would be a k, and a long s one that no TLS follows.
    re.IGNORECASE | re.ASCII,
)
_LABEL_FORM: Final = re.compile(r"[0-9a-z_](?:[0-9a-z_-]{0,61}[0-9a-z_])?")
# WHATWG URL, "ends in a number": such a host is an IPv4 address in some spelling.
_NUMBER_FORM: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")
# Never resolved on the open internet (RFC 6761, 6762, 8375), or used inside clusters.
_INNER_SUFFIXES: Final = frozenset(
    {
        *("localhost", "local", "localdomain", "internal", "intranet", "lan", "corp"),
        *("home", "home.arpa", "private", "svc", "test", "invalid", "onion", "alt"),
    }
)


class TargetRefused(Exception):
    """A webhook may not go there. Says why, and never the URL, which may be secret."""


class Target(msgspec.Struct, frozen=True):
    """A URL in its parts, checked. Addresses are not: `resolve` does that."""

    host: str
    port: int
    is_tls: bool
    # With its query.
    path: str
    address: Address | None = None

    @property
    def authority(self) -> str:
        """What the header Host says."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        is_usual = self.port == (443 if self.is_tls else 80)
        return host if is_usual else f"{host}:{self.port}"


class Allowed:
    """What the operator's allow list names, and which ports are open to everybody."""

    def __init__(
        self, entries: Iterable[str] = (), *, ports: Iterable[int] = DEFAULT_PORTS
    ) -> None:
        """Entries are networks, addresses and host names; ValueError for others."""
        networks: list[Network] = []
        hosts: set[str] = set()
        for entry in entries:
            network = _to_network(entry)
            if network is not None:
                networks.append(network)
            else:
                hosts.add(_to_name(entry))
        self._networks = tuple(networks)
        self._hosts = frozenset(hosts)
        self.ports = frozenset(ports)

    @property
    def has_networks(self) -> bool:
        return bool(self._networks)

    def names(self, host: str) -> bool:
        """Whether this host, by name, may be wherever it is."""
        return host in self._hosts

    def holds(self, address: Address) -> bool:
        """Whether this address is in one of the networks."""
        return any(address in network for network in self._networks)


NOTHING_ALLOWED: Final = Allowed()


def check_url(url: str, allowed: Allowed = NOTHING_ALLOWED) -> Target:
    """
    The parts of a URL that webhooks may go to, as far as that shows without looking up
    its name; TargetRefused otherwise.
    """
    if len(url) > MAX_URL_CHARS:
        raise TargetRefused(f"must have at most {MAX_URL_CHARS} characters")
    found = _URL_FORM.fullmatch(url)
    if found is None:
        raise TargetRefused(
            "must be an https:// URL of printable ASCII, without credentials or"
            " fragment, and with names of other scripts in punycode"
        )
    is_tls = found["scheme"].lower() == "https"
    port = int(found["port"] or (443 if is_tls else 80))
    if not 1 <= port <= 65_535:
        raise TargetRefused("must have a port from 1 to 65535")
    host, address = _to_host(found["host"])
    path = found["path"] if found["path"].startswith("/") else "/" + found["path"]
    target = Target(host, port, is_tls, path, address)
    _check_target(target, allowed)
    return target


async def resolve(
    target: Target,
    allowed: Allowed = NOTHING_ALLOWED,
    *,
    deadline_s: float,
    lookup: Lookup | None = None,
) -> tuple[str, ...]:
    """
    The addresses to connect to, all of them checked.

    TargetRefused if one is not allowed, TimeoutError at the deadline of the event
    loop's clock, OSError if there is no such name.
    """
    if target.address is not None:
        found: Sequence[str] = (str(target.address),)
    else:
        async with asyncio.timeout_at(deadline_s):
            found = await (lookup or look_up)(target.host, target.port)
    addresses = tuple(dict.fromkeys(found))
    if not addresses:
        raise OSError("the host has no address")
    if len(addresses) > MAX_ADDRESSES:
        raise TargetRefused(f"has more than {MAX_ADDRESSES} addresses")
    for address in addresses:
        _check_address(parse_address(address), target, allowed)
    return addresses


async def look_up(host: str, port: int) -> Sequence[str]:
    """What the system says; in a thread of its own, which may hang without harm."""
    return await Resolver().resolve(host, port)


def _check_target(target: Target, allowed: Allowed) -> None:
    if allowed.names(target.host):
        return
    if target.address is not None:
        _check_address(target.address, target, allowed)
        return
    if allowed.has_networks:
        # Whether its addresses are in them is not known yet; `resolve` asks again.
        return
    _check_scheme_and_port(target, allowed)
    _check_public_name(target.host)


def _check_address(address: Address | None, target: Target, allowed: Allowed) -> None:
    if address is None:
        raise TargetRefused("has an address of an unknown form")
    if allowed.names(target.host) or allowed.holds(address):
        return
    problem = find_address_problem(address)
    if problem is not None:
        raise TargetRefused(f"leads to an address that is not public: {problem}")
    _check_scheme_and_port(target, allowed)
    if target.address is None:
        _check_public_name(target.host)


def _check_scheme_and_port(target: Target, allowed: Allowed) -> None:
    if not target.is_tls:
        raise TargetRefused("must begin with https://")
    if target.port not in allowed.ports:
        ports = ", ".join(map(str, sorted(allowed.ports)))
        raise TargetRefused(f"must have one of the ports {ports}")


def _check_public_name(host: str) -> None:
    labels = host.split(".")
    suffixes = {".".join(labels[index:]) for index in range(len(labels))}
    if len(labels) == 1 or suffixes & _INNER_SUFFIXES:
        raise TargetRefused("must have a public host name")


def _to_host(text: str) -> tuple[str, Address | None]:
    """A host in the one form that is compared, and its address if it is one."""
    if text.startswith("["):
        address = parse_address(text[1:-1])
        if not isinstance(address, IPv6Address):
            raise TargetRefused("has a host that is no IPv6 address")
        return str(address), address
    last = text.lower().removesuffix(".").rpartition(".")[2]
    if _NUMBER_FORM.fullmatch(last):
        # In strict form only. 127.1, 0x7f000001, 017700000001 and 127.0.0.1. are the
        # same to a resolver, and to nobody who reads them.
        address = parse_address(text)
        if address is None:
            raise TargetRefused("has a host that is no IPv4 address in its usual form")
        return str(address), address
    try:
        return _to_name(text), None
    except ValueError as problem:
        raise TargetRefused(f"has a host that {problem}") from None


def _to_name(text: str) -> str:
    name = text.lower().removesuffix(".")
    if len(name) > MAX_HOST_CHARS:
        raise ValueError(f"has more than {MAX_HOST_CHARS} characters")
    labels = name.split(".")
    if _NUMBER_FORM.fullmatch(labels[-1]) or not all(
        map(_LABEL_FORM.fullmatch, labels)
    ):
        raise ValueError("is no host name, address or network")
    return name


def _to_network(text: str) -> Network | None:
    try:
        return ip_network(text)
    except ValueError:
        return None
