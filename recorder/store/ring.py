"""The ring: what a recording lets go of, oldest first, so as to stay within its bounds.

A number is dropped as a whole: its journals, segments and what was put aside of it. The list of
segments says so, durably, before the first of its files is removed, so that what is missing is
never taken for lost. Age is what CLOCK_BOOTTIME counted since: the wall clock may be set. What
counts towards the size is everything in the directory, each file in whole pages: the journals at
what is written to them, and a number that is being sealed also at what its segments may come to.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from recorder.format.files import DAMAGED, LIST_FILE, TEMPORARY, journal_name, segment_name
from recorder.format.segments import Dropped, Listed, read_list
from recorder.schema import RECORDING_FILE, SOCKETS, TABLES, SockrecError
from recorder.store.directory import LIST_ROOM, Directory, append_line, keep_room, shorten_list

LEAST_BYTES = 16 << 20
"""The smallest bound on the size: some numbers, with what sealing one takes beside it."""

SHARE = 16
"""A number is sealed at the latest when its journals are this part of the bound on the size."""

SPANS = 12
"""A number is sealed at the latest after this part of the time that is kept."""

LEAST_SECONDS = 1.0
"""But not before this time: a number of few rows takes some 130 kB."""

SEALING_BYTES = 256 << 10
"""What the segments of a number may take beyond the size of its journals, some 100 kB of it for
what each of them says of its columns."""

LONG_LIST = 1 << 20
"""Bytes from which on the list of segments is written anew, without what was dropped."""

CALM_SECONDS = 60.0
"""Room is no longer short when nothing had to be dropped for want of it for this long, or for the
time of two numbers."""

_PAGE = 4096
_FOLDER = re.compile(r"\d{6,18}", re.ASCII)
_FULL = (errno.ENOSPC, errno.EDQUOT)


def boottime_us() -> int:
    """Return CLOCK_BOOTTIME in us: what passed since the boot, suspended or not."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000


class RingError(SockrecError):
    """A bound that cannot be kept."""


@dataclass(frozen=True)
class Keep:
    """The bounds of a recording: seconds, bytes of its directory, bytes free on the disk."""

    seconds: float | None = None
    bytes: int | None = None
    min_free: int | None = None

    def __bool__(self) -> bool:
        return self != Keep()

    def facts(self) -> dict[str, object]:
        """Return what recording.json says of them."""
        return {"seconds": self.seconds, "bytes": self.bytes, "min_free": self.min_free}


@dataclass(frozen=True)
class _Number:
    """One that may be dropped; ``bytes`` are what it counts for, ``sealed`` if it is settled.

    ``boot`` says in which of the boots it was recorded, ``boottime`` when by the clock of that.
    """

    bytes: int
    samples: int | None
    socket_rows: int | None
    first: int | None
    last: int | None
    boot: int
    boottime: int | None
    sealed: bool


