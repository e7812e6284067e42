"""Which hosts may a request be addressed to?

A page on any web site can let its own name resolve to 127.0.0.1 and then read, as its own origin,
whatever a server there answers (DNS rebinding). The browser still sends the name of the site in the
`Host` header, so a server that answers only to its own names cannot be read in this way. Those
names are: loopback names and addresses, the address it listens on, and the names that a proxy in
front of it is known by. A server that listens on every address answers to every address, since an
address cannot be rebound, and to the machine's name. The port does not matter.

This module knows no web framework and no socket.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from limbeck.errors import ConfigError

ANY = "*"
_HOST = re.compile(r"(?:\[([^\[\]]+)\]|([^\[\]:/@\s]+))(?::\d*)?")  # [IPv6] or a name, and a port


@dataclass(frozen=True, slots=True)
class AllowedHosts:
    """The hosts that a server answers to, besides loopback ones.

    `names` are lower-case names and addresses; `*.name` stands for every name below it, `*` for
    all.
    """

    names: frozenset[str] = frozenset()
    every_address: bool = False

    @classmethod
    def of(cls, listens: str, allowed: Sequence[str]) -> AllowedHosts:
        """The allowed hosts of a server that listens on an address or name, with more that are
        allowed.

        Raises:
            ConfigError: naming what is not a host.
        """
        names = {host for each in allowed if (host := _allowed(each))}
        everywhere = not listens or getattr(_address(listens), "is_unspecified", False)
        names.add((socket.gethostname() if everywhere else listens).lower())
        return cls(frozenset(names), everywhere)

    def allow(self, header: str) -> bool:
        """Whether a `Host` header names one of them."""
        name = _name(header)
        if ANY in self.names:
            return True
        if name is None:
            return False
        address = _address(name)
        if address is not None:
            return self.every_address or address.is_loopback or str(address) in self.names
        parents = name.split(".")
        return (
            parents[-1] == "localhost"
            or name in self.names
            or any(f"*.{'.'.join(parents[at:])}" in self.names for at in range(1, len(parents)))
        )


def _allowed(given: str) -> str:
    """A host that is allowed, as it is looked up.

    Raises:
        ConfigError: when it is none.
    """
    name = given if given == ANY else _name(f"[{given}]" if given.count(":") > 1 else given)
    if name is None or ("*" in name.removeprefix("*.") and name != ANY):
        raise ConfigError(
            f"--allowed-host {given} is not a host. Give a name or an address without a scheme or "
            "a path, such as docs.example.org, *.example.org or 10.0.0.7."
        )
    return str(_address(name) or name)


def _name(header: str) -> str | None:
    """The name or address in a `Host` header, without its port; None when it is malformed."""
    found = _HOST.fullmatch(header.strip().lower())
    if found is None:
        return None
    if found[1]:
        return found[1] if _address(found[1]) is not None else None
    return found[2].removesuffix(".") or None


def _address(name: str) -> IPv4Address | IPv6Address | None:
    """An address from its text, IPv4 in IPv6 as IPv4; None for a name."""
    try:
        address = ip_address(name)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
