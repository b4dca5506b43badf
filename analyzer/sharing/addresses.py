"""Pseudonyms of addresses: of the same family and class, valid, and never one that was recorded.

An address is numbered within its class, or its bits are exchanged by a key so that two addresses
share as long a prefix as before (as Crypto-PAn does, with HMAC-SHA256 in place of AES, which Python
does not have; bits that tell a class are left as they are).
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Container
from functools import lru_cache
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_SCOPED = re.compile(r"(?P<address>[0-9A-Fa-f.:]+)(?:%(?P<scope>.+))?")
_MAPPED = IPv6Network("::ffff:0:0/96")
_EMBEDDING = (_MAPPED, IPv6Network("64:ff9b::/96"))
"""IPv6 networks of which the last 32 bits are an IPv4 address."""

_KEPT = frozenset(
    map(
        ip_address,
        "0.0.0.0 :: 127.0.0.1 ::1 255.255.255.255 224.0.0.1 224.0.0.2 224.0.0.22 224.0.0.251 "
        "224.0.0.252 239.255.255.250 ff02::1 ff02::2 ff02::16 ff02::fb ff02::1:3".split(),
    )
)
"""Addresses that tell nothing of a host: the same everywhere."""

# What is in the first network that holds an address is numbered in the second.
_CLASSES: tuple[tuple[Network, Network], ...] = tuple(
    (ip_network(of), ip_network(into))
    for of, into in (
        ("127.0.0.0/8", "127.0.0.0/8"),
        ("0.0.0.0/8", "0.0.0.0/8"),
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("172.16.0.0/12", "10.0.0.0/8"),
        ("192.168.0.0/16", "10.0.0.0/8"),
        ("100.64.0.0/10", "100.64.0.0/10"),
        ("169.254.0.0/16", "169.254.0.0/16"),
        ("224.0.0.0/24", "224.0.0.0/24"),
        ("224.0.0.0/4", "239.0.0.0/8"),
        ("240.0.0.0/4", "240.0.0.0/5"),
        ("0.0.0.0/0", "198.18.0.0/15"),
        ("fe80::/10", "fe80::/64"),
        ("fc00::/7", "fd00::/8"),
        ("ff00::/8", "ff00::/8"),
        ("::/96", "::/96"),
        ("::/0", "2001:db8::/32"),
    )
)
_OVERFLOW = IPv4Network("248.0.0.0/5")
"""Where public addresses go when 198.18.0.0/15 is full: reserved, nobody's."""


def parse(text: str) -> tuple[Address, str | None] | None:
    """Return an address and its scope, None if the text is none."""
    found = _SCOPED.fullmatch(text)
    if found is None:
        return None
    try:
        return ip_address(found["address"]), found["scope"]
    except ValueError:
        return None


def embedded(address: Address) -> IPv4Address | None:
    """Return the IPv4 address in an IPv6 one, None if it has none."""
    if isinstance(address, IPv6Address) and any(address in net for net in _EMBEDDING):
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return None


def embed(address: Address, within: IPv4Address) -> str:
    """Return an IPv6 address with another IPv4 address in it, as the recorder writes it."""
    if address in _MAPPED:
        return f"::ffff:{within}"
    return str(IPv6Address(int(address) >> 32 << 32 | int(within)))


def is_kept(address: Address) -> bool:
    """Tell whether an address is the same on every host, and stays."""
    return address in _KEPT


def class_of(address: Address) -> Network:
    """Return the network that stands for the class of an address."""
    return next(of for of, _ in _CLASSES if address in of)


def numbered(address: Address, number: int) -> Address:
    """Return the pseudonym of a number, from 1, in the class of an address.

    The scope of a multicast address, its first 16 bits, stays. Public IPv4 addresses that
    198.18.0.0/15 has no room for are made of reserved ones.
    """
    into = next(into for of, into in _CLASSES if address in of)
    if into.num_addresses <= number:
        if isinstance(address, IPv6Address) or not address.is_global:
            raise ValueError(f"more than {into.num_addresses:,} addresses of one class")
        into, number = _OVERFLOW, number - into.num_addresses + 1
    base = int(into.network_address)
    if isinstance(address, IPv6Address):
        if address.is_multicast:
            base = int(address) >> 112 << 112
        return IPv6Address(base + number)
    return IPv4Address(base + number)


class PrefixPreserving:
    """Exchanges bits of addresses by a key: who shares n bits before shares n bits after."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._flip = lru_cache(maxsize=1 << 20)(self._flipped)

    def pseudonym(self, address: Address) -> Address:
        """Return what stands for an address: of the same class, and for no other."""
        if is_kept(address):
            return address
        size, bits, found = address.max_prefixlen, int(address), 0
        for length in range(size):
            prefix = bits >> (size - length)
            bit = bits >> (size - length - 1) & 1
            found = found << 1 | bit ^ self._flip(size, length, prefix)
        return type(address)(found)

    def _flipped(self, size: int, length: int, prefix: int) -> int:
        """Return 1 where the bit behind a prefix is exchanged; never where it tells a class."""
        if (size, length, prefix) in _TELLING:
            return 0
        text = b"%d/%d/%x" % (size, length, prefix)
        return hmac.digest(self._key, text, "sha256")[0] & 1


def _telling() -> Container[tuple[int, int, int]]:
    """Return the prefixes below which a class, or an address that stays, is told apart."""
    networks = [of for of, _ in _CLASSES] + [ip_network(address) for address in _KEPT]
    networks += [*_EMBEDDING, IPv6Network("2000::/3")]
    return frozenset(
        (net.max_prefixlen, length, int(net.network_address) >> (net.max_prefixlen - length))
        for net in networks
        for length in range(net.prefixlen)
    )


_TELLING = _telling()