class Ring:
    """Keeps a recording within its bounds; without any it keeps nothing and drops nothing.

    ``settle`` waits until a number is no longer being sealed. ``tell`` is told, in a sentence, when
    room on the disk gets short and when it no longer is. ``boots`` are the first numbers of each
    boot but the first, ``boottime_us`` is the clock of the last.
    """

    def __init__(
        self,
        directory: Directory,
        listing: int,
        keep: Keep,
        *,
        settle: Callable[[int], None],
        tell: Callable[[str, str], None],
        boots: Sequence[int] = (),
        boottime_us: Callable[[], int] = boottime_us,
        free: Callable[[], int] | None = None,
    ) -> None:
        self._directory = directory
        self._listing = listing
        self._keep = keep
        self._settle = settle
        self._tell = tell
        self._boots = tuple(boots)
        self._boottime_us = boottime_us
        self._free = free or self._statvfs
        self._numbers: dict[int, _Number] = {}
        self._open = _PAGE * len(TABLES)
        self._fixed = 0
        self._short_since: float | None = None
        self._calm = CALM_SECONDS
        listed = read_list(directory.path / LIST_FILE, directory=directory.descriptor)
        self.dropped = listed.dropped
        remove_dropped(directory, listed.through)
        self._find(listed)
        self.count_rest()

    def __bool__(self) -> bool:
        return bool(self._keep)

    def bounds(self, seconds: float, size: int) -> tuple[float, int]:
        """Return the seconds and bytes after which a number is to be sealed, at most those."""
        if self._keep.seconds is not None:
            seconds = min(seconds, max(LEAST_SECONDS, self._keep.seconds / SPANS))
        if self._keep.bytes is not None:
            size = min(size, self._keep.bytes // SHARE)
        self._calm = max(CALM_SECONDS, 2 * seconds)
        return seconds, size

    @property
    def used(self) -> int:
        """What the directory takes at most, in bytes."""
        numbers = self._numbers.values()
        # one number at a time has its journals and its segments
        both = max((number.bytes for number in numbers if not number.sealed), default=0)
        return self._fixed + self._open + sum(number.bytes for number in numbers) + both

    # what the writer tells

    def grow(self, size: int) -> None:
        """Make room for bytes that are written to the open journals next. Raises RingError."""
        self.make_room(size)
        self._open += size

    def closed(
        self,
        number: int,
        *,
        size: int,
        samples: int,
        socket_rows: int,
        span: tuple[int | None, int | None],
        boottime: int | None,
    ) -> None:
        """Note that journals are to be sealed; ``span`` are the times of the samples, in us UTC.

        ``boottime`` is CLOCK_BOOTTIME at the last of them, in us.
        """
        counted = size + _PAGE * len(TABLES) + SEALING_BYTES
        self._numbers[number] = _Number(
            counted, samples, socket_rows, *span, self._boot(number), boottime, sealed=False
        )
        self._open = _PAGE * len(TABLES)

    def sealed(self, number: int) -> None:
        """Note that a number is sealed, and its journals removed or put aside."""
        known = self._numbers.get(number)
        if known is not None:
            self._numbers[number] = replace(known, bytes=self._size_of(number), sealed=True)
        self.count_rest()

    def count_rest(self) -> None:
        """Count what is of no number; recording.json twice, as it is replaced by another."""
        fixed = _PAGE * (len(TABLES) + 4) + LIST_ROOM
        if self._keep:
            keep_room(self._listing)
        for name, times in ((LIST_FILE, 1), (RECORDING_FILE, 2)):
            with contextlib.suppress(FileNotFoundError):
                size = os.stat(name, dir_fd=self._directory.descriptor).st_size
                fixed += times * _pages(size)
        self._fixed = fixed

    def shorten(self) -> int | None:
        """Leave out of a long list what was dropped; return the new one, None if it stays.

        Nobody else may write to the list meanwhile.
        """
        if os.fstat(self._listing).st_size < LONG_LIST or self.dropped is None:
            return None
        listed = read_list(self._directory.path / LIST_FILE, directory=self._directory.descriptor)
        if listed.damaged:
            return None  # who reads it is to know
        lines = [self.dropped.line(), *(sealed.line() for sealed in listed.sealed)]
        if sum(map(len, lines)) > LONG_LIST // 2:
            return None
        try:
            self._listing = shorten_list(self._directory, lines)
        except OSError as error:
            if error.errno not in _FULL:
                raise
            return None
        self.count_rest()
        return self._listing

    # what is dropped

    def make_room(self, size: int) -> None:
        """Let go of the oldest numbers until so many bytes more are within the bound on the size.

        Raises RingError if they are more than that without any.
        """
        most = self._keep.bytes
        while most is not None and self.used + size > most:
            if not self._drop_oldest("keep-size"):
                raise RingError(
                    f"{self._directory.path}: {most:,} bytes hold not even one sample here, which "
                    f"takes {self._open + size:,}: give --keep-size more"
                )

    def full(self, error: OSError) -> bool:
        """Tell whether something was dropped because a write failed for want of room."""
        if not self or error.errno not in _FULL:
            return False
        self._get_short(error.strerror or "the disk is full")
        return self._drop_oldest("full disk")

    def retry(self, action: Callable[[], None]) -> None:
        """Do something that may fail for want of room, again after each drop."""
        while True:
            try:
                action()
            except OSError as error:
                if not self.full(error):
                    raise
            else:
                return

    def keep_up(self) -> bool:
        """Drop what is older than is kept, and for the bound on what is free; tell if that holds.

        To be called before each sample.
        """
        seconds, least = self._keep.seconds, self._keep.min_free
        while seconds is not None and self._oldest_us() > seconds * 1e6:
            self._drop_oldest("keep")
        enough = True
        while least is not None and (there := self._free()) < least and enough:
            self._get_short(f"{there:,} bytes are free of the {least:,} to be left (--min-free)")
            enough = self._drop_oldest("min-free")
        if self._short_since is not None and enough:
            calm = time.monotonic() - self._short_since
            if calm >= self._calm:
                self._short_since = None
                why = "nothing had to be dropped for want of it lately"
                self._tell(f"there is room again: {why}", "recovery")
        return enough

    def _get_short(self, why: str) -> None:
        if self._short_since is None:
            self._tell(f"room is short: {why}: the oldest segments are dropped", "degradation")
        self._short_since = time.monotonic()

    def _oldest_us(self) -> int:
        """Return for how long the oldest number is over for certain, 0 if that is not known."""
        # One of which no time is known is as old as the next at least, and not older for certain.
        known = [self._numbers[number] for number in sorted(self._numbers)]
        known = [number for number in known if number.boottime is not None]
        if not known:
            return 0
        age = 0
        now = {len(self._boots): self._boottime_us()}
        # How long the host was off between two boots, no clock tells for certain.
        for boot in range(known[0].boot, len(self._boots) + 1):
            times = [n.boottime for n in known if n.boot == boot and n.boottime is not None]
            age += now.get(boot, max(times, default=0))
        return age - (known[0].boottime or 0)

    def _boot(self, number: int) -> int:
        return bisect_right(self._boots, number)

    def _drop_oldest(self, why: str) -> bool:
        """Drop the oldest number that is not written any more; tell whether there was one."""
        if not self._numbers:
            return False
        number = min(self._numbers)
        if not self._numbers[number].sealed:
            self._settle(number)
            if self._numbers[number].sealed:
                return True  # it takes less than it was counted for
        known = self._numbers[number]
        self.dropped = _joined(self.dropped, number, known, why)
        append_line(self._listing, self.dropped.line())
        del self._numbers[number]
        _remove(self._directory, number)
        self.count_rest()
        return True

    def _statvfs(self) -> int:
        found = os.fstatvfs(self._directory.descriptor)
        return found.f_bavail * found.f_frsize

    def _size_of(self, number: int) -> int:
        total = 0
        for folder in _folders(self._directory, number):
            for name in folder.names():
                if name.split(".")[0] == f"{number:06d}" or folder.path.parent.name == DAMAGED:
                    with contextlib.suppress(FileNotFoundError):
                        total += _pages(os.stat(name, dir_fd=folder.descriptor).st_size)
        return total

    def _find(self, listed: Listed) -> None:
        """Take in what is there already, all of it sealed."""
        for sealed in listed.sealed:
            rows = sealed.files[SOCKETS.name].rows if SOCKETS.name in sealed.files else 0
            self._numbers[sealed.number] = _Number(
                self._size_of(sealed.number),
                # of those behind a damage it is unknown how many they were
                None if sealed.aside else sealed.samples,
                None if sealed.aside else rows,
                sealed.first,
                sealed.last,
                self._boot(sealed.number),
                sealed.boottime,
                sealed=True,
            )


def _joined(before: Dropped | None, number: int, known: _Number, why: str) -> Dropped:
    if before is None:
        return Dropped(number, 1, known.samples, known.socket_rows, known.first, known.last, why)
    return Dropped(
        number,
        before.numbers + 1,
        _sum(before.samples, known.samples),
        _sum(before.socket_rows, known.socket_rows),
        before.first if before.first is not None else known.first,
        known.last if known.last is not None else before.last,
        why,
    )


def _sum(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one + other


def _pages(size: int) -> int:
    return -(-size // _PAGE) * _PAGE


def _folders(directory: Directory, number: int) -> Iterator[Directory]:
    """Yield the folders in which a number may have files, open as long as they are looked at."""
    for table in TABLES:
        with contextlib.suppress(FileNotFoundError), directory.folder(table) as folder:
            yield folder
    with (
        contextlib.suppress(FileNotFoundError),
        directory.folder(DAMAGED) as damaged,
        damaged.folder(f"{number:06d}") as aside,
    ):
        yield aside


def _remove(directory: Directory, number: int) -> None:
    """Remove all files of a number, of which the list says already that it was dropped."""
    for table in TABLES:
        with contextlib.suppress(FileNotFoundError), directory.folder(table) as folder:
            for name in (segment_name(number), journal_name(number)):
                folder.discard(name)
                folder.discard(name + TEMPORARY)
    with contextlib.suppress(FileNotFoundError), directory.folder(DAMAGED) as damaged:
        _remove_aside(damaged, f"{number:06d}")


def _remove_aside(damaged: Directory, name: str) -> None:
    with damaged.folder(name) as aside:
        for file in aside.names():
            aside.discard(file)
    os.rmdir(name, dir_fd=damaged.descriptor)


def remove_dropped(directory: Directory, through: int) -> None:
    """Remove what is left of numbers that the list says were dropped."""
    left: set[int] = set()
    for folder in _folders(directory, 0):
        for name in folder.names():
            stem = name.split(".")[0]
            if _FOLDER.fullmatch(stem) and 0 < int(stem) <= through:
                left.add(int(stem))
    with contextlib.suppress(FileNotFoundError), directory.folder(DAMAGED) as damaged:
        left.update(int(n) for n in damaged.names() if _FOLDER.fullmatch(n) and int(n) <= through)
    for number in sorted(left):
        _remove(directory, number)
