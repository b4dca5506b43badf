"""Printing: plain and stable in a pipe, and no name from a recording does anything to a reader."""

import csv
import html
import io
import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from analyzer.screen.render import (
    BINARY,
    MAX_SERIES_ROWS,
    MAX_TABLE_ROWS,
    MAX_TERMINAL_ROWS,
    Format,
    Look,
    RenderError,
    printable,
    write,
)

TEXT = [form for form in Format if form not in BINARY]
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
    "<img src=x onerror=alert(1)>",
    'quo"te, comma',
    "\U0001f600",
    "\\x1b",
    "a|b",
    "a\\|b",
    "a\\",
    "`code` | ``",
    "`",
    "@everyone",
    "fixes #1 and owner/repo#2, GH-3",
    "deadbeefdeadbeef",
    "![x](http://evil.example/x.png)",
    "see https://evil.example or www.evil.example",
    "a@evil.example",
    "<!-- x",
    "&lt;b&gt;",
    "$x^2$",
    "2001:100:ab:1::b",
    "_em_ and __strong__",
    "snake_case_name",
    " both ",
    "---",
    "-",
    "",
]
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
ANY_TEXT = st.text() | st.text("|`\\@<>[]()!*_~#:/.$&- wha\n\r\t\x00\x1b\x9b\u202e")


class Screen(io.StringIO):
    """A terminal of 100 columns (conftest.py)."""

    def isatty(self) -> bool:
        return True


def written(rows: pa.Table, form: Format, look: Look | None = None) -> bytes:
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="")
    assert write(rows.schema, rows.to_batches(), form, out, look or Look()) == rows.num_rows
    out.flush()
    return out.buffer.getvalue()


def text_of(rows: pa.Table, form: Format, look: Look | None = None) -> str:
    return written(rows, form, look).decode()


def on_terminal(rows: pa.Table, look: Look | None = None) -> str:
    out = Screen()
    write(rows.schema, rows.to_batches(), Format.table, out, look or Look())
    return out.getvalue()


def table(**columns: list[Any]) -> pa.Table:
    return pa.table(columns)


def markdown_rows(text: str) -> list[list[str]]:
    """Return the cells of a Markdown table as a reader sees them."""
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    assert [token.type for token in tokens].count("table_open") == 1
    found: list[list[str]] = []
    for token in tokens:
        if token.type == "tr_open":
            found.append([])
        if token.type == "inline":
            shown = ""
            for child in token.children or ():
                assert child.type in ("text", "text_special", "code_inline", "html_inline"), child
                if child.type == "html_inline":
                    assert child.content in ("<code>", "</code>", "<!-- -->")
                else:
                    shown += child.content
            found[-1].append(shown)
    return found


@pytest.mark.parametrize("form", TEXT)
@pytest.mark.parametrize("text", HOSTILE)
def test_no_control_character_gets_through(form: Format, text: str) -> None:
    shown = text_of(table(comm=[text], **{text or "empty": [text]}), form)
    assert CONTROL.findall(shown) == []
    assert len(shown.splitlines()) == {"json": 3, "ndjson": 1, "markdown": 3}.get(form, 2)


@pytest.mark.parametrize("text", HOSTILE)
def test_a_terminal_gets_no_markup_and_no_escape(text: str) -> None:
    shown = on_terminal(table(comm=[text], n=[1]), Look(title=text))
    assert CONTROL.findall(shown) == []
    assert printable(text) in shown


@given(text=ANY_TEXT, name=ANY_TEXT)
def test_any_text_is_one_cell_of_csv(text: str, name: str) -> None:
    shown = text_of(table(**{f"n{name}": [text, "next"]}, last=[1, 2]), Format.csv)
    assert CONTROL.findall(shown) == []
    rows = list(csv.reader(io.StringIO(shown)))
    plain = printable(text)
    formula = plain.startswith(("=", "+", "-", "@", "\t", "\r"))
    assert rows[1:] == [["'" + plain if formula else plain, "1"], ["next", "2"]]
    assert rows[0] == [f"n{printable(name)}", "last"]


@given(text=ANY_TEXT, name=ANY_TEXT)
def test_any_text_comes_back_from_json(text: str, name: str) -> None:
    rows = table(**{name: [text, None]})
    shown = text_of(rows, Format.json)
    assert shown.isascii()
    assert json.loads(shown) == [{name: text}, {name: None}]
    lines = text_of(rows, Format.ndjson)
    assert lines.isascii()
    assert [json.loads(line) for line in lines.splitlines()] == [{name: text}, {name: None}]


