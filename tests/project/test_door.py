"""``import sockrec``: what stands behind the door, and how it shows itself."""

import subprocess
import sys
from pathlib import Path

import pytest

import sockrec
from tests.analyzer.support.recordings import Writer, small, tcp

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    small(tmp_path / "r")
    return tmp_path / "r"


def test_importing_it_is_quick_and_its_errors_are_there() -> None:
    code = (
        "import sys, sockrec\n"
        "print({'pyarrow', 'duckdb', 'pandas', 'numpy', 'rich'} & set(sys.modules))\n"
        "assert all(getattr(sockrec, name) for name in sockrec.__all__)\n"
        "assert issubclass(sockrec.QueryError, sockrec.SockrecError)\n"
        "from sockrec import TimeError\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "set()\n"
    with pytest.raises(AttributeError, match="nosuch"):
        _ = sockrec.nosuch


def test_an_answer_is_rows_and_shows_them(recording: Path) -> None:
    with sockrec.open(recording) as opened:
        answer = opened.sql("SELECT range AS n, 'x' || range AS t FROM range(30)")
        assert len(answer) == 30
        assert next(iter(answer)) == {"n": 0, "t": "x0"}
        assert repr(answer).splitlines()[:2] == [" n  t", " 0  x0"]
        assert repr(answer).splitlines()[-1] == "and more: .table() or .df() gives all"
        assert len(repr(answer).splitlines()) == 22
        few = opened.sql("SELECT 1 AS a, 2 AS b")
        assert repr(few) == "a  b\n1  2\n"
        assert list(few) == [{"a": 1, "b": 2}]
        with pytest.raises(sockrec.QueryError, match="no column nosuch"):
            repr(opened.sql("SELECT nosuch FROM sockets"))
    assert len(answer) == 30  # they are kept


def test_a_notebook_is_given_no_markup_of_strangers(recording: Path) -> None:
    with sockrec.open(recording) as opened:
        html = opened.sql("""SELECT '<script>' AS "<b>", chr(27) AS e, NULL AS n""")._repr_html_()
        assert html == (
            "<table><thead><tr><th>&lt;b&gt;</th><th>e</th><th>n</th></tr></thead>"
            "<tbody><tr><td>&lt;script&gt;</td><td>\\x1b</td><td>-</td></tr></tbody></table>"
        )


def test_integers_stay_integers_where_some_are_missing(recording: Path) -> None:
    with sockrec.open(recording) as opened:
        frame = opened.sql("SELECT unnest([1, NULL, 9007199254740993]) AS n").df()
    assert str(frame["n"].dtype) == "int64[pyarrow]"
    assert frame["n"].tolist()[2] == 9007199254740993


def test_a_summary_shows_itself_and_is_a_sequence_of_findings(tmp_path: Path) -> None:
    sample = ROOT / "samples/accept_overflow/recording"
    with sockrec.open(sample) as opened:
        found = opened.summary(only=["accept_queue"])
        assert f"{sample}" in repr(opened)
    assert len(found) == len(list(found)) > 0
    assert next(iter(found))["finding"] == "accept_queue"
    assert repr(found).startswith(
        "critical  checkout-api (pid 19) accepted nothing for 16 s: its accept queue"
    )
    assert "→ listen_queues\n" in repr(found)
    assert found._repr_html_().startswith("<pre>critical  checkout-api")
    writer = Writer(tmp_path / "evil")
    writer.sample([tcp(1, comm="<script>")])
    with sockrec.open(tmp_path / "evil") as opened:
        only = ["accept_queue", "close_wait"]
        assert "<script>" not in opened.summary(only=only)._repr_html_()


def test_a_closed_recording_says_so(recording: Path) -> None:
    opened = sockrec.open(recording)
    unread = opened.sql("SELECT 1 AS a")
    opened.close()
    opened.close()
    assert repr(opened) == f"<recording of web1 in {recording}, closed>"
    assert "closed" in repr(unread)
    assert "closed" in unread._repr_html_()
    for ask in (
        unread.table,
        lambda: opened.sql("SELECT 1"),
        lambda: opened.report("states").table(),
        lambda: opened.summary(),
        lambda: opened.sql("SELECT 1", start="+1s"),
    ):
        with pytest.raises(sockrec.QueryError, match="the recording is closed: open it again"):
            ask()
