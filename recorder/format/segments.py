"""segments.jsonl: the list of what was sealed, so that a segment that is missing is noticed.

One line for each number, added when its segments are on disk, and never changed:
``{"crc":"0a1b2c3d","sealed":{…}}``, where the CRC-32 is that of the text of the object behind
``"sealed":``. A line that was torn when the machine went down is no line; the next one begins anew.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recorder.format.files import read_whole

MOST_BYTES = 64 << 20
"""A year of hours is 9 MB."""

_LINE = re.compile(rb'\{"crc":"([0-9a-f]{8})","sealed":(\{.*\})\}')


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

    ``salvaged`` is the number of which this is what was got from behind the damage.
    """

    number: int
    commits: int
    first: int | None
    last: int | None
    files: Mapping[str, SealedFile]
    aside: Aside | None = None
    salvaged: int | None = None

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
        text = json.dumps(facts, separators=(",", ":")).encode()
        return b'{"crc":"%08x","sealed":%s}\n' % (zlib.crc32(text), text)


def read_list(path: Path, *, directory: int | None = None) -> tuple[list[Sealed], int]:
    """Return what the list says, in its order, and how many lines of it are damaged.

    Raises FileNotFoundError where a recording has none, as older ones do; FileError; OSError.
    """
    return parse_list(read_whole(path, MOST_BYTES, directory=directory))


def parse_list(data: bytes) -> tuple[list[Sealed], int]:
    """Return what lines say, and how many of them are damaged."""
    found: dict[int, Sealed] = {}
    damaged = 0
    for line in data.split(b"\n"):
        if not line:
            continue
        match = _LINE.fullmatch(line)
        sealed = None
        if match and zlib.crc32(match[2]) == int(match[1], 16):
            sealed = _parsed(match[2])
        if sealed is None:
            damaged += 1
        else:
            found[sealed.number] = sealed
    return list(found.values()), damaged


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
        )
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        return None


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) else None
