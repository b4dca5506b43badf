"""The private map: which pseudonym stands for which value, in every bundle made with it."""

from __future__ import annotations

import hmac
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path
from uuid import UUID

from analyzer.sharing import addresses
from recorder.format.files import named, read_whole
from recorder.schema import SockrecError

VERSION = 1
MOST_BYTES = 256 << 20
KINDS = (
    "address app user dev netns unit slice container pod cgroup exe unix-path unix-name host boot"
).split()
"""What has numbers of its own; names are made of these words."""

_FORM = "{} is no map of sockrec: {}"


class MapError(SockrecError):
    """A file that is no map, or one that cannot be written."""


@dataclass
class Pseudonyms:
    """Values and what stands for them, by kind; ``key`` decides the order of new numbers.

    ``shift_us`` is what is added to times.
    """

    key: bytes
    names: dict[str, dict[str, str]] = field(default_factory=lambda: {kind: {} for kind in KINDS})
    prefixes: bool = False
    shift_us: int = 0

    def __post_init__(self) -> None:
        self._taken = {name for names in self.names.values() for name in names.values()}
        self._counts = {kind: len(names) for kind, names in self.names.items()}
        self._classes: dict[object, int] = {}
        self._by_prefix = addresses.PrefixPreserving(self.key)

    def add(self, originals: Mapping[str, Iterable[str]]) -> None:
        """Give a pseudonym to each value, by kind, that has none.

        They are numbered in an order that the key makes, so that numbers tell nothing of values. No
        pseudonym is the text of a value. Raises MapError.
        """
        reserved = {value for values in originals.values() for value in values}
        reserved |= {value for names in self.names.values() for value in names}
        for kind, values in originals.items():
            new = sorted(set(values) - self.names[kind].keys(), key=self._place)
            for value in new:
                if kind == "address":
                    name = self._address(value, reserved)
                elif kind == "boot":
                    name = str(UUID(bytes=self._place(value)[:16], version=4))
                else:
                    name = self._numbered(kind, reserved)
                self.names[kind][value] = name
                self._taken.add(name)

    def _place(self, value: str) -> bytes:
        return hmac.digest(self.key, value.encode(errors="surrogatepass"), "sha256")

    def _numbered(self, kind: str, reserved: set[str]) -> str:
        while True:
            self._counts[kind] += 1
            name = f"{kind}-{self._counts[kind]}"
            if name not in reserved and name not in self._taken:
                return name

    def _address(self, value: str, reserved: set[str]) -> str:
        parsed = addresses.parse(value)
        if parsed is None:
            raise MapError(f"{value!r} is no address")
        address, _ = parsed
        if self.prefixes:
            return str(self._by_prefix.pseudonym(address))
        if isinstance(address, IPv4Address):
            kind: object = addresses.numbered(address, 1)
        else:
            kind = addresses.numbered(address, 1).packed[:4]
        while True:
            self._classes[kind] = self._classes.get(kind, 0) + 1
            try:
                name = str(addresses.numbered(address, self._classes[kind]))
            except ValueError as error:
                raise MapError(f"no pseudonym is left: {error}") from error
            taken = name in reserved or name in self._taken
            parsed_name, _ = addresses.parse(name) or (None, None)
            if not taken and parsed_name is not None and not addresses.is_kept(parsed_name):
                return name

    def originals(self) -> dict[str, str]:
        """Return the value that each pseudonym stands for."""
        return {name: value for names in self.names.values() for value, name in names.items()}

    def text(self) -> str:
        """Return the map as its file has it."""
        facts = {
            "sockrec_map": VERSION,
            "key": self.key.hex(),
            "prefix_preserving": self.prefixes,
            "shift_us": self.shift_us,
            "names": {kind: names for kind, names in self.names.items() if names},
        }
        return json.dumps(facts, indent=1) + "\n"


def read_map(path: Path) -> Pseudonyms:
    """Read a map. Raises MapError, FileError or OSError."""
    try:
        facts = json.loads(read_whole(path, MOST_BYTES))
        if facts["sockrec_map"] != VERSION:
            raise MapError(_FORM.format(path, f"version {facts['sockrec_map']!r}"))
        names: dict[str, dict[str, str]] = {kind: {} for kind in KINDS}
        for kind, found in facts["names"].items():
            names[kind] = {str(value): str(name) for value, name in found.items()}
        return Pseudonyms(
            bytes.fromhex(facts["key"]),
            {kind: names[kind] for kind in KINDS},
            bool(facts["prefix_preserving"]),
            int(facts["shift_us"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        what = " ".join(str(error).split()) or type(error).__name__
        raise MapError(_FORM.format(path, what)) from error


def write_map(path: Path, pseudonyms: Pseudonyms, *, new: bool) -> None:
    """Write a map that only its owner may read; a new one in place of nothing.

    Raises OSError.
    """
    place = path if new else path.with_name(f".{path.name[:50]}.{os.getpid()}.part")
    try:
        descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise named(error, place) from error
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(pseudonyms.text())
            file.flush()
            os.fsync(file.fileno())
        if not new:
            os.replace(place, path)
    except BaseException:
        place.unlink(missing_ok=True)
        raise


_NAME = re.compile(
    rf"(?<![\w.-])(?:(?:{'|'.join(k for k in KINDS if k not in ('address', 'boot'))})-\d+)(?![\w-])"
    r"|(?<![\w.:])(?:::ffff:)?(?:\d{1,3}(?:\.\d{1,3}){3})(?![\w]|\.\d)"
    r"|(?<![\w.:])[0-9a-fA-F]{0,4}(?::[0-9a-fA-F]{0,4}){2,7}(?![\w:])"
    r"|\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b",
    re.ASCII,
)


def unredact(text: str, pseudonyms: Pseudonyms) -> str:
    """Return a text with the values in place of their pseudonyms."""
    values = pseudonyms.originals()

    def value(match: re.Match[str]) -> str:
        name = match[0]
        parsed = None if name in values else addresses.parse(name)
        within = None if parsed is None else addresses.embedded(parsed[0])
        if parsed is None or str(within) not in values:
            return values.get(name, name)
        return addresses.embed(parsed[0], IPv4Address(values[str(within)]))

    return _NAME.sub(value, text)