@given(text=ANY_TEXT, name=ANY_TEXT)
def test_any_text_is_one_cell_of_markdown(text: str, name: str) -> None:
    shown = text_of(table(**{f"n{name}": [text, "next"]}, last=[1, 2]), Format.markdown)
    assert CONTROL.findall(shown) == []
    assert all(line.startswith("| ") and line.endswith(" |") for line in shown.splitlines())
    found = markdown_rows(shown)
    assert found[1:] == [[printable(text), "1"], ["next", "2"]]
    assert found[0] == [f"n{printable(name)}", "last"]


@pytest.mark.parametrize("text", HOSTILE)
def test_markdown_has_nothing_that_github_would_make_a_link_or_a_mention_of(text: str) -> None:
    cell = text_of(table(comm=[text]), Format.markdown).splitlines()[2][2:-2]
    bare = re.sub(r"<code>.*?</code>|`[^`]*`", "", cell)
    assert not re.search(r"[@#<>\[\]|`\\$&*~]|\b_|_\b|://|www\.|:\w+:|\bGH-\d|[0-9a-f]{7}", bare)
    if cell.startswith("<code>"):
        # In code a mention is none, but what stands around an @ may still be an address.
        inside = cell.removeprefix("<code>").removesuffix("</code>")
        assert not re.search(r"[@<|`\\]", re.sub(r"&#\d+;(<!-- -->)?", "", inside))
        assert html.unescape(re.sub("<!-- -->", "", inside)) == printable(text)


@given(text=ANY_TEXT, name=ANY_TEXT)
def test_any_text_is_one_cell_of_a_table(text: str, name: str) -> None:
    rows = table(**{f"n{name}": [text, "next"]}, last=[1, 2])
    shown = text_of(rows, Format.table)
    assert CONTROL.findall(shown) == []
    assert len(shown.split("\n")) == 4
    assert CONTROL.findall(on_terminal(rows, Look(title=text))) == []


@given(
    rows=st.lists(st.tuples(ANY_TEXT | st.none(), st.integers(-(2**63), 2**63 - 1), st.floats()))
)
def test_arrow_and_parquet_keep_every_value(rows: list[tuple[str | None, int, float]]) -> None:
    columns = {
        "comm": pa.array([row[0] for row in rows], pa.string()),
        "n": pa.array([row[1] for row in rows], pa.int64()),
        "x": pa.array([row[2] for row in rows], pa.float64()),
    }
    for read in (read_arrow, read_parquet):
        found = read(pa.table(columns))
        assert found.column("comm").to_pylist() == columns["comm"].to_pylist()
        assert found.column("n").to_pylist() == columns["n"].to_pylist()
        assert str(found.column("x").to_pylist()) == str(columns["x"].to_pylist())


def read_arrow(rows: pa.Table, look: Look | None = None) -> pa.Table:
    return pa.ipc.open_stream(written(rows, Format.arrow, look)).read_all()


def read_parquet(rows: pa.Table, look: Look | None = None) -> pa.Table:
    return pq.read_table(io.BytesIO(written(rows, Format.parquet, look)))


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
    assert text_of(rows, Format.markdown) == (
        "| a | b | c |\n| ---: | --- | --- |\n| - | - | - |\n| 0 |  | x |\n"
    )


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


def test_times_of_a_zone_bear_their_offset_in_every_text() -> None:
    summer, winter = datetime(2026, 7, 1, 12), datetime(2026, 11, 22, 15, 4, 5, 250000)
    rows = table(time=pa.array([summer, winter, None], pa.timestamp("us")))
    look = Look(zone="Europe/Berlin")
    iso = ["2026-07-01T14:00:00+02:00", "2026-11-22T16:04:05.250000+01:00"]
    shown = ["2026-07-01 14:00:00.000+02:00", "2026-11-22 16:04:05.250+01:00"]
    assert text_of(rows, Format.csv, look).splitlines()[1:] == [*iso, '""']
    assert [row["time"] for row in json.loads(text_of(rows, Format.json, look))] == [*iso, None]
    ndjson = [json.loads(line) for line in text_of(rows, Format.ndjson, look).splitlines()]
    assert ndjson == [{"time": text} for text in [*iso, None]]
    assert text_of(rows, Format.table, look).split("\n")[1:-1] == [*shown, "-"]
    assert markdown_rows(text_of(rows, Format.markdown, look))[1:] == [[t] for t in [*shown, "-"]]
    assert "14:00:00+02:00" in on_terminal(rows, look)


