"""An address and its port as ss and netstat print them."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True, slots=True)
class Endpoint:
    """``family`` is None where the log has a host's name; ``port`` where there is none."""

    family: str | None
    address: str
    port: int | None
    dev: str | None


@lru_cache(1 << 16)
def endpoint(text: str, protocol: str, any_family: str) -> Endpoint | None:
    """Return what ``ADDRESS[%DEV]:PORT`` says, None if it is no such thing.

    ``any_family`` is the family whose every address ss writes as ``*``. A service's name becomes
    the port that this machine knows it by.
    """
    head, colon, port_text = text.rpartition(":")
    if not colon or not head:
        return None
    head, _, dev = _split_dev(head)
    address = head[1:-1] if head.startswith("[") and head.endswith("]") else head
    port = _port(port_text, protocol)
    if port is None:
        return None
    if address == "*":
        address = "0.0.0.0" if any_family == "inet" else "::"
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        if not _is_name(address):
            return None
        return Endpoint(None, address, port if port >= 0 else None, dev)
    family = "inet" if parsed.version == 4 else "inet6"
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    shown = f"::ffff:{mapped}" if mapped else str(parsed)
    return Endpoint(family, shown, port if port >= 0 else None, dev)


def _split_dev(text: str) -> tuple[str, str, str | None]:
    """Return the address and the interface of ``ADDRESS%DEV``, ``[ADDRESS]%DEV`` and so on."""
    inside = text.startswith("[") and text.endswith("]")
    address, percent, dev = (text[1:-1] if inside else text).partition("%")
    return address, percent, dev or None


def _port(text: str, protocol: str) -> int | None:
    """Return a port, -1 if the log does not tell it, None if it cannot be one."""
    if text.isascii() and text.isdigit():
        number = int(text)
        return number if number <= 0xFFFF else None
    if text == "*":
        return 0
    if not text or not text[0].isalpha() or not _is_name(text):
        return None
    try:
        return socket.getservbyname(text, "udp" if protocol == "udp" else "tcp")
    except (OSError, UnicodeError):
        return -1


def _is_name(text: str) -> bool:
    """Whether it may be the name of a host or a service."""
    return bool(text) and text.isascii() and all(c.isalnum() or c in "-_.+/" for c in text)
