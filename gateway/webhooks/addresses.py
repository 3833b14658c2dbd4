"""
Which IP addresses a webhook may go to: those that anybody on the internet could reach.

Refused by table and not by `ipaddress`' properties, which differ between patch releases
of Python. Sources: IANA's special-purpose registries for IPv4 and IPv6 (RFC 6890).
"""

from __future__ import annotations

from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
)
from typing import Final, TypeAlias

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network

_REFUSED_V4: Final = tuple(
    (IPv4Network(network), what)
    for network, what in (
        ("0.0.0.0/8", "this network"),
        ("10.0.0.0/8", "private"),
        # Alibaba's metadata at 100.100.100.200 is in it.
        ("100.64.0.0/10", "carrier-grade NAT"),
        ("127.0.0.0/8", "loopback"),
        # Most clouds' metadata at 169.254.169.254 is in it.
        ("169.254.0.0/16", "link-local"),
        # Azure's wire server answers every virtual machine here, on a public address.
        ("168.63.129.16/32", "cloud metadata"),
        ("172.16.0.0/12", "private"),
        # Oracle's metadata at 192.0.0.192 is in it.
        ("192.0.0.0/24", "reserved"),
        ("192.0.2.0/24", "documentation"),
        ("192.31.196.0/24", "reserved"),
        ("192.52.193.0/24", "reserved"),
        ("192.88.99.0/24", "6to4 relay"),
        ("192.168.0.0/16", "private"),
        ("192.175.48.0/24", "reserved"),
        ("198.18.0.0/15", "benchmarking"),
        ("198.51.100.0/24", "documentation"),
        ("203.0.113.0/24", "documentation"),
        ("224.0.0.0/4", "multicast"),
        ("240.0.0.0/4", "reserved"),
    )
)

# All that was ever handed out to be reached; everything else is refused as a whole:
# loopback, IPv4-mapped and IPv4-compatible, unique local, link-local, multicast.
_GLOBAL_V6: Final = IPv6Network("2000::/3")
_REFUSED_V6: Final = tuple(
    (IPv6Network(network), what)
    for network, what in (
        # Teredo, benchmarking and ORCHID are in it: none leads to a web server.
        ("2001::/23", "reserved or Teredo"),
        ("2001:db8::/32", "documentation"),
        # Carries an IPv4 address, and is routed to it by whoever still speaks it.
        ("2002::/16", "6to4"),
        ("2620:4f:8000::/48", "reserved"),
        ("3fff::/20", "documentation"),
    )
)
# RFC 6052: how hosts without IPv4 reach all of it, so judged by the address inside.
_NAT64: Final = IPv6Network("64:ff9b::/96")
# RFC 5214, 6.1: an interface of these bits is a tunnel to the IPv4 address behind them.
_ISATAP: Final = frozenset({0x00005EFE, 0x02005EFE})


def find_address_problem(address: Address) -> str | None:
    """What kind of address this is, if it is not one of the open internet's."""
    if isinstance(address, IPv4Address):
        refused = (what for network, what in _REFUSED_V4 if address in network)
        return next(refused, None)
    if address.scope_id is not None:
        return "of one interface"
    if address in _NAT64:
        inside = find_address_problem(IPv4Address(int(address) & 0xFFFF_FFFF))
        return None if inside is None else f"{inside}, behind NAT64"
    if address not in _GLOBAL_V6:
        return "not global"
    if (int(address) >> 32) & 0xFFFF_FFFF in _ISATAP:
        return "an ISATAP tunnel"
    return next((what for network, what in _REFUSED_V6 if address in network), None)


def parse_address(text: str) -> Address | None:
    """An address in its usual form; None for a name, and for every other spelling."""
    try:
        return ip_address(text)
    except ValueError:
        return None
