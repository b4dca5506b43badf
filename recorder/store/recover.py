"""Recovering: sealing what a killed recorder left, and getting back what lies behind damage."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from recorder.format.facts import parse_facts, read_facts
from recorder.format.files import LIST_FILE, recording_file
from recorder.format.segments import Sealed, read_list
from recorder.schema import RECORDING_FILE, VERSION, SockrecError
from recorder.store.directory import Directory, open_list
from recorder.store.journal import numbers
from recorder.store.ring import remove_dropped
from recorder.store.salvage import salvage as salvage_number
from recorder.store.segment import seal


class RecoverError(SockrecError):
    """A recording that cannot be recovered as it stands."""


@dataclass
class Recovered:
    """What became of it: ``summary`` in a line, ``told`` what went wrong or was put aside."""

    summary: str = ""
    told: list[str] = field(default_factory=list)
    failed: bool = False


def recover(path: Path, *, salvage: bool = False) -> Recovered:
    """Seal every number that has journals. Raises SockrecError or OSError if none can be.

    What goes wrong with one number is told, and keeps it from no other.
    """
    directory = Directory.open(path)
    try:
        _check(directory)
        listing = open_list(directory)
        try:
            return _recover(directory, listing, salvage=salvage)
        finally:
            os.close(listing)
    finally:
        directory.close()


def _check(directory: Directory) -> None:
    place = recording_file(directory.path)
    if not directory.exists(RECORDING_FILE):
        raise RecoverError(f"{directory.path}: is not a recording: it has no {RECORDING_FILE}")
    facts = parse_facts(place, read_facts(place, directory=directory.descriptor))
    if facts["version"] != VERSION:
        raise RecoverError(
            f"{directory.path}: has version {facts['version']} of the format and this is version "
            f"{VERSION}: seal it with the sockrec that recorded it; reading does not need that"
        )


def _recover(directory: Directory, listing: int, *, salvage: bool) -> Recovered:
    result = Recovered()
    sealed = samples = 0
    through = read_list(directory.path / LIST_FILE, directory=directory.descriptor).through
    remove_dropped(directory, through)  # what a killed recorder was about to
    for number in numbers(directory):
        try:
            done = seal(directory, listing, number)
        except (SockrecError, OSError, MemoryError) as error:
            result.told.append(str(error) or "out of memory")
            result.failed = True
            continue
        sealed += 1
        samples += done.commits
        if done.aside is not None:
            result.told.append(
                f"{directory.path / done.aside.kept}: {done.aside.bytes:,} bytes lie behind a "
                f"damage and are kept there ({done.aside.why}): recover --salvage reads from them "
                "what can be proven"
            )
    known, damaged, _ = read_list(directory.path / LIST_FILE, directory=directory.descriptor)
    if damaged:
        result.told.append(f"{directory.path / LIST_FILE}: {damaged} of its lines are damaged")
        result.failed = True
    result.summary = f"{_count(sealed, 'segment')} sealed in {directory.path}"
    result.summary += f", {_count(samples, 'commit')}" if sealed else ""
    if salvage:
        got = _salvage(directory, listing, known, result)
        result.summary += f"; {_count(got, 'sample')} salvaged from behind damage"
    return result


def _salvage(directory: Directory, listing: int, known: Sequence[Sealed], result: Recovered) -> int:
    got = 0
    for one in known:
        if one.aside is None or any(other.salvaged == one.number for other in known):
            continue
        try:
            salvaged = salvage_number(directory, listing, one)
        except (SockrecError, OSError, MemoryError) as error:
            result.told.append(str(error) or "out of memory")
            result.failed = True
            continue
        if salvaged is None:
            result.told.append(f"{directory.path / one.aside.kept}: holds no sample that is whole")
            continue
        got += salvaged.samples
        if salvaged.unknown_words:
            result.told.append(
                f"{directory.path}: segment {salvaged.number}: {salvaged.unknown_words:,} words "
                "are unknown, as what they refer to is damaged"
            )
    return got


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + "s" * (number != 1)
