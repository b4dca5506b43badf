"""Names that a user has for addresses, put in their place where rows and sentences are shown."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from recorder.schema import SockrecError

_MOST_BYTES = 64 << 20

_V4 = r"\d{1,3}(?:\.\d{1,3}){3}"
_ADDRESS = re.compile(
    rf"(?<![\w.:\[])(?:"
    rf"\[(?P<bracketed>[0-9a-fA-F:.]+)\](?=:|$)"
    rf"|(?:::ffff:)?(?P<v4>{_V4})(?![\w./]*\d)"
    rf"|(?P<v6>[0-9a-fA-F]*:[0-9a-fA-F:]*:[0-9a-fA-F:.]*)(?![\w/])"
    rf")"
)
"""What may be an address in a text, and no network or part of something else."""

Address = IPv4Address | IPv6Address


class NamesError(SockrecError):
    """A file of names that cannot be used."""


@dataclass(frozen=True, slots=True)
class Names:
    """Names by address."""

    known: Mapping[Address, str] = field(default_factory=dict)

    def put(self, text: str) -> str:
        """Return a text with names in place of the addresses that have one."""
        return _ADDRESS.sub(self._named, text) if self.known else text

    def _named(self, found: re.Match[str]) -> str:
        try:
            address = _address(next(filter(None, found.groups())))
        except ValueError:
            return found[0]
        return self.known.get(address, found[0])


def read_names(path: Path) -> Names:
    """Read ``address,name`` lines, or those of hosts(5), of which the first name counts.

    Raises NamesError.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise NamesError(f"{path}: {error.strerror}") from error
    if len(content) > _MOST_BYTES:
        raise NamesError(f"{path}: is larger than {_MOST_BYTES >> 20} MiB")
    known: dict[Address, str] = {}
    for number, words in _lines(content.decode(errors="replace")):
        try:
            address = _address(words[0])
        except ValueError:
            if number == 1 and len(words) > 1:
                continue  # what the columns are called
            raise NamesError(
                f"{path}: line {number}: {words[0]!r} is no address: "
                "a line has an address and a name, with a comma or blanks between"
            ) from None
        if len(words) < 2 or not words[1]:
            raise NamesError(f"{path}: line {number}: {words[0]} has no name")
        known.setdefault(address, words[1])
    return Names(known)


def _lines(text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the words of each line that has any, with its number."""
    for number, line in enumerate(text.lstrip("\ufeff").splitlines(), 1):
        line = line.partition("#")[0].strip()
        if "," in line:
            yield number, [word.strip() for word in next(csv.reader([line]))]
        elif line:
            yield number, line.split()


def _address(text: str) -> Address:
    """Return an address, IPv4 as such. Raises ValueError."""
    found = ip_address(text)
    return getattr(found, "ipv4_mapped", None) or found