@pytest.mark.parametrize("read", [read_arrow, read_parquet])
@pytest.mark.parametrize("zone", ["UTC", "Asia/Kolkata"])
def test_times_of_binary_formats_have_a_zone(
    read: Callable[[pa.Table, Look], pa.Table], zone: str
) -> None:
    moments = pa.array([datetime(2026, 7, 1, 12), None], pa.timestamp("us"))
    zoned = pa.array([datetime(2026, 7, 1, 12, tzinfo=UTC)] * 2, pa.timestamp("us", "US/Alaska"))
    found = read(pa.table({"time": moments, "aware": zoned, "n": [1, 2]}), Look(zone=zone))
    assert found.schema.types == [pa.timestamp("us", zone), pa.timestamp("us", zone), pa.int64()]
    assert found.column("time").cast(pa.int64()).equals(pa.chunked_array([moments.cast("int64")]))
    assert found.column("aware")[0].as_py() == datetime(2026, 7, 1, 12, tzinfo=UTC)


def test_a_time_with_a_zone_is_shown_in_utc_whatever_the_machine_has() -> None:
    rows = table(t=pa.array([datetime(2026, 7, 1, tzinfo=UTC)], pa.timestamp("us", "US/Alaska")))
    assert text_of(rows, Format.csv) == "t\n2026-07-01T00:00:00+00:00\n"


def test_what_python_has_no_value_for_is_text() -> None:
    most = pa.array([2**63 - 1, 1 - 2**63, 2**62, 0], pa.int64()).cast(pa.timestamp("us"))
    rows = pa.table(
        {
            "time": most,
            "day": pa.array([2**31 - 1, 1 - 2**31, 2**30, 0], pa.int32()).cast(pa.date32()),
            "list": pa.array([[2**62]] * 4, pa.list_(pa.int64())).cast(
                pa.list_(pa.timestamp("us"))
            ),
        }
    )
    for zone in ("UTC", "Europe/Berlin"):
        shown = text_of(rows, Format.csv, Look(zone=zone)).splitlines()
        assert shown[1] == "infinity,infinity,unreadable"
        assert shown[2] == "'-infinity,'-infinity,unreadable"
        assert shown[3] == f"{2**62},{2**30},unreadable"
        assert shown[4].startswith("1970-01-01T0")
        assert "infinity" in on_terminal(rows, Look(zone=zone))


def test_text_that_is_not_utf8_is_shown_by_its_bytes() -> None:
    bad = pa.StringArray.from_buffers(
        2, pa.py_buffer(b"\0\0\0\0\x02\0\0\0\x04\0\0\0"), pa.py_buffer(b"\xff\x1bok")
    )
    assert text_of(pa.table({"comm": bad}), Format.csv) == "comm\n\\xff\\x1b\nok\n"


def test_every_type_has_a_json_word() -> None:
    rows = pa.table(
        {
            "nan": pa.array([float("nan")]),
            "huge": pa.array([Decimal(2**100)], pa.decimal128(38, 0)),
            "list": pa.array([[1, None]]),
            "struct": pa.array([{"a": datetime(2026, 1, 1, tzinfo=UTC)}]),
            "blob": pa.array([b"\x00\xff"]),
            "flag": pa.array([True]),
            "day": pa.array([date(2026, 1, 1)]),
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
            "day": "2026-01-01",
        }
    ]
    assert "true" in text_of(rows, Format.csv)
    assert "00ff" in text_of(rows, Format.table)
    assert "00ff" in on_terminal(rows)


def test_columns_of_one_name_are_all_kept() -> None:
    rows = pa.Table.from_arrays([pa.array([1]), pa.array([2]), pa.array([3])], ["a", "a", "a_1"])
    assert json.loads(text_of(rows, Format.json)) == [{"a": 1, "a_1": 2, "a_1_1": 3}]
    assert read_parquet(rows).to_pylist() == read_arrow(rows).to_pylist()
    assert text_of(rows, Format.csv) == "a,a,a_1\n1,2,3\n"


def test_a_type_that_parquet_has_not_is_one_clear_line() -> None:
    rows = pa.table({"i": pa.array([(1, 2, 3)], pa.month_day_nano_interval())})
    with pytest.raises(RenderError, match=r"parquet: .*interval: CAST that column to VARCHAR"):
        written(rows, Format.parquet)
    assert text_of(rows, Format.csv) == 'i\n"[1, 2, 3]"\n'


