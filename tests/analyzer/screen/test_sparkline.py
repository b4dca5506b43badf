"""Charts of block characters: gaps are blanks, peaks are kept, the largest series come first."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analyzer.screen.sparkline import BLOCKS, Sparklines, draw, read_chart
from analyzer.sql.catalog import read_catalog

START = datetime(2026, 11, 22, 15, 4, 5)
CHART: dict[str, Any] = {
    "mark": "line",
    "x": {"field": "time", "type": "temporal"},
    "y": {"field": "n", "type": "quantitative"},
    "color": {"field": "comm"},
}


def at(*seconds: float) -> list[datetime]:
    return [START + timedelta(seconds=second) for second in seconds]


def gathered(chart: dict[str, Any] | None = None, **columns: list[Any]) -> Sparklines:
    rows = pa.table(columns)
    found = read_chart(chart or CHART, rows.schema.names)
    assert found is not None
    batches = rows.to_batches()
    assert [id(batch) for batch in found.gather(batches)] == [id(batch) for batch in batches]
    return found


def drawn(width: int = 40, top: int = 0, **columns: list[Any]) -> list[tuple[str, str, str]]:
    lines, _ = gathered(None, **columns).lines(width, top)
    return [(line.name, line.blocks, f"{line.least}…{line.most}") for line in lines]


def test_the_lowest_block_is_zero_and_the_highest_the_most() -> None:
    assert drawn(time=at(0, 1, 2, 3), n=[0, 1, 50, 100], comm=["a"] * 4) == [("a", "▁▂▄▇", "0…100")]
    assert drawn(time=at(0, 1), n=[0, 0], comm=["a"] * 2) == [("a", "▁▁", "0…0")]
    assert drawn(time=at(0, 1), n=[7, 7], comm=["a"] * 2) == [("a", "▇▇", "7…7")]
    assert drawn(time=at(0, 1, 2), n=[-10, 0, 10], comm=["a"] * 3) == [("a", "▁▄▇", "-10…10")]


def test_what_is_not_known_is_blank() -> None:
    found = drawn(
        time=at(0, 1, 2, 3, 5) * 2,
        n=[1, None, 3, 3, 3, None, 2, 2, None, float("nan")],
        comm=["a"] * 5 + ["b"] * 5,
    )
    assert found == [("a", "▃ ▇▇ ▇", "1…3"), ("b", " ▇▇", "2…2")]


def test_a_series_that_is_never_known_has_no_line() -> None:
    assert drawn(time=at(0, 1), n=[None, None], comm=["a", "a"]) == []
    assert gathered(time=[], n=[], comm=[]).span() is None


def test_many_times_share_a_block_and_no_peak_is_lost() -> None:
    values = [1] * 1000
    values[777] = 100
    ((_, blocks, _),) = drawn(50, time=at(*range(1000)), n=values, comm=["a"] * 1000)
    assert len(blocks) == 50
    assert blocks.count("▇") == 1
    assert blocks[777 * 50 // 1000] == "▇"


def test_a_gap_between_many_samples_stays_a_gap() -> None:
    seconds = [*range(300), *range(600, 900)]
    ((_, blocks, _),) = drawn(30, time=at(*seconds), n=[5] * 600, comm=["a"] * 600)
    assert blocks == "▇" * 10 + " " * 10 + "▇" * 10


def test_times_that_are_late_leave_no_gap() -> None:
    seconds = [second + (second % 3) * 0.1 for second in range(20)]
    assert drawn(time=at(*seconds), n=[5] * 20, comm=["a"] * 20)[0][1] == "▇" * 20


@pytest.mark.parametrize("samples", range(11, 31))
def test_slices_that_follow_each_other_leave_no_gap(samples: int) -> None:
    """As reports cut ten slices, each named by its first sample: of one or of two of them."""
    chart = CHART | {"x": CHART["x"] | {"bin": "binned"}}
    wide = (samples - 1) / 10 + 1e-6
    begins = list({int(second / wide): second for second in reversed(range(samples))}.values())
    begins.sort()
    assert _drawn_of(chart, begins) == "▇" * 10
    # A slice in which there is nothing is a gap still.
    lacking = begins[:4] + begins[6:]
    assert " " in _drawn_of(chart, lacking).strip()


def _drawn_of(chart: dict[str, Any], seconds: list[int]) -> str:
    rows = pa.table({"time": at(*seconds), "n": [5] * len(seconds), "comm": ["a"] * len(seconds)})
    points = read_chart(chart, rows.schema.names)
    assert points is not None
    for batch in rows.to_batches():
        points.add(batch)
    return points.lines(30)[0][0].blocks


def test_the_largest_series_come_first_and_the_others_are_counted() -> None:
    points = gathered(time=at(0, 1) * 3, n=[1, 2, 9, 0, 2, 2], comm=["a", "a", "b", "b", "c", "c"])
    lines, left_out = points.lines(10, 2)
    assert [line.name for line in lines] == ["b", "a"]
    assert left_out == 1
    assert len(points.lines(10, 0)[0]) == 3


def test_series_are_of_several_fields_and_nothing_is_a_dash() -> None:
    chart = CHART | {"row": {"field": "netid"}, "detail": [{"field": "pid"}]}
    points = gathered(
        chart, time=at(0, 0), n=[1, 2], comm=["a", None], netid=["tcp"] * 2, pid=[5, 6]
    )
    assert [line.name for line in points.lines(10)[0]] == ["tcp - 6", "tcp a 5"]


def test_a_chart_without_series_bears_the_name_of_its_value() -> None:
    chart = {key: CHART[key] for key in ("mark", "x", "y")} | {"mark": {"type": "bar"}}
    points = gathered(chart, time=at(0, 1), n=[1, 2], comm=["a", "b"])
    assert [line.name for line in points.lines(10)[0]] == ["n"]


@pytest.mark.parametrize(
    ("aggregate", "most"), [("sum", "5"), ("min", "2"), ("max", "3"), (None, "3")]
)
def test_several_values_at_one_time_are_joined_as_the_chart_says(
    aggregate: str | None, most: str
) -> None:
    chart = CHART | {"y": {"field": "n", "aggregate": aggregate}}
    points = gathered(chart, time=at(0, 0), n=[2, 3], comm=["a", "a"])
    assert points.lines(10)[0][0].most == most


def test_values_bear_the_unit_of_their_column() -> None:
    chart = CHART | {"y": {"field": "sent_bytes"}}
    points = gathered(chart, time=at(0, 1), sent_bytes=[512, 2000], comm=["a"] * 2)
    assert (points.lines(10)[0][0].least, points.lines(10)[0][0].most) == ("512 B", "2.0 kB")


def test_marks_stand_below_the_sample_before_them_where_many_share_a_block_too() -> None:
    chart = gathered(None, time=at(*range(100)), comm=["x"] * 100, n=list(range(100)))
    start = START.replace(tzinfo=UTC).timestamp()
    ((line,), _) = chart.lines(10)
    assert len(line.blocks) == 10
    assert chart.marked([start, start + 39.5, start + 99, start + 100], 10) == "▲  ▲     ▲"
    assert chart.marked([start - 0.1], 10) == ""
    assert gathered(None, time=[None], comm=["x"], n=[1]).marked([start], 10) == ""


def test_times_may_be_microseconds() -> None:
    chart = CHART | {"x": {"field": "t_us", "type": "temporal"}}
    points = gathered(chart, t_us=[0, 1_000_000, 3_000_000], n=[1, 1, 1], comm=["a"] * 3)
    assert points.lines(10)[0][0].blocks == "▇▇ ▇"
    assert points.span() == (0.0, 3.0)


@pytest.mark.parametrize(
    "change",
    [
        {"mark": "point"},
        {"mark": None},
        {"x": {"field": "time", "type": "quantitative"}},
        {"x": {"field": "nosuch", "type": "temporal"}},
        {"x": "time"},
        {"y": {"aggregate": "count"}},
        {"y": {"field": 3}},
        {"color": {"field": "nosuch"}},
    ],
)
def test_what_is_no_chart_over_time_is_not_drawn(change: dict[str, Any]) -> None:
    assert read_chart(CHART | change, ["time", "n", "comm"]) is None


def test_the_charts_of_the_shipped_reports_are_understood() -> None:
    """A chart over time of a report is drawn, whatever its words."""
    charts = {name: (report.chart, list(report.columns)) for name, report in read_catalog().items()}
    over_time = {
        name: read_chart(chart, columns)
        for name, (chart, columns) in charts.items()
        if isinstance(x := chart.get("x"), dict) and x.get("type") == "temporal"
    }
    assert "states" in over_time
    assert [name for name, found in over_time.items() if found is None] == []


@given(st.lists(st.tuples(st.integers(0, 60), st.floats(-1e300, 1e300)), max_size=50))
def test_any_values_are_blocks(points: list[tuple[int, float]]) -> None:
    values = [value for _, value in points]
    found = draw(points, min(values, default=0.0), max(values, default=0.0))
    assert len(found) == max((place for place, _ in points), default=-1) + 1
    assert set(found) <= {*BLOCKS, " "}
    assert {place for place, block in enumerate(found) if block != " "} == {p for p, _ in points}
