"""segments.jsonl: the list of what was sealed, so that a segment that is missing is noticed.

One line for each number, added when its segments are on disk, and never changed:
``{"crc":"0a1b2c3d","sealed":{…}}``, where the CRC-32 is that of the text of the object behind
``"sealed":``. A line that was torn when the machine went down is no line; the next one begins anew.

A recording that keeps only its latest part has lines ``{"crc":…,"dropped":{…}}`` too, each written
before the files of a number are removed, and in place of those before it.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from recorder.format.files import read_whole

MOST_BYTES = 64 << 20
"""A year of hours is 9 MB."""

_LINE = re.compile(rb'\{"crc":"([0-9a-f]{8})","(sealed|dropped)":(\{.*\})\}')


@dataclass(frozen=True, slots=True)
class SealedFile:
    """One segment as it was read back: ``footer`` is the CRC-32 that its checksums begin with."""

    rows: int
    bytes: int
    footer: str


@dataclass(frozen=True, slots=True)
class Aside:
    """What could not be sealed of a number, because a commit before it is damaged.

    ``bytes`` of journals are behind the damage, in the folder ``kept`` of the recording.
    """

    bytes: int
    why: str
    kept: str


@dataclass(frozen=True, slots=True)
class Sealed:
    """One number: its segments by table, its commits, and the times of its samples in us UTC.

    ``salvaged`` is the number of which this is what was got from behind the damage. ``samples`` is
    how many samples they are, and ``boottime`` the CLOCK_BOOTTIME of the last in us; None where an
    older sockrec sealed them.
    """

    number: int
    commits: int
    first: int | None
    last: int | None
    files: Mapping[str, SealedFile]
    aside: Aside | None = None
    salvaged: int | None = None
    samples: int | None = None
    boottime: int | None = None

    def line(self) -> bytes:
        """Return the line of the list."""
        facts: dict[str, Any] = {
            "number": self.number,
            "commits": self.commits,
            "first": self.first,
            "last": self.last,
            "files": {name: [f.rows, f.bytes, f.footer] for name, f in self.files.items()},
        }
        if self.aside is not None:
            facts["aside"] = [self.aside.bytes, self.aside.why, self.aside.kept]
        if self.salvaged is not None:
            facts["salvaged"] = self.salvaged
        if self.samples is not None:
            facts["samples"] = self.samples
        if self.boottime is not None:
            facts["boottime"] = self.boottime
        return _line("sealed", facts)


@dataclass(frozen=True, slots=True)
class Dropped:
    """What a recording had and let go of to stay within its bounds, since its beginning.

    That is every number up to ``through``. ``first`` and ``last`` are the times of the samples, in
    us UTC; they and the counts are None where something of it was never known. ``why`` says by
    which bound the latest was dropped.
    """

    through: int
    numbers: int
    samples: int | None
    socket_rows: int | None
    first: int | None
    last: int | None
    why: str

    def line(self) -> bytes:
        """Return the line of the list."""
        return _line("dropped", {name: getattr(self, name) for name in self.__slots__})


def _line(kind: str, facts: Mapping[str, Any]) -> bytes:
    text = json.dumps(facts, separators=(",", ":")).encode()
    return b'{"crc":"%08x","%s":%s}\n' % (zlib.crc32(text), kind.encode(), text)


class Listed(NamedTuple):
    """What the list says: numbers sealed and not dropped, in its order, and the lines damaged."""

    sealed: list[Sealed]
    damaged: int
    dropped: Dropped | None

    @property
    def through(self) -> int:
        """The highest number that was dropped; 0 if none was."""
        return self.dropped.through if self.dropped else 0


def read_list(path: Path, *, directory: int | None = None) -> Listed:
    """Return what the list says.

    Raises FileNotFoundError where a recording has none, as older ones do; FileError; OSError.
    """
    return parse_list(read_whole(path, MOST_BYTES, directory=directory))


def parse_list(data: bytes) -> Listed:
    """Return what lines say."""
    found: dict[int, Sealed] = {}
    dropped: Dropped | None = None
    damaged = 0
    for line in data.split(b"\n"):
        if not line:
            continue
        match = _LINE.fullmatch(line)
        if match is None or zlib.crc32(match[3]) != int(match[1], 16):
            damaged += 1
        elif match[2] == b"dropped":
            newer = _parsed_dropped(match[3])
            damaged += newer is None
            if newer and (dropped is None or newer.through > dropped.through):
                dropped = newer
        elif sealed := _parsed(match[3]):
            found[sealed.number] = sealed
        else:
            damaged += 1
    through = dropped.through if dropped else 0
    return Listed([one for one in found.values() if one.number > through], damaged, dropped)


def _parsed(text: bytes) -> Sealed | None:
    try:
        facts = json.loads(text)
        files = {
            str(name): SealedFile(int(rows), int(size), str(footer))
            for name, (rows, size, footer) in facts["files"].items()
        }
        aside = facts.get("aside")
        return Sealed(
            number=int(facts["number"]),
            commits=int(facts["commits"]),
            first=_whole(facts["first"]),
            last=_whole(facts["last"]),
            files=files,
            aside=None if aside is None else Aside(int(aside[0]), str(aside[1]), str(aside[2])),
            salvaged=_whole(facts.get("salvaged")),
            samples=_whole(facts.get("samples")),
            boottime=_whole(facts.get("boottime")),
        )
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        return None


def _parsed_dropped(text: bytes) -> Dropped | None:
    try:
        facts = json.loads(text)
        return Dropped(
            through=int(facts["through"]),
            numbers=int(facts["numbers"]),
            samples=_whole(facts["samples"]),
            socket_rows=_whole(facts["socket_rows"]),
            first=_whole(facts["first"]),
            last=_whole(facts["last"]),
            why=str(facts["why"]),
        )
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) else None
