"""A recording in the forms of other programs: DuckDB, one flat Parquet, CSV, Perfetto."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from analyzer import Analysis
from analyzer.screen.cells import rows
from analyzer.screen.render import Format, write
from analyzer.sharing.output import Report
from analyzer.sharing.selection import check_one
from analyzer.sharing.words import Form
from analyzer.sql.engine import Engine
from analyzer.sql.views import OWN, lay_stored
from recorder.schema import TABLES, SockrecError

ROW_GROUP_ROWS = 80_000

_FLAT = "SELECT * FROM sockets"

_CONNECTIONS = """
SELECT
  ns, cookie, pid, comm, netid, local, peer, role, last_state, closed_first, first_us, last_us,
  bytes_sent, bytes_received, retransmitted
FROM (SELECT *, total_retrans AS retransmitted FROM connections)
WHERE first_us IS NOT NULL
ORDER BY first_us, ns, cookie
"""


class ExportError(SockrecError):
    """What cannot be made of a recording."""


ENDINGS = {
    Form.duckdb: ".duckdb",
    Form.parquet: ".parquet",
    Form.csv: ".csv",
    Form.perfetto: ".json",
}


def export(
    opened: Analysis,
    place: Path,
    form: Form,
    report: Report = lambda done, of: None,
) -> None:
    """Write a new file, readable by its owner only. Raises SockrecError or OSError."""
    check_one(opened.engine)
    if form is Form.duckdb:
        _to_duckdb(opened.engine, place, report)
        return
    query = _CONNECTIONS if form is Form.perfetto else _FLAT
    with opened.engine.run(query) as (schema, batches):
        place.touch(mode=0o600, exist_ok=False)
        if form is Form.parquet:
            _to_parquet(place, schema, batches)
        elif form is Form.csv:
            with place.open("w", encoding="utf-8", newline="") as out:
                write(schema, batches, Format.csv, out)
        else:
            with place.open("w", encoding="utf-8") as out:
                out.writelines(_trace(schema, batches))


def _to_parquet(place: Path, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> None:
    with pq.ParquetWriter(place, schema, compression="zstd", write_page_checksum=True) as writer:
        waiting: list[pa.RecordBatch] = []
        count = 0
        for batch in batches:
            waiting.append(batch)
            count += batch.num_rows
            if count >= ROW_GROUP_ROWS:
                writer.write_table(pa.Table.from_batches(waiting, schema=schema))
                waiting, count = [], 0
        if waiting:
            writer.write_table(pa.Table.from_batches(waiting, schema=schema))


def _to_duckdb(engine: Engine, place: Path, report: Report) -> None:
    """Make a database with the tables and every view, for any client of DuckDB."""
    (scope,) = engine.scopes()
    context = engine.recordings[0].cut.context
    names = [*TABLES, OWN] if context else [*TABLES]
    place.touch(mode=0o600, exist_ok=False)
    place.unlink()  # DuckDB makes its file itself, in the folder that is ours
    try:
        with duckdb.connect(str(place)) as connection:
            connection.execute("CREATE SCHEMA raw")
            for number, name in enumerate(names):
                with engine.run(f"SELECT * FROM raw.{name}") as (schema, batches):
                    reader = pa.RecordBatchReader.from_batches(schema, batches)
                    connection.register("given", reader)
                    connection.execute(f"CREATE TABLE raw.{name} AS SELECT * FROM given")
                    connection.unregister("given")
                report(number + 1, len(names))
            lay_stored(connection, scope)
            connection.execute("CHECKPOINT")
    except duckdb.Error as error:
        what = " ".join(str(error).split())
        raise ExportError(f"{place.name}: DuckDB could not write it: {what}") from error
    place.chmod(0o600)


def _trace(schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> Iterator[str]:
    """Yield a trace of the connections of each process, as the Perfetto UI opens it (JSON)."""
    yield '{"displayTimeUnit":"ms","traceEvents":[\n'
    known: set[object] = set()
    comma = ""
    for values in rows(batches):
        row = dict(zip(schema.names, values, strict=True))
        pid = row["pid"] if row["pid"] is not None else 0
        if pid not in known:
            known.add(pid)
            name = row["comm"] if pid else "no process known"
            yield comma + _line(ph="M", name="process_name", pid=pid, args={"name": name})
            comma = ",\n"
        span = max(int(row["last_us"] or row["first_us"]) - int(row["first_us"]), 1)
        # Connections overlap: each is a track of its own, which spans of one name share.
        for phase, moment in (("b", row["first_us"]), ("e", int(row["first_us"]) + span)):
            yield comma + _line(
                ph=phase,
                cat=row["netid"],
                name=f"{row['local']} {row['peer']}",
                id=f"{row['ns']}/{row['cookie']}",
                pid=pid,
                tid=pid,
                ts=int(moment),
                **({"args": _arguments(row)} if phase == "b" else {}),
            )
    yield "\n]}\n"


def _arguments(row: dict[str, object]) -> dict[str, object]:
    left = "ns cookie pid comm netid local peer first_us last_us".split()
    return {name: value for name, value in row.items() if name not in left and value is not None}


def _line(**event: Any) -> str:
    return json.dumps(event, separators=(",", ":"), default=str)