@pytest.mark.parametrize("form", list(Format))
def test_no_rows_are_still_named(form: Format) -> None:
    rows = pa.table({"a": pa.array([], pa.int64())})
    if form in BINARY:
        assert (read_parquet if form is Format.parquet else read_arrow)(rows).schema == rows.schema
        return
    named = {"json": "[]\n", "ndjson": "", "markdown": "| a |\n| ---: |\n"}
    assert text_of(rows, form) == named.get(form, "a\n")


def test_a_terminal_is_not_shown_the_names_of_nothing() -> None:
    rows = pa.table({"a": pa.array([], pa.int64())})
    assert on_terminal(rows) == ""
    assert on_terminal(rows, Look(title="Leaks", chart=CHART)) == "Leaks\n"


def test_a_long_table_says_that_it_is_cut(capsys: pytest.CaptureFixture[str]) -> None:
    rows = table(n=list(range(MAX_TABLE_ROWS + 1)))
    out = io.StringIO()
    assert write(rows.schema, rows.to_batches(), Format.table, out) == MAX_TABLE_ROWS + 1
    assert len(out.getvalue().splitlines()) == MAX_TABLE_ROWS + 1
    assert "only the first 1,000 rows" in capsys.readouterr().err
    assert len(text_of(rows, Format.csv).splitlines()) == MAX_TABLE_ROWS + 2
    assert len(text_of(rows, Format.markdown).splitlines()) == MAX_TABLE_ROWS + 3
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("form", list(Format))
def test_a_query_that_fails_at_once_has_written_nothing(form: Format) -> None:
    def failing() -> Iterator[pa.RecordBatch]:
        yield from ()
        raise RenderError("no memory")

    begun: list[bool] = []
    out = io.TextIOWrapper(io.BytesIO())
    with pytest.raises(RenderError, match="no memory"):
        write(
            pa.schema([("a", pa.int64())]),
            failing(),
            form,
            out,
            Look(begin=lambda: begun.append(True)),
        )
    out.flush()
    assert out.buffer.getvalue() == b""
    assert begun == []


@pytest.mark.parametrize("form", TEXT)
def test_what_is_to_come_first_comes_first(form: Format) -> None:
    out = io.StringIO()
    seen: list[str] = []
    rows = table(a=[1])
    look = Look(begin=lambda: seen.append(out.getvalue()))
    write(rows.schema, rows.to_batches(), form, out, look)
    assert seen == [""]
    assert out.getvalue()


