"""The words of a condition: hosts as ss writes them in each family, ports, marks."""

from __future__ import annotations

import re
import socket
from collections.abc import Collection

from recorder.ssfilter.tree import (
    FAMILIES,
    INET,
    INET6,
    Address,
    Host,
    Leaf,
    Name,
    Network,
    Side,
)

_FAMILY = re.compile(rf"({'|'.join(FAMILIES)}):", re.DOTALL)
_INTEGER = re.compile(r"[+-]?(0[xX][0-9a-fA-F]+|[1-9][0-9]*|0[0-7]*)", re.ASCII)
_ANY_ADDRESS = ("default", "any", "all")
_PROTOCOLS = ("tcp", "udp")
_UNSIGNED, _SIGNED = 1 << 32, 1 << 31


class WordError(Exception):
    """A word that means nothing where it stands; says why."""


def parse_host(
    word: str, side: Side, family: str | None, tables: Collection[str], *, is_port: bool
) -> tuple[Leaf, str | None]:
    """Return the condition and the family it is of; ``family`` is that of the option before.

    ``tables`` says whose ports a service name may be of: tcp, udp. Raises WordError.
    """
    if named := _FAMILY.match(word):
        family, word = named[1], word[named.end() :]
    match family:
        case "unix":
            return Name(side, word), family
        case "link" | "netlink" | "vsock":
            return _other(word, side, family, is_port), family
        case _:
            return _internet(word, side, family, tables, is_port), family


def number(word: str) -> int | None:
    """Return an integer as C writes it: decimal, 0x or 0; None if it is none."""
    if not _INTEGER.fullmatch(word) or len(word) > 20:
        return None
    digits = word.lstrip("+-")
    value = int(digits, 16 if digits[:2] in ("0x", "0X") else 8 if digits[0] == "0" else 10)
    return -value if word[0] == "-" else value


def port_number(leaf: Leaf) -> int:
    """Return the port with which others are compared. Raises WordError."""
    if isinstance(leaf, Host | Address):
        port = leaf.port if isinstance(leaf, Host) else leaf.number
        if isinstance(port, int):
            return port
        return -1  # as ss compares with any port
    raise WordError("names of unix sockets have no order")


def parse_mark(word: str) -> tuple[int, int]:
    """Return a mark and its mask. Raises WordError."""
    mark, slash, mask = word.partition("/")
    found = number(mark), number(mask) if slash else _UNSIGNED - 1
    if found[0] is None or found[1] is None:
        raise WordError(f"{word!r} is no mark: write 5, 0x5 or 0x5/0xff")
    return found[0] % _UNSIGNED, found[1] % _UNSIGNED


def _other(word: str, side: Side, family: str, is_port: bool) -> Address:
    address, colon, port = ("", "", word.removeprefix(":")) if is_port else word.partition(":")
    known: int | str | None = None
    if (colon or is_port) and port not in ("", "*"):
        known = number(port)
        if known is None and family == "link":
            known = port
        elif known is None and family == "netlink" and port == "kernel":
            known = 0
        elif known is None:
            raise WordError(f"{port!r} is no {'port id' if family == 'netlink' else 'port'}")
    if family == "vsock" and address not in ("", "*") and number(address) is None:
        raise WordError(f"{address!r} is no CID")
    return Address(side, family, None if address in ("", "*") else address, known)


def _internet(
    word: str, side: Side, family: str | None, tables: Collection[str], is_port: bool
) -> Host:
    address, port = ("", word.removeprefix(":")) if is_port else _split(word)
    found = None if port in ("", "*") else _port(port, tables)
    if is_port or address in ("", "*") or address[0] == "*":
        return Host(side, (), found)
    return Host(side, _networks(address, family), found)


def _split(word: str) -> tuple[str, str]:
    """Return address and port; only IPv6 needs brackets, and may have its length behind them."""
    if word[:1] == "[":
        address, bracket, rest = word[1:].partition("]")
        if not bracket:
            raise WordError(f"{word!r} lacks its closing bracket")
        length = re.match(r"/\w+", rest)
        if length:
            address, rest = address + length[0], rest[length.end() :]
        return address, rest.removeprefix(":")
    if word[:1] == "*":
        return "*", word[1:].removeprefix(":")
    before, slash, after = word.partition("/")
    if slash:
        after, _, port = after.partition(":")
        return f"{before}/{after}", port
    address, _, port = word.rpartition(":") if ":" in word else (word, "", "")
    if ":" in address:
        raise WordError(f"an IPv6 address stands in brackets: [{word}]")
    return address, port


def _port(word: str, tables: Collection[str]) -> int:
    known = number(word)
    if known is not None:
        if not -_SIGNED <= known < _SIGNED:
            raise WordError(f"{word!r} does not look like a port")
        return known
    ports = set()
    for protocol in _PROTOCOLS:
        if protocol in tables:
            try:
                ports.add(socket.getservbyname(word, protocol))
            except (OSError, ValueError):
                continue
    if not ports:
        raise WordError(f"{word!r} does not look like a port")
    if len(ports) > 1:
        raise WordError(f"{word!r} is one port of TCP and another of UDP: write its number")
    return ports.pop()


def _networks(word: str, family: str | None) -> tuple[Network, ...]:
    address, slash, length = word.partition("/")
    if address in _ANY_ADDRESS:
        return ()
    packed = _packed(address, family)
    if packed is None:
        if slash:
            raise WordError(f"{word!r} is no address with a length: write 10.0.0.0/8")
        return _resolved(address, family)
    most = 8 * len(packed)
    bits = _length(length, len(packed)) if slash else most
    if bits is None or bits > most:
        raise WordError(f"{length!r} is no length of an address of {most} bits")
    return (Network(INET if most == 32 else INET6, packed, bits),)


def _packed(address: str, family: str | None) -> bytes | None:
    if ":" in address:
        if family == INET:
            return None
        try:
            return socket.inet_pton(socket.AF_INET6, address)
        except (OSError, ValueError):
            return None
    if family == INET6 or not re.fullmatch(r"\w+(\.\w+){0,3}", address, re.ASCII):
        return None
    numbers = [number(part) for part in address.split(".")]
    numbers += [0] * (4 - len(numbers))  # 10 is 10.0.0.0
    known = [n for n in numbers if n is not None and 0 <= n <= 255]
    return bytes(known) if len(known) == 4 else None


def _length(word: str, size: int) -> int | None:
    known = number(word)
    if known is not None:
        return known if known >= 0 else None
    mask = _packed(word, INET) if size == 4 else None
    if mask is None:
        return None
    bits = f"{int.from_bytes(mask, 'big'):032b}"
    return bits.count("1") if "01" not in bits else None


def _resolved(name: str, family: str | None) -> tuple[Network, ...]:
    """Return the addresses of a host by name, as the resolver of this machine knows them."""
    wanted = {INET: socket.AF_INET, INET6: socket.AF_INET6}.get(family or "", socket.AF_UNSPEC)
    try:
        found = socket.getaddrinfo(name, None, wanted, socket.SOCK_STREAM)
    except (OSError, ValueError):
        raise WordError(f"{name!r} is neither an address nor a known host") from None
    packed = {
        socket.inet_pton(kind, str(address[0]).partition("%")[0]): None
        for kind, _, _, _, address in found
    }
    return tuple(Network(INET if len(one) == 4 else INET6, one, 8 * len(one)) for one in packed)
