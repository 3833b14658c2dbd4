"""The proxies whose word on who their client is counts."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address, ip_network
from typing import Final

# Connections are long, and proxies few: more addresses than this are forgotten.
MOST_REMEMBERED: Final = 1024


class TrustedPeers:
    """The peers whose word on a client's identity is believed."""

    def __init__(self, peers: Iterable[str]) -> None:
        """`unix`, addresses and networks; ValueError for anything else."""
        self._has_unix = False
        self._networks = []
        for peer in peers:
            if peer == "unix":
                self._has_unix = True
            else:
                self._networks.append(ip_network(peer))
        self._known: dict[str, bool] = {}

    def __bool__(self) -> bool:
        return self._has_unix or bool(self._networks)

    def trusts(self, host: str | None) -> bool:
        """Whether a peer at this address is one; None is a Unix socket's."""
        if host is None:
            return self._has_unix
        known = self._known.get(host)
        if known is None:
            if len(self._known) >= MOST_REMEMBERED:
                self._known.clear()
            known = self._known[host] = self._contains(host)
        return known

    def _contains(self, host: str) -> bool:
        try:
            # Without the zone of a link-local address.
            address = ip_address(host.partition("%")[0])
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None) or address
        return any(mapped in network for network in self._networks)
