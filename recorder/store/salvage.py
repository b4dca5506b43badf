"""What can be proven of the journals that were put aside, because a commit in them is damaged.

A sample behind a damage is whole if its commit stands there with its own checksum, and every range
that the commit names has the bytes it had. Words are another matter: a journal writes a dictionary
once and refers to it later, so that behind a gap a text column has no value until its dictionary
comes again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version

import pyarrow as pa

from recorder.format.facts import parse_facts, read_facts
from recorder.format.files import LIST_FILE, number_of, recording_file
from recorder.format.journal import (
    Commit,
    JournalError,
    JournalFile,
    check_range,
    find_commits,
    read_commits,
)
from recorder.format.messages import dictionary_id
from recorder.format.segments import Sealed, read_list
from recorder.schema import (
    JOURNAL_SUFFIX,
    SAMPLES,
    SEGMENT_SUFFIX,
    TABLES,
    SockrecError,
    Table,
    journal_schema,
)
from recorder.store.directory import Directory
from recorder.store.journal import BatchMaker, Journals, numbers
from recorder.store.segment import seal


class SalvageError(SockrecError):
    """Journals of which nothing can be proven."""


@dataclass(frozen=True)
class Salvaged:
    """What was got: samples, and the values of text columns that could not be told."""

    number: int
    samples: int
    unknown_words: int


def salvage(directory: Directory, listing: int, sealed: Sealed) -> Salvaged | None:
    """Seal, under a number of its own, what is whole behind the damage of a number.

    Returns None if nothing is. Raises SockrecError or OSError; what was put aside stays as it is.
    """
    assert sealed.aside is not None
    head, _, tail = sealed.aside.kept.rpartition("/")
    with (
        directory.folder(head) as damaged,
        damaged.folder(tail) as aside,
        contextlib.ExitStack() as opened,
    ):
        journals: dict[str, JournalFile] = {}
        for table in TABLES:
            path = aside.path / f"{table}{JOURNAL_SUFFIX}"
            with contextlib.suppress(FileNotFoundError):
                journals[table] = JournalFile(path, directory=aside.descriptor)
                opened.callback(journals[table].close)
        committed = read_commits(journals)
        behind = [
            commit
            for commit in find_commits(journals, committed.end)
            if _is_whole(commit, journals)
        ]
        if not behind:
            return None
        _check_schema(directory)
        number = free_number(directory)
        target = Journals(directory, number)
        try:
            unknown = _write(target, journals, committed.commits, behind)
        finally:
            target.close()
    seal(directory, listing, number, salvaged=sealed.number)
    return Salvaged(number, len({commit.sample for commit in behind}), unknown)


def _is_whole(commit: Commit, journals: Mapping[str, JournalFile]) -> bool:
    for name, (start, end, _) in commit.ranges.items():
        if start == end:
            continue
        if name not in journals:
            return False
        try:
            check_range(commit, name, journals[name])
        except JournalError:
            return False
    return True


def _check_schema(directory: Directory) -> None:
    """Raise SalvageError unless the journals have the columns of this sockrec."""
    place = recording_file(directory.path)
    facts = parse_facts(place, read_facts(place, directory=directory.descriptor))
    if facts.get("sockrec") != version("sockrec"):
        raise SalvageError(
            f"{directory.path}: was recorded by sockrec {facts.get('sockrec')}, which alone knows "
            f"for sure what its journals hold; this is {version('sockrec')}"
        )


def free_number(directory: Directory) -> int:
    """Return a number above all that are taken."""
    listed = read_list(directory.path / LIST_FILE, directory=directory.descriptor)
    taken = {listed.through, *numbers(directory), *(one.number for one in listed.sealed)}
    with contextlib.suppress(FileNotFoundError), directory.folder(SAMPLES.name) as folder:
        taken.update(number_of(name, SEGMENT_SUFFIX) or 0 for name in folder.names())
    return max(taken) + 1


def _write(
    target: Journals,
    journals: Mapping[str, JournalFile],
    accepted: Sequence[Commit],
    behind: Sequence[Commit],
) -> int:
    """Write the samples behind the damage as journals; return how many words are unknown."""
    unknown = 0
    rows = {
        name: _batches(table, journals[name], accepted, behind)
        for name, table in TABLES.items()
        if name in journals
    }
    for commit in behind:
        for name, batches in rows.items():
            for batch, words in next(batches):
                target.append(name, batch)
                unknown += words
        target.commit(commit.sample)
    return unknown


def _batches(
    table: Table, journal: JournalFile, accepted: Sequence[Commit], behind: Sequence[Commit]
) -> Iterator[list[tuple[pa.RecordBatch, int]]]:
    """Yield, for each commit behind the damage, its batches, and the words lost in each."""
    schema = journal_schema(table)
    text = [index for index, field in enumerate(schema) if pa.types.is_dictionary(field.type)]
    parts: list[bytes] = [_beginning(table)]
    wanted: list[tuple[int, frozenset[int]] | None] = [None]  # a batch: its commit, stale columns
    stale: set[int] = set()
    reached = 0
    for place, commit in enumerate([*accepted, *behind], -len(accepted)):
        start, end, _ = commit.ranges.get(table.name, (reached, reached, 0))
        gap = start != reached if table != SAMPLES else place == 0
        if gap:
            stale = set(text)
        for kind, message, data in _messages(journal, start, end):
            if kind == "schema":
                continue
            if kind == "dictionary":
                stale.discard(text[dictionary_id(message)])
            else:
                wanted.append((place, frozenset(stale)) if place >= 0 else None)
            parts.append(data)
        reached = end
    found: list[list[tuple[pa.RecordBatch, int]]] = [[] for _ in behind]
    options = pa.ipc.IpcReadOptions(use_threads=False)
    with pa.ipc.open_stream(pa.BufferReader(b"".join(parts)), options=options) as reader:
        for which, batch in zip(wanted, reader, strict=True):
            if which is not None:
                found[which[0]].append(_without(batch, which[1]))
    yield from found


def _beginning(table: Table) -> bytes:
    """Return a stream of the table with empty dictionaries."""
    sink = pa.BufferOutputStream()
    writer = pa.ipc.new_stream(sink, journal_schema(table))
    writer.write_batch(BatchMaker(table).make(0, {}))
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _messages(
    journal: JournalFile, start: int, end: int
) -> Iterator[tuple[str, pa.Message, bytes]]:
    """Yield kind, message and bytes of the messages in a range that a checksum vouches for."""
    data = journal.read(start, end - start)
    source = pa.BufferReader(data)
    reader = pa.ipc.MessageReader.open_stream(source)
    place = 0
    while place < len(data):
        message = reader.read_next_message()
        yield message.type, message, data[place : source.tell()]
        place = source.tell()


def _without(batch: pa.RecordBatch, columns: frozenset[int]) -> tuple[pa.RecordBatch, int]:
    """Return a batch with NULL in some text columns, and how many words were there."""
    lost = 0
    arrays = batch.columns
    for index in columns:
        kind = arrays[index].type
        indices = arrays[index].indices
        lost += len(indices) - indices.null_count
        arrays[index] = pa.DictionaryArray.from_arrays(
            pa.nulls(len(batch), kind.index_type), pa.array([], pa.string())
        )
    return pa.RecordBatch.from_arrays(arrays, schema=batch.schema), lost
