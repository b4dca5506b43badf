"""Printing: plain and stable in a pipe, and no name from a recording does anything to a reader."""

import csv
import io
import json
import os
import pty
import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analyzer.render import MAX_TABLE_ROWS, Format, printable, write

HOSTILE = [
    "\x1b]0;owned\x07",
    "\x1b[2J\x1b[H",
    "\x9b31m",
    "[bold red]loud[/bold red]",
    "[link=file:///etc/passwd]x[/link]",
    ":skull:",
    "two\nlines",
    "car\rriage",
    "\u202egnp.exe",
    "\u2028",
    "nul\x00",
    "=cmd|' /C calc'!A0",
    "+1",
    "-1+2",
    "@SUM(A1)",
    "\t=1",
    "<script>alert(1)</script>",
    'quo"te, comma',
    "\U0001f600",
    "\\x1b",
    "",
]
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def text_of(table: pa.Table, form: Format) -> str:
    out = io.StringIO()
    write(table.schema, table.to_batches(), form, out)
    return out.getvalue()


def on_terminal(table: pa.Table) -> str:
    """Return what is written when the output is a terminal, of 100 columns (conftest.py)."""
    leader, follower = pty.openpty()
    with os.fdopen(follower, "w", encoding="utf-8") as out:
        write(table.schema, table.to_batches(), Format.table, out)
        out.flush()
        text = os.read(leader, 1 << 16).decode()
    os.close(leader)
    return text.replace("\r\n", "\n")


def table(**columns: list[Any]) -> pa.Table:
    return pa.table(columns)


@pytest.mark.parametrize("form", list(Format))
@pytest.mark.parametrize("text", HOSTILE)
def test_no_control_character_gets_through(form: Format, text: str) -> None:
    shown = text_of(table(comm=[text], **{text or "empty": [text]}), form)
    assert CONTROL.findall(shown) == []
    assert len(shown.splitlines()) == (3 if form is Format.json else 2)


@pytest.mark.parametrize("text", HOSTILE)
def test_a_terminal_gets_no_markup_and_no_escape(text: str) -> None:
    shown = on_terminal(table(comm=[text], n=[1]))
    assert CONTROL.findall(shown) == []
    assert printable(text) in shown


@pytest.mark.parametrize("form", list(Format))
@given(text=st.text())
def test_any_text_is_one_plain_cell(form: Format, text: str) -> None:
    shown = text_of(pa.table({"comm": pa.array([text, "next"], pa.string())}), form)
    assert CONTROL.findall(shown) == []
    if form is Format.csv:
        rows = list(csv.reader(io.StringIO(shown)))
        assert len(rows) == 3
        assert not (rows[1] or [""])[0].startswith(("=", "+", "-", "@", "\t", "\r"))
    if form is Format.json:
        assert json.loads(shown)[0]["comm"] == text


def test_numbers_are_no_formulas() -> None:
    shown = text_of(table(a=[-1], b=[-1.5], c=[Decimal("-2")], d=["-1"]), Format.csv)
    assert shown == "a,b,c,d\n-1,-1.5,-2,'-1\n"


def test_null_is_not_empty_and_not_zero() -> None:
    rows = table(a=[None, 0], b=[None, ""], c=[None, "x"])
    assert text_of(rows, Format.json) == (
        '[\n{"a": null, "b": null, "c": null},\n{"a": 0, "b": "", "c": "x"}\n]\n'
    )
    assert text_of(rows, Format.table) == "a  b  c\n-  -  -\n0     x\n"
    assert text_of(rows, Format.csv) == "a,b,c\n,,\n0,,x\n"


def test_times_are_utc_and_numbers_stand_right() -> None:
    rows = table(
        time=[datetime(2026, 11, 22, 15, 4, 5, 123456)], n=[12345678901234567], share=[0.1]
    )
    assert text_of(rows, Format.table).splitlines() == [
        "time                                     n  share",
        "2026-11-22 15:04:05.123  12345678901234567    0.1",
    ]
    assert text_of(rows, Format.csv).splitlines()[1] == (
        "2026-11-22T15:04:05.123456Z,12345678901234567,0.1"
    )
    assert json.loads(text_of(rows, Format.json)) == [
        {"time": "2026-11-22T15:04:05.123456Z", "n": 12345678901234567, "share": 0.1}
    ]


def test_every_type_has_a_json_word() -> None:
    rows = pa.table(
        {
            "nan": pa.array([float("nan")]),
            "huge": pa.array([Decimal(2**100)], pa.decimal128(38, 0)),
            "list": pa.array([[1, None]]),
            "struct": pa.array([{"a": datetime(2026, 1, 1, tzinfo=UTC)}]),
            "blob": pa.array([b"\x00\xff"]),
            "flag": pa.array([True]),
        }
    )
    assert json.loads(text_of(rows, Format.json)) == [
        {
            "nan": None,
            "huge": 2**100,
            "list": [1, None],
            "struct": {"a": "2026-01-01T00:00:00+00:00"},
            "blob": "00ff",
            "flag": True,
        }
    ]
    assert "true" in text_of(rows, Format.csv)
    assert "00ff" in text_of(rows, Format.table)


@pytest.mark.parametrize("form", list(Format))
def test_no_rows_are_still_named(form: Format) -> None:
    shown = text_of(pa.table({"a": pa.array([], pa.int64())}), form)
    assert shown == ("[]\n" if form is Format.json else "a\n")


def test_a_long_table_says_that_it_is_cut(capsys: pytest.CaptureFixture[str]) -> None:
    rows = table(n=list(range(MAX_TABLE_ROWS + 1)))
    assert len(text_of(rows, Format.table).splitlines()) == MAX_TABLE_ROWS + 1
    assert "only the first 1,000 rows" in capsys.readouterr().err
    assert len(text_of(rows, Format.csv).splitlines()) == MAX_TABLE_ROWS + 2
    assert capsys.readouterr().err == ""


def test_a_row_that_does_not_fit_the_terminal_is_printed_over_lines() -> None:
    wide = table(**{f"column_{i}": [i if i % 2 else None] for i in range(20)})
    shown = on_terminal(wide)
    assert shown.splitlines()[0] == "row 1"
    assert "  column_1   1" in shown
    assert "column_0 " not in shown
    assert max(map(len, shown.splitlines())) <= 100
