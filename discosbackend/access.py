"""AccessRules: which addresses may connect to a server, and which of them may only read.

The decision depends only on the text of the address. DBFactory asks for it once per connection, and handlers.py refuses
the commands that a client may not send.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from enum import Enum
from typing import TypeAlias

__all__ = ["Access", "AccessRules"]

Network: TypeAlias = "ipaddress.IPv4Network | ipaddress.IPv6Network"

# The IPv6 addresses that stand for IPv4 addresses, such as ::ffff:10.0.0.7.
_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")
_EXAMPLE = "such as 192.168.200.5, 192.168.200.0/24 or 2001:db8::/32"


class Access(Enum):
    """What a client may do."""

    ALL = "all"
    READ_ONLY = "read-only"
    NONE = "none"

    @property
    def may_command(self) -> bool:
        """Whether the client may send every command."""
        return self is Access.ALL

    @property
    def may_read(self) -> bool:
        """Whether the client may connect, and send the commands of the lane `reads`."""
        return self is not Access.NONE


class AccessRules:
    """Decides by the address of a client what the client may do.

    The rule with the longest prefix that contains the address decides. So a single host can be an exception to the rule
    of its network. If no rule contains the address, the client may do everything if `allow` is empty, and may not
    connect otherwise.

    A rule is an IPv4 or IPv6 address, or a network such as `192.168.200.0/24`. An IPv4-mapped IPv6 address, such as
    `::ffff:10.0.0.7`, means the same as the IPv4 address, in a rule and as the address of a client. So `::/0` contains
    no IPv4 client.

    Parameters
    ----------
    allow
        The addresses and networks whose clients may do everything. A single text is one rule.
    read_only
        The addresses and networks whose clients may only send the commands of the lane `reads`.

    Raises
    ------
    ValueError
        If a text is neither an address nor a network, or if the same network is in both lists.
    """

    def __init__(self, allow: str | Iterable[str] = (), read_only: str | Iterable[str] = ()) -> None:
        rules: dict[Network, Access] = {}
        for access, texts in ((Access.ALL, allow), (Access.READ_ONLY, read_only)):
            for text in (texts,) if isinstance(texts, str) else texts:
                network = network_of(text)
                if rules.setdefault(network, access) is not access:
                    raise ValueError(f"{network} cannot be both allowed and read-only: leave out one of them")
        self._rules = sorted(rules.items(), key=lambda rule: -rule[0].prefixlen)
        self._otherwise = Access.NONE if Access.ALL in rules.values() else Access.ALL

    def __repr__(self) -> str:
        allow, read_only = (
            [str(network) for network, access in self._rules if access is wanted]
            for wanted in (Access.ALL, Access.READ_ONLY)
        )
        return f"AccessRules(allow={allow!r}, read_only={read_only!r})"

    def access_of(self, address: str) -> Access:
        """Return what a client may do: Access.NONE if the text is not an IP address.

        Parameters
        ----------
        address
            The IP address of the client, without the port.
        """
        try:
            client = ipaddress.ip_address(address)
        except ValueError:
            return Access.NONE
        if isinstance(client, ipaddress.IPv6Address) and client.ipv4_mapped is not None:
            client = client.ipv4_mapped
        for network, access in self._rules:
            if client in network:
                return access
        return self._otherwise


def network_of(text: str) -> Network:
    """Return the network that a rule names. A single address is a network of one address.

    Raises
    ------
    ValueError
        If the text is neither an address nor a network. The exception's text says what to write instead.
    """
    address, slash, prefix = text.partition("/")
    # The module accepts a netmask too, such as 10.0.0.0/0.0.0.255, which has two meanings.
    if "%" in address or (slash and not (prefix.isascii() and prefix.isdigit())):
        raise ValueError(f"{text!r} is neither an address nor a network, {_EXAMPLE}")
    try:
        network = ipaddress.ip_network(text, strict=False)
        host = ipaddress.ip_address(address)
    except ValueError:
        raise ValueError(f"{text!r} is neither an address nor a network, {_EXAMPLE}") from None
    if host != network.network_address:
        raise ValueError(f"{text!r} is an address inside of a network: write {network}, or {host} for this host only")
    if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(_MAPPED):
        mapped = network.network_address.ipv4_mapped
        return ipaddress.IPv4Network((int(mapped or 0), network.prefixlen - _MAPPED.prefixlen))
    return network