@pytest.mark.parametrize("form", [form for form in Format if form is not Format.table])
def test_rows_are_written_as_they_come(form: Format) -> None:
    """A result larger than memory can be written: no format keeps what it has passed on."""
    size = 1_000_000
    held: list[int] = []

    def batches() -> Iterator[pa.RecordBatch]:
        before = pa.total_allocated_bytes()
        for number in range(20):
            yield pa.record_batch({"comm": [f"{number:01000}"] * (size // 1000)})
            held.append(pa.total_allocated_bytes() - before)

    with open("/dev/null", "w") as out:
        write(pa.schema([("comm", pa.string())]), batches(), form, out)
    assert len(held) == 20
    assert max(held) < 8 * size


def test_a_pipe_gets_exact_numbers_and_a_terminal_units_that_people_read() -> None:
    rows = table(
        comm=["nginx", "a"],
        pid=[123456, 1],
        local_port=[54321, 80],
        sockets=[1234567, 1],
        sent_bytes=[1258291, 0],
        rtt_us=[1234, 950],
        age_s=[185, 0.5],
        share_percent=[12.345, 0.0],
        opens_per_s=[1234.5, 0.25],
        sent_bytes_per_s=[1536.0, 12.0],
    )
    assert text_of(rows, Format.table).splitlines()[1].split() == (
        "nginx 123456 54321 1234567 1258291 1234 185 12.345 1234.5 1536".split()
    )
    shown = on_terminal(rows)
    for text in (
        *("nginx", "123456", "54321", "1,234,567", "1.3 MB", "1.23 ms", "3 min 05 s", "12.3 %"),
        *("1,234/s", "1.5 kB/s", "950 µs", "500 ms", "0.0 %", "0.25/s", "12 B/s", "0 B"),
    ):
        assert f" {text} " in f" {shown} ".replace("\n", " "), text


def test_a_terminal_names_a_common_day_once() -> None:
    day = [datetime(2026, 11, 22, 15, 4, second) for second in (5, 6)]
    shown = on_terminal(table(time=day, n=[1, 2])).splitlines()
    assert shown[0] == "times of 2026-11-22 UTC"
    assert shown[2].startswith("15:04:05 ")
    two = [datetime(2026, 11, day, 23, 59, 59, 5000) for day in (21, 22)]
    assert on_terminal(table(time=two)).splitlines()[1:] == [
        "2026-11-21 23:59:59",
        "2026-11-22 23:59:59",
    ]
    close = [datetime(2026, 11, 22, 15, 4, 5, us) for us in (1000, 2000)]
    assert "15:04:05.001" in on_terminal(table(time=close))


CHART = {
    "mark": "area",
    "x": {"field": "time", "type": "temporal"},
    "y": {"field": "sent_bytes", "type": "quantitative"},
    "color": {"field": "comm"},
}


def test_a_terminal_draws_the_chart_above_the_table() -> None:
    times = [datetime(2026, 11, 22, 15, 4, second) for second in range(4)]
    rows = table(
        time=times * 2,
        comm=["nginx"] * 4 + ["\x1b[2J[bold]"] * 4,
        sent_bytes=[0, 1000, 2000, 3000, 500, None, 500, 500],
    )
    look = Look(title="Sent", chart=CHART)
    shown = on_terminal(rows, look).splitlines()
    assert shown[0] == "Sent"
    assert shown[1:7] == [
        "sent_bytes over time, 2026-11-22 15:04:00 … 15:04:03",
        "nginx          ▁▃▅▇  0 B…3.0 kB",
        "\\x1b[2J[bold]  ▇ ▇▇  500 B",
        "",
        "times of 2026-11-22 UTC",
        "time      comm             sent",
    ]
    assert len(shown) == 7 + rows.num_rows
    berlin = on_terminal(rows, Look(chart=CHART, zone="Europe/Berlin")).splitlines()
    assert berlin[0].endswith("2026-11-22 16:04:00+01:00 … 16:04:03+01:00")
    assert text_of(rows, Format.table, look) == text_of(rows, Format.table)
    few = on_terminal(rows, Look(chart=CHART, series=1)).splitlines()
    assert few[1].startswith("nginx")
    assert few[2] == "and 1 more"


def test_a_chart_points_at_marks() -> None:
    times = [datetime(2026, 11, 22, 15, 4, second) for second in range(4)]
    rows = table(time=times, comm=["nginx"] * 4, sent_bytes=[0, 1000, 2000, 3000])
    first = times[0].replace(tzinfo=UTC).timestamp()
    marks = [first - 1, first + 1.4, first + 3, first + 9]
    shown = on_terminal(rows, Look(chart=CHART, marks=marks)).splitlines()
    assert shown[1:4] == ["nginx  ▁▃▅▇  0 B…3.0 kB", "marks   ▲ ▲", ""]
    assert on_terminal(rows, Look(chart=CHART, marks=marks[:1])).splitlines()[2] == ""


def test_a_chart_is_of_all_rows_and_fits_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    count = 5 * MAX_TABLE_ROWS
    times = [
        datetime.fromtimestamp(1_800_000_000 + i, UTC).replace(tzinfo=None) for i in range(count)
    ]
    rows = table(time=times, comm=["x" * 200] * count, sent_bytes=list(range(count)))
    shown = on_terminal(rows, Look(title="Sent", chart=CHART)).splitlines()
    assert shown[2].startswith("x" * 20)
    assert shown[2].endswith("0 B…5.0 kB")
    assert len(shown[2]) <= 100
    assert "▂▃" in shown[2]
    assert shown[-1] == f"and {count - MAX_SERIES_ROWS:,} more rows; --format csv gives all"
    assert sum(bool(re.match(r"\d\d:\d\d:\d\d ", line)) for line in shown) == MAX_SERIES_ROWS
    assert capsys.readouterr().err == ""


def test_a_row_that_does_not_fit_the_terminal_is_printed_over_lines() -> None:
    wide = table(**{f"column_{i}": [i if i % 2 else None] for i in range(20)})
    shown = on_terminal(wide)
    assert shown.splitlines()[0] == "row 1"
    assert "  column_1   1" in shown
    assert "column_0 " not in shown
    assert max(map(len, shown.splitlines())) <= 100


def test_a_report_leaves_out_what_does_not_fit() -> None:
    columns = {f"column_number_{i}": [1, 2, 3] for i in range(20)}
    rows = table(comm=["a"] * 3, netns=[1] * 3, cookie=[2] * 3, rtt_us=[1000] * 3, **columns)
    *shown, note = on_terminal(rows, Look(title="Wide")).split("not shown: ")
    lines = shown[0].splitlines()
    assert max(map(len, lines)) <= 100
    assert lines[-1].split()[:3] == ["a", "1", "ms"]
    assert "rtt" in shown[0]
    note = " ".join(note.split())
    left_out = note.partition(";")[0].split(", ")
    assert left_out[:2] == ["netns", "cookie"]
    assert left_out[2:] == list(columns)[-len(left_out) + 2 :]
    assert "a wider terminal or --format csv shows all" in note
    assert "row 1" not in shown[0]
    two = on_terminal(rows.slice(0, 2), Look(title="Wide"))
    assert two.splitlines()[1] == "row 1"
    assert "not shown" not in two
    assert text_of(rows, Format.table, Look(title="Wide")) == text_of(rows, Format.table)


def test_what_a_report_ranks_never_gives_way_to_a_lesser_column() -> None:
    lesser = {f"column_number_{i}": [1, 2, 3] for i in range(20)}
    rows = table(netns=[1] * 3, **lesser, drops=[7, 8, 9], comm=["httpd"] * 3)
    look = Look(title="Queues", ranks=("comm", "drops"))
    shown, note = on_terminal(rows, look).split("not shown: ")
    assert "drops" in shown
    assert shown.count("httpd") == 3
    assert note.startswith("netns, column_number_")
    # Of two namespaces the rows would look alike without it.
    several = rows.set_column(0, "netns", pa.array([4026531840, 4026531840, 4026532182]))
    assert "4026532182" in on_terminal(several, look).split("not shown: ")[0]
    assert "4026532182" in on_terminal(several, Look(title="Queues")).split("not shown: ")[0]


def test_a_sentence_in_a_table_takes_four_lines_at_most() -> None:
    told = "Connections refused as an accept queue was full: its process does not accept fast."
    numbers = {f"column_number_{i}": [1, 2, 3] for i in range(20)}
    rows = table(**numbers, meaning=[told] * 3)
    shown = on_terminal(rows, Look(title="Counters", ranks=("meaning",)))
    assert all(shown.count(word) >= 3 for word in told.split())
    assert len(shown.split("not shown: ")[0].splitlines()) <= 2 + 3 + 3 * 4


def test_a_report_keeps_three_columns_whatever_their_width() -> None:
    rows = table(a=["x" * 39] * 3, b=["y" * 39] * 3, c=["z" * 39] * 3, d=[1] * 3)
    shown = on_terminal(rows, Look(title="Wide"))
    assert "not shown: d;" in shown
    assert all(letter in shown for letter in "xyz")


def test_a_text_is_folded_at_its_blanks_only() -> None:
    peer = "[2001:db8:1234:5678::1]:8443"
    rows = table(peer=[peer] * 3, words=["one and two " * 8] * 3, path=["/" + "d" * 90] * 3)
    for look in (Look(), Look(title="Peers")):
        shown = on_terminal(rows, look)
        assert shown.count(peer) == 3
        assert "d" * 90 not in shown
        assert "row 1" not in shown
        words = " ".join(shown.replace("/", " ").split())
        assert all(word in ("one", "and", "two") for word in re.findall(r"\b[aeontw]+\b", words))
        assert max(map(len, shown.splitlines())) <= 100


def test_a_query_on_a_terminal_shows_a_screenful_or_two(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = table(n_us=list(range(2 * MAX_TERMINAL_ROWS)))
    shown = on_terminal(rows).splitlines()
    assert len(shown) == 1 + MAX_TERMINAL_ROWS
    assert shown[0].split() == ["n_us"]  # which the next query may name
    assert "only the first 100 rows are shown" in capsys.readouterr().err
    report = on_terminal(rows, Look(title="All")).splitlines()
    assert len(report) == 2 + 2 * MAX_TERMINAL_ROWS
    assert report[1].split() == ["n"]
    assert capsys.readouterr().err == ""


def test_a_terminal_shows_no_column_of_a_report_in_which_nothing_stands() -> None:
    rows = table(time=[None, None], n=[1, None])
    assert on_terminal(rows, Look(title="Leaks")).splitlines()[1].split() == ["n"]
    # What a query of one's own asks for is shown, and a file has every column.
    assert on_terminal(rows).splitlines()[0].split() == ["time", "n"]
    assert text_of(rows, Format.table, Look(title="Leaks")).split()[:2] == ["time", "n"]
