"""Parquet files from strangers: refused in one line before DuckDB sees them."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analyzer.reading import segment
from analyzer.reading.segment import SegmentError, read_segment
from recorder.schema import SOCKETS, SockrecError, public_schema
from tests.analyzer.support.recordings import FACTS, tcp, time_of, write_segment

ROW = tcp(1) | {"sample": 0, "sample_time": time_of(0), "netns": 1}
IDENTITY = {"sockrec.version": "1", "sockrec.table": "sockets", "sockrec.recording": "{}"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.parquet"


def write(path: Path, columns: dict[str, Any], **options: Any) -> None:
    """Write a file that says it is of sockets, with any columns."""
    pq.write_table(pa.table(columns).replace_schema_metadata(IDENTITY), path, **options)


def refusal(path: Path) -> str:
    with pytest.raises(SegmentError) as caught:
        read_segment(path, follow=False)
    text = str(caught.value)
    assert text.startswith(str(path))
    assert "\n" not in text
    return text


def test_a_segment_is_taken_with_or_without_the_arrow_schema(path: Path) -> None:
    write_segment(path, "sockets", [ROW], FACTS)
    found = read_segment(path, follow=False)
    assert found.columns == SOCKETS.names
    assert found.rows == 1
    whole = pq.read_table(path)
    with pq.ParquetWriter(path, whole.schema, store_schema=False, compression="zstd") as writer:
        writer.write_table(whole)
        writer.add_key_value_metadata(IDENTITY)
    assert read_segment(path, follow=False).columns == SOCKETS.names


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"evil": [1]}, "no column 'evil'"),
        ({"sample": ["0"]}, "is BYTE_ARRAY String, not int64"),
        ({"sample": pa.array([0], pa.uint64())}, "not int64"),
        ({"sample": pa.array([0], pa.int32())}, "not int64"),
        ({"comm": pa.array([b"x"], pa.binary())}, "not string"),
        ({"sample_time": pa.array([0], pa.timestamp("us", "UTC"))}, r"not timestamp\[us\]"),
        ({"sample": [[1]]}, "no column 'sample.list.element'"),
        ({"sample": [{"a": 1}]}, "no column 'sample.a'"),
        ({f"c{n}": [1] for n in range(1001)}, "1,001 columns"),
        ({"\x1b[2J": [1]}, r"'\\x1b\[2J'"),
    ],
)
def test_foreign_columns_are_refused(path: Path, columns: dict[str, Any], said: str) -> None:
    write(path, columns)
    with pytest.raises(SegmentError, match=said):
        read_segment(path, follow=False)


def test_a_column_that_occurs_twice_is_refused(path: Path) -> None:
    column = pa.array([1], pa.int64())
    schema = pa.schema([("sample", pa.int64()), ("sample", pa.int64())], metadata=IDENTITY)
    pq.write_table(pa.Table.from_arrays([column, column], schema=schema), path)
    assert "occurs twice" in refusal(path)


def test_a_foreign_file_is_refused(path: Path) -> None:
    pq.write_table(pa.table({"a": [1]}), path)
    assert "not one of a sockrec recording" in refusal(path)
    write_segment(path, "sockets", [ROW], FACTS, table="passwords")
    assert "does not know: 'passwords'" in refusal(path)
    for version in ("0", "-1", "one", "9" * 30):
        write_segment(path, "sockets", [ROW], FACTS, version=version)
        assert "no format version" in refusal(path)
    write_segment(path, "sockets", [ROW], FACTS, version="3")
    assert "format version 3, this sockrec reads up to 2" in refusal(path)


def test_a_damaged_footer_is_refused(path: Path) -> None:
    write_segment(path, "sockets", [ROW], FACTS)
    whole = path.read_bytes()
    path.write_bytes(b"")
    assert "not a Parquet file" in refusal(path)
    path.write_bytes(whole[:-1])
    assert "cut short" in refusal(path)
    path.write_bytes(whole[:-8] + (0x7FFFFFFF).to_bytes(4, "little") + b"PAR1")
    assert "footer claims 2,147,483,647 bytes" in refusal(path)
    path.write_bytes(whole[:-8] + (5).to_bytes(4, "little") + b"PAR1")
    assert "damaged" in refusal(path)
    path.write_bytes(b"x" * 4 + whole[4:])
    assert "not a Parquet file" in refusal(path)


def test_a_footer_of_more_than_16_mib_is_refused(path: Path) -> None:
    padding = IDENTITY | {"padding": "x" * (17 << 20)}
    pq.write_table(pa.table({"sample": [1]}).replace_schema_metadata(padding), path)
    assert "footer claims" in refusal(path)


def test_row_groups_too_large_are_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(path, {"sample": list(range(100))})
    monkeypatch.setattr(segment, "MAX_ROW_GROUP_ROWS", 99)
    assert "row group 0 has 100 rows" in refusal(path)
    monkeypatch.setattr(segment, "MAX_ROW_GROUP_ROWS", 100)
    monkeypatch.setattr(segment, "MAX_ROW_GROUP_BYTES", 99)
    assert "bytes" in refusal(path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("segment") / "x.parquet"
    write_segment(path, "owners", [{"pid": 1, "comm": "x"}], FACTS)
    return path.read_bytes()


@settings(max_examples=300)
@given(place=st.integers(0, 1 << 32), byte=st.integers(0, 255))
def test_any_damage_is_a_known_error_or_harmless(
    place: int, byte: int, whole: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "mutated.parquet"
    damaged = bytearray(whole)
    damaged[place % len(whole)] = byte
    path.write_bytes(damaged)
    try:
        found = read_segment(path, follow=False)
    except SockrecError as error:
        assert "\n" not in str(error)  # noqa: PT017 - both ends are right
    else:
        assert set(found.columns) <= set(public_schema(found.table).names)
