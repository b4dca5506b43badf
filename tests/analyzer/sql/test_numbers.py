"""No number that is shown is infinite or none at all, however little there is to know."""

from __future__ import annotations

import re
from collections.abc import Iterator
from math import isfinite
from pathlib import Path
from typing import Any

import pyarrow as pa

import analyzer
from analyzer.sql.catalog import read_catalog
from tests.analyzer.sql.test_findings import CASES, OK, Sample, Samples
from tests.analyzer.support.recordings import Writer


def runs() -> Iterator[tuple[str, dict[str, Any]]]:
    """Return each report with each of its choices, the others as they are without being said."""
    for name, report in sorted(read_catalog().items()):
        yield name, {"top": 0}
        for parameter in report.params:
            for choice in parameter.choices:
                yield name, {"top": 0, parameter.name: choice}


def not_numbers(opened: analyzer.Analysis, summary: pa.Table) -> list[str]:
    """Say which cells of which reports and findings are no finite number."""
    tables = [("summary", summary)]
    tables += [
        (f"{name} {options}", opened.report(name, **options).table()) for name, options in runs()
    ]
    return [
        f"{name}: {column} is {value} in {row}"
        for name, table in tables
        for row in table.to_pylist()
        for column, value in row.items()
        if (isinstance(value, float) and not isfinite(value))
        or (isinstance(value, str) and re.search(r"\b(nan|inf)\b", value))
    ]


def latest(samples: Samples) -> Sample:
    """Return the last rows that a recording has of each table."""
    return {table: rows for sample in samples for table, rows in sample.items() if rows}


def together(samples: list[Sample]) -> dict[str, Any]:
    """Return one sample that has the rows of all, each with a cookie of its own."""
    tables: dict[str, Any] = {"steps": OK}
    for number, sample in enumerate(samples):
        for table in sample.keys() - {"steps", "number"}:
            tables.setdefault(table, []).extend(
                row | ({"cookie": number * 10**6 + row["cookie"]} if "cookie" in row else {})
                for row in sample[table]
            )
    return tables


def test_of_one_sample_no_cell_is_infinite_or_no_number(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r")
    writer.sample(**together([latest(build(True)) for _, _, build in CASES]))
    with analyzer.open(tmp_path / "r") as opened:
        found = opened.summary().table()
        assert found.num_rows > 5  # there is something to judge
        assert not_numbers(opened, found) == []
