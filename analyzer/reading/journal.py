"""The journals of a recording: Arrow streams, of which only what was committed counts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from recorder.format.journal import (
    Committed,
    JournalError,
    JournalFile,
    as_known,
    read_commits,
    same_width,
)
from recorder.schema import TABLES, Table, journal_schema

# What pyarrow raises for bytes that it cannot make sense of.
_DAMAGE = (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError)


@dataclass(frozen=True, slots=True)
class Journal:
    """What was committed to one journal; it stays readable when its file is removed."""

    table: Table
    file: JournalFile
    ranges: tuple[tuple[int, int], ...]

    @property
    def bytes(self) -> int:
        return sum(end - start for start, end in self.ranges)

    def batches(self, columns: frozenset[str]) -> Iterator[pa.RecordBatch]:
        """Yield batches of the journal's own types with at least those columns, once per call.

        Only these columns are decompressed. Raises JournalError.
        """
        known = journal_schema(self.table)
        try:
            names = self._stream().schema.names
            # An empty list would mean every column.
            fields = [i for i, name in enumerate(names) if name in columns] or [0]
            for batch in self._stream(fields):
                batch.validate(full=True)  # the checksum does not vouch for who made it
                yield as_known(batch, known)
        except _DAMAGE as error:
            raise _damaged(self.file.path, error) from error

    def check(self) -> None:
        """Raise JournalError unless every column is one of the table's, in its journal type."""
        known = journal_schema(self.table)
        path = self.file.path
        try:
            schema = self._stream().schema
            names = list(schema.names)  # text that is no UTF-8 is an error only now
        except _DAMAGE as error:
            raise _damaged(path, error) from error
        if len(set(names)) != len(names):
            raise JournalError(f"{path}: a column occurs twice")
        for field in schema:
            if field.name not in known.names:
                raise JournalError(f"{path}: unknown column {field.name[:60]!r}")
            if not same_width(field.type, known.field(field.name).type):
                raise JournalError(
                    f"{path}: column {field.name!r} is {field.type}, "
                    f"not {known.field(field.name).type}"
                )

    def _stream(self, fields: list[int] | None = None) -> pa.RecordBatchStreamReader:
        # Threads cost small batches seven times what they save.
        options = pa.ipc.IpcReadOptions(included_fields=fields or [], use_threads=False)
        source = pa.PythonFile(self.file.stream(self.ranges), mode="r")
        return pa.ipc.open_stream(source, options=options)


def open_journals(paths: Mapping[str, Path]) -> tuple[list[Journal], Committed]:
    """Open the journals of one number, by table, and find what was committed to them.

    Raises SockrecError or OSError.
    """
    files = {table: JournalFile(path) for table, path in paths.items()}
    committed = read_commits(files)
    journals = []
    for table, file in files.items():
        if ranges := tuple(committed.ranges(table)):
            journals.append(Journal(TABLES[table], file, ranges))
            journals[-1].check()
        else:
            file.close()
    return journals, committed


def _damaged(path: Path, error: BaseException) -> JournalError:
    what = " ".join(str(error).split()) or type(error).__name__
    return JournalError(f"{path}: damaged journal: {what}")
