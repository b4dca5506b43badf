"""Small files that ask for very much memory, as a stranger may send them."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recorder.schema import SOCKETS, TABLES, journal_schema, public_schema
from tests.analyzer.support.recordings import FACTS, NETNS, Writer, tcp

MEGA = 1 << 20


def _columns(rows: int) -> dict[str, Any]:
    """Return what tells the rows of sockets apart."""
    return {
        "sample": pa.array(np.zeros(rows, np.int64)),
        "sample_time": pa.array(np.zeros(rows, "datetime64[us]")),
        "netns": pa.array(np.full(rows, NETNS)),
        "cookie": pa.array(np.arange(rows, dtype=np.int64)),
        "netid": _repeated("tcp", rows),
        "state": _repeated("ESTAB", rows),
    }


def _repeated(word: str, rows: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array([word]))


def _write(folder: Path, columns: dict[str, Any], **options: Any) -> Path:
    """Write a whole recording of which the sockets are these."""
    writer = Writer(folder)
    writer.sample([tcp(1)])
    writer.seal()
    identity = {
        "sockrec.version": "2",
        "sockrec.table": "sockets",
        "sockrec.recording": json.dumps(FACTS),
    }
    pq.write_table(
        pa.table(columns).replace_schema_metadata(identity),
        folder / "sockets/000001.parquet",
        **{
            "compression": "zstd",
            "dictionary_pagesize_limit": 1 << 30,
            "write_statistics": False,
        }
        | options,
    )
    return folder


def one_long_word(folder: Path) -> Path:
    """300,000 rows of the same name of a megabyte, which the file has once."""
    rows = 300_000
    return _write(folder, _columns(rows) | {"comm": _repeated("a" * MEGA, rows)})


def many_long_words(folder: Path) -> Path:
    """A dictionary of 300 names of a megabyte, which compress to nothing."""
    rows = 300
    words = pa.array([f"{n:04d}" + "a" * MEGA for n in range(rows)])
    comm = pa.DictionaryArray.from_arrays(pa.array(np.arange(rows, dtype=np.int32)), words)
    return _write(folder, _columns(rows) | {"comm": comm})


def a_long_page(folder: Path) -> Path:
    """A million rows of zeros in a hundred columns, in pages of a column each."""
    rows = MEGA
    zeros = pa.array(np.zeros(rows, np.int64))
    known = _columns(rows)
    names = [f.name for f in public_schema(SOCKETS) if f.type == pa.int64() and f.name not in known]
    columns = known | dict.fromkeys(names[:100], zeros)
    options = {"use_dictionary": ["netid", "state"], "data_page_size": 1 << 30}
    return _write(folder, columns, row_group_size=rows, **options)


def many_row_groups(folder: Path) -> Path:
    """Row groups of a row, of which a footer has the facts of each."""
    columns = {name: values for name, values in _columns(10_000).items() if name != "state"}
    return _write(folder, columns, row_group_size=1)


def a_long_batch(folder: Path) -> Path:
    """A journal with a batch of thirty million rows, well committed."""
    writer = Writer(folder)
    rows, schema = 30_000_000, journal_schema(TABLES["sockets"])
    schema = pa.schema([schema.field(name) for name in ("sample", "cookie", "recv_q", "send_q")])
    columns = [pa.array(np.zeros(rows, f.type.to_pandas_dtype())) for f in schema]
    journal = writer._journals["sockets"]
    journal.bytes = io.BytesIO()
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with pa.ipc.new_stream(journal.bytes, schema, options=options) as stream:
        stream.write_batch(pa.record_batch(columns, schema=schema))
    del columns
    writer.sample([])
    return folder


LARGE: dict[str, Callable[[Path], Path]] = {
    make.__name__: make
    for make in (one_long_word, many_long_words, a_long_page, many_row_groups, a_long_batch)
}
