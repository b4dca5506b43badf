"""The healthy sample, recorded anew with all that a recording has today: nothing is said of it."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

import analyzer
from samples import healthy
from samples.incident import in_namespaces, lacking

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(lacking() is not None, reason=str(lacking())),
]

AROUND = ("processes", "interfaces", "addresses", "rules")
"""Tables of which the findings of processes and of the network beneath make their sentences."""


def test_a_healthy_host_is_silent_with_processes_and_network_recorded(tmp_path: Path) -> None:
    # on a machine that was too busy for every sample it is no sample
    tries = [tmp_path / str(number) for number in range(3)]
    for into in tries:
        into.mkdir(mode=0o755)
        if in_namespaces(healthy.INCIDENT, into) == 0:
            break
    for table in AROUND:
        parts = (into / "recording" / table).glob("*.parquet")
        assert sum(pq.read_metadata(part).num_rows for part in parts) > 0, table
    with analyzer.open(into / "recording") as opened:
        summary = opened.summary()
    assert [row["sentence"] for row in summary.table().to_pylist()] == []
