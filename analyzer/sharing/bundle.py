"""One zip of a recording to hand over: redacted, described, searched, and whole or not there."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

import analyzer
from analyzer import Analysis
from analyzer.reading.archive import MANIFEST
from analyzer.reading.spill import Folder
from analyzer.sharing import manifest as manifests
from analyzer.sharing.output import (
    Report,
    TooLargeError,
    described,
    new_place,
    write_recording,
)
from analyzer.sharing.pages import pages, readme
from analyzer.sharing.pseudonyms import Pseudonyms, read_map, write_map
from analyzer.sharing.redaction import Redaction
from analyzer.sharing.search import Wanted, as_json, search
from analyzer.sharing.selection import Selection, select
from analyzer.sharing.words import Level
from analyzer.sharing.zipped import write_zip
from analyzer.sql.views import Scope
from recorder.schema import RECORDING_FILE, SOCKETS, SockrecError

FOLDER = MANIFEST.partition("/")[0]
COMPRESSION_LEVEL = 7
"""Level 9 takes a tenth more time for no fewer bytes."""

MAX_SIZE = 25_000_000
"""What GitHub takes of a zip."""

_PAGES_MEMORY = "128MiB"
"""For summary and reports, as the recording is open twice: beyond it temporary files are used."""

_TRIES = 8
_MARGIN = 0.85
"""Of the bytes that are wanted, as what is small compresses worse."""

_SHARES = {"select": (0.0, 0.15), "redact": (0.15, 0.25), "write": (0.25, 0.75), "look": (0.75, 1)}


class BundleError(SockrecError):
    """A bundle that cannot be made."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a bundle is to be: of which sockets, how redacted, how large at most in bytes.

    ``map_path`` is where the private map is, or comes to be; an ``old_map`` is read and added to.
    """

    scope: Scope
    level: Level = Level.default
    prefixes: bool = False
    shift: bool = False
    max_size: int = MAX_SIZE
    map_path: Path | None = None
    old_map: bool = False


@dataclass
class Made:
    """What a bundle came to be, to be told."""

    lines: list[str]
    size: int = 0
    files: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Draft:
    """What is chosen of a recording, by table how many rows, and what is to be made of it."""

    rows: dict[str, int]
    facts: dict[str, Any]
    redaction: Redaction | None

    @property
    def pseudonyms(self) -> Pseudonyms | None:
        return None if self.redaction is None else self.redaction.pseudonyms


def bundle(
    opened: Analysis,
    out: Path,
    wish: Wish,
    report: Callable[[float], None] = lambda share: None,
) -> Made:
    """Make a bundle of the one recording that is open. Raises SockrecError or OSError.

    No bundle is there if it fails. If it would be larger than wished, the
    earlier part of the time is left out, until it fits.
    """
    scope, had = wish.scope, dict[str, int]()
    with new_place(out) as place, _scratch() as scratch:
        _check_map(wish)
        for attempt in range(_TRIES):
            folder, narrower = scratch / str(attempt), replace(wish, scope=scope)
            try:
                draft, files = _written(opened, narrower, had, folder, place, out.name, report)
                break
            except TooLargeError as error:
                size = error.size
            place.unlink(missing_ok=True)
            shutil.rmtree(folder)
            scope = _narrower(opened, scope, size, wish.max_size, out)
        else:
            raise _too_large(out, size, wish.max_size)
        _step(report, "look")(1, 2)
        if draft.redaction is not None:
            search(place, _wanted(draft.redaction), str(out))
        report(1.0)
        _keep_map(wish, draft.pseudonyms)
        size = place.stat().st_size
    narrowed = scope if scope != wish.scope else None
    return Made(list(_told(had, draft, narrowed, wish, size)), size, files)


def _written(
    opened: Analysis,
    wish: Wish,
    had: dict[str, int],
    folder: Path,
    place: Path,
    name: str,
    report: Callable[[float], None],
) -> tuple[_Draft, list[str]]:
    """Choose, redact and write the zip, with a folder to work in; return what files it has.

    ``had`` is how many rows the whole has, to be filled in if it is empty: then this is the whole.
    Raises TooLargeError if the zip is larger than wished, or would be.
    """
    draft, selection = _draft(opened, wish, report)
    left = _left_out(had, draft, wish) if had else None
    had |= {} if had else draft.rows
    redaction = draft.redaction
    written = write_recording(
        folder,
        selection,
        draft.facts,
        _step(report, "write"),
        rewrite=redaction.rewrite if redaction else lambda table: None,
        level=COMPRESSION_LEVEL,
        most=wish.max_size,
    )
    del selection  # its places, before pages are made
    files = _files(written, folder, "incident.zip" if redaction else name, redaction is not None)
    account = None if redaction is None else redaction.account
    listed = manifests.manifest(
        wish.level, draft.facts.get("cut"), left, account, draft.rows, _digests(files)
    )
    files[manifests.NAME] = as_json(listed).encode()
    write_zip(place, FOLDER, files)
    size = place.stat().st_size
    if size > wish.max_size:
        raise TooLargeError(size)
    return draft, list(files)


def plan(opened: Analysis, wish: Wish) -> Made:
    """Return what a bundle would be, and write nothing."""
    draft, _ = _draft(opened, wish, lambda share: None)
    rows = [f"rows       {name} {count:,}" for name, count in draft.rows.items()]
    files = [f"{table}/000001.parquet" for table in draft.rows]
    account = None if draft.redaction is None else draft.redaction.account
    return Made([*rows, *manifests.told(wish.level, account)], 0, [RECORDING_FILE, *files])


def _draft(
    opened: Analysis, wish: Wish, report: Callable[[float], None]
) -> tuple[_Draft, Selection]:
    """Choose, and find out what is to be redacted."""
    selection = select(opened.engine, wish.scope, _step(report, "select"))
    (recording,) = opened.engine.recordings
    facts = described(recording.facts, selection)
    redaction = None
    if wish.level != Level.none:
        known = read_map(wish.map_path) if wish.old_map and wish.map_path else None
        redaction = Redaction(
            selection, facts, wish.level, known, prefixes=wish.prefixes, shift=wish.shift
        )
        facts = redaction.facts(facts)
    _step(report, "redact")(1, 1)
    counts = {name: len(places) for name, places in selection.places.items()}
    rows = {name: count for name, count in counts.items() if count}
    return _Draft(rows, facts, redaction), selection


def _files(
    written: Sequence[Path], folder: Path, name: str, redacted: bool
) -> dict[str, bytes | Path]:
    """Return the files of a bundle but for the manifest, by name; the page calls the zip so."""
    pa.default_memory_pool().release_unused()  # what writing took
    files: dict[str, bytes | Path] = {}
    files["README.md"] = readme(name, FOLDER, redacted=redacted).encode()
    with analyzer.open(folder, memory_limit=_PAGES_MEMORY) as made:
        for page, text in pages(made, redacted=redacted):
            files[page] = text.encode(errors="replace")
    for path in written:
        files[str(path.relative_to(folder))] = path
    return files


def _wanted(redaction: Redaction) -> Wanted:
    return Wanted(redaction.originals, redaction.words, redaction.kept_words)


def _digests(files: Mapping[str, bytes | Path]) -> dict[str, bytes | str]:
    found: dict[str, bytes | str] = {}
    for name, content in files.items():
        if isinstance(content, bytes):
            found[name] = content
        else:
            with content.open("rb") as file:
                found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _left_out(had: Mapping[str, int], draft: _Draft, wish: Wish) -> dict[str, Any]:
    """Return what the manifest says was left out, so that the rest is small enough."""
    start, redaction = wish.scope.start, draft.redaction
    before = start if redaction is None else redaction.moment(start)
    rows = {name: count - draft.rows.get(name, 0) for name, count in had.items()}
    return {
        "before_us": before,
        "rows": {name: count for name, count in rows.items() if count},
        "why": f"more than {wish.max_size:,} bytes",
    }


def _narrower(opened: Analysis, scope: Scope, size: int, most: int, out: Path) -> Scope:
    """Return a scope that leaves out so much of the earlier time that the rest may fit."""
    first, last = opened.engine.span(scope)
    if first is None or last is None or last - first < 2:
        raise _too_large(out, size, most)
    kept = int((last - first) * _MARGIN * most / size)
    return replace(scope, start=max(last - kept, first + 1))


def _too_large(out: Path, size: int, most: int) -> BundleError:
    return BundleError(
        f"{out}: comes to about {size:,} bytes and may be {most:,}, however short the time: "
        "choose sockets with --where, or raise --max-size"
    )


def _told(
    had: Mapping[str, int], draft: _Draft, narrowed: Scope | None, wish: Wish, size: int
) -> Iterator[str]:
    rows = ", ".join(f"{count:,} {name}" for name, count in draft.rows.items())
    yield f"rows       {rows}"
    if narrowed is not None and narrowed.start is not None:
        begins = datetime.fromtimestamp(narrowed.start / 1e6, UTC)
        all_rows, has = (rows.get(SOCKETS.name, 0) for rows in (had, draft.rows))
        yield (
            f"left out   the earlier part of the time, before {begins:%Y-%m-%d %H:%M:%S} UTC, with "
            f"{all_rows - has:,} of {all_rows:,} rows of sockets: all of it takes more than "
            f"{wish.max_size:,} bytes (--max-size); --from, --to and --where choose another part"
        )
    account = None if draft.redaction is None else draft.redaction.account
    yield from manifests.told(wish.level, account)
    if draft.redaction is not None and wish.map_path is not None:
        yield f"map        {wish.map_path}: keep it to yourself; sockrec unredact needs it"
    yield f"size       {size:,} bytes"


def _check_map(wish: Wish) -> None:
    if wish.level == Level.none or wish.map_path is None or wish.old_map:
        return
    if os.path.lexists(wish.map_path):
        raise BundleError(
            f"{wish.map_path}: is there already: name it with --map to use the same names again, "
            "or give another -o"
        )


def _keep_map(wish: Wish, pseudonyms: Pseudonyms | None) -> None:
    if pseudonyms is not None and wish.map_path is not None:
        write_map(wish.map_path, pseudonyms, new=not wish.old_map)


def _step(report: Callable[[float], None], name: str) -> Report:
    low, high = _SHARES[name]
    return lambda done, of: report(low + (high - low) * done / max(of, 1))


@contextmanager
def _scratch() -> Iterator[Path]:
    folder = Folder()
    try:
        yield folder.path
    finally:
        folder.remove()
