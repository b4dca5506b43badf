"""Writes small journals of random sockets, with the recorder's own writer, and seals them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa

from recorder.format.files import journal_name, segment_name
from recorder.format.journal import Committed, read_commits
from recorder.format.segments import Sealed
from recorder.schema import OWNERS, RECORDING_FILE, SAMPLES, SOCKETS, VERSION
from recorder.store import journal, segment
from recorder.store.directory import Directory, open_list
from recorder.store.journal import BatchMaker, Journals, open_journals
from recorder.wire.columns import Values

FACTS = {"version": VERSION, "sockrec": version("sockrec")}


def write(
    directory: Path, samples: int, rows: int = 50, number: int = 1, *, sync: bool = False
) -> list[tuple[int, int]]:
    """Write a journal of random sockets; return its (sample, cookie) pairs."""
    (directory / RECORDING_FILE).write_text(json.dumps(FACTS))
    opened = Directory.open(directory)
    journals = Journals(opened, number, sync=sync)
    makers = {table.name: BatchMaker(table) for table in (SOCKETS, SAMPLES, OWNERS)}
    random = np.random.default_rng(7)
    pairs = []
    for sample in range(samples):
        for part in range(2):
            cookies = random.permutation(rows).astype(np.uint64) * 3 + part
            pairs += [(sample, int(cookie)) for cookie in cookies]
            columns: dict[str, Values | pa.Array] = {
                "sample": Values(np.full(rows, sample, np.uint32)),
                "sample_time": Values(np.full(rows, 10**15 + sample, np.int64)),
                "netns": Values(np.full(rows, 4026531840, np.uint64)),
                "cookie": Values(cookies),
                "rtt_us": Values(random.integers(0, 9, rows).astype(np.uint32), cookies % 2 == 0),
                "bytes_acked": Values(cookies * 1000 + np.uint64(sample)),
                "v6only": Values((cookies % 2).astype(np.uint8)),
                "local_addr": pa.array([f"10.0.{part}.{c}" for c in cookies]).dictionary_encode(),
                "comm": pa.array(["nginx" if c % 2 else None for c in cookies]).dictionary_encode(),
            }
            journals.append("sockets", makers["sockets"].make(rows, columns))
        journals.append(
            "samples",
            makers["samples"].make(
                1,
                {
                    "sample": Values(np.array([sample], np.uint32)),
                    "sample_time": Values(np.array([10**15 + sample], np.int64)),
                    "boottime_us": Values(np.array([10**9 + sample], np.int64)),
                    "step": pa.array(["tcp"]).dictionary_encode(),
                },
            ),
        )
        journals.append("owners", makers["owners"].make(1, {"pid": Values(np.array([7], "i4"))}))
        journals.commit(sample)
    journals.close()
    opened.close()
    return pairs


def journal_path(directory: Path, table: str, number: int) -> Path:
    return directory / table / journal_name(number)


def segment_path(directory: Path, table: str, number: int) -> Path:
    return directory / table / segment_name(number)


def committed(directory: Path, number: int) -> Committed:
    """Return what the reader accepts of a number, of a recording that may yet have to begin."""
    if not directory.exists():
        return Committed((), 0, 0, "", damaged=False)
    with _opened(directory) as opened, open_journals(opened, number) as journals:
        return read_commits(journals)


def numbers(directory: Path) -> list[int]:
    """Return the numbers that have journals."""
    with _opened(directory) as opened:
        return journal.numbers(opened)


def is_sealed(directory: Path, number: int) -> bool:
    with _opened(directory) as opened:
        return segment.is_sealed(opened, number)


def seal(directory: Path, number: int) -> Sealed:
    """Seal a number as the sealing child does."""
    with _opened(directory) as opened:
        listing = open_list(opened)
        try:
            return segment.seal(opened, listing, number)
        finally:
            os.close(listing)


@contextmanager
def _opened(path: Path) -> Iterator[Directory]:
    directory = Directory.open(path)
    try:
        yield directory
    finally:
        directory.close()
