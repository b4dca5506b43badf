"""The core reports on real recordings, beside what the workload knew and beside pandas.

pandas reads the Parquet files themselves and counts by other means: sets of cookies and frames of
one sample, neither the views nor any SQL.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

import analyzer
from tests.analyzer.sql.test_samples import NAMES, SAMPLES, truth

CONNECTIONS = ("tcp", "mptcp")


@cache
def raw(sample: str, table: str) -> pd.DataFrame:
    """Return a table of a sample; NULL stays NULL."""
    files = sorted((SAMPLES / sample / "recording" / table).glob("*.parquet"))
    frames: list[pd.DataFrame] = [
        pq.read_table(file).to_pandas(types_mapper=pd.ArrowDtype) for file in files
    ]
    return pd.concat(frames)


@cache
def report(sample: str, name: str, **parameters: Any) -> pd.DataFrame:
    with analyzer.open(SAMPLES / sample / "recording") as opened:
        frame: pd.DataFrame = opened.report(name, **{"top": 0, **parameters}).df()
    return frame


def ends(sample: str) -> tuple[set[int], set[int], pd.DataFrame]:
    """Return the cookies that came, those that were announced closed, and all sampled TCP rows."""
    sockets = raw(sample, "sockets")
    others = sockets["state"].isin(["LISTEN", "UNCONN"])
    rows = sockets[sockets["netid"].isin(CONNECTIONS) & ~others]
    first = sockets["sample"].min()
    closes = raw(sample, "closes")
    closes = closes[closes["connection"].fillna(False)]
    # An orphan in FIN-WAIT-2 is kept as TIME-WAIT is, and like it without the former cookie.
    known = rows[(rows["state"] != "TIME-WAIT") & (rows["timer"] != "timewait").fillna(True)]
    before = set(known[known["sample"] == first]["cookie"])
    opened = (set(known["cookie"]) | set(closes[~closes["sampled"]]["cookie"])) - before
    return opened, set(closes["cookie"]), rows


@pytest.mark.parametrize("sample", NAMES)
def test_churn_counts_what_came_and_went(sample: str) -> None:
    opened, closed, rows = ends(sample)
    whole = report(sample, "churn")
    whole = whole[whole["who"] == "all"]
    total = whole[whole["time"].isna()]
    whole = whole[whole["time"].notna()]
    counted = ["opened", "closed", "resets", "failed"]
    assert total[counted].sum().to_list() == whole[counted].sum().to_list()
    failed = int(whole["failed"].sum())
    assert int(whole["opened"].sum()) + failed == len(opened)
    # What an announcement was missed of is gone from the last sample.
    gone = set(rows["cookie"]) - set(rows[rows["sample"] == rows["sample"].max()]["cookie"])
    assert len(closed) <= int(whole["closed"].sum()) + failed <= len(closed | gone)


@pytest.mark.parametrize("sample", ["time_wait_storm", "short_connections"])
def test_churn_agrees_with_the_workload(sample: str) -> None:
    told = truth(sample)
    frame = report(sample, "churn")
    own = frame[(frame["who"] == f"{told['comm']} ({told['pid']})") & frame["time"].isna()]
    assert int(own["opened"].sum()) == told["numbers"]["opened"]
    assert int(own["closed"].sum()) == told["numbers"]["opened"]


@pytest.mark.parametrize("sample", NAMES)
def test_time_wait_counts_the_rows_in_time_wait(sample: str) -> None:
    sockets = raw(sample, "sockets")
    waits = sockets[
        (sockets["state"] == "TIME-WAIT")
        | ((sockets["state"] == "FIN-WAIT-2") & (sockets["timer"] == "timewait"))
    ]
    whole = report(sample, "time_wait", interval=100_000)
    peak = int(waits.groupby("sample").size().max()) if len(waits) else 0
    told = whole[whole["who"] == "all"]["sockets"].fillna(0)
    assert (told.max() if len(told) else 0) == peak
    services = waits.groupby(["sample", "local_addr", "peer_addr", "peer_port"]).size()
    clients = whole[whole["side"] == "client"]
    for row in clients.to_dict("records"):
        peer, _, port = str(row["peer"]).rpartition(":")
        if "*" not in str(row["peer"]):
            here = services.loc[:, row["local"], peer, int(port)]
            assert row["sockets"] <= here.max()


def test_time_wait_agrees_with_the_workload() -> None:
    told = truth("time_wait_storm")
    frame = report("time_wait_storm", "time_wait")
    own = frame[frame["who"] == f"{told['comm']} ({told['pid']})"]
    assert set(own["side"]) == {"client"}
    assert set(own["peer"]) == {told["subject"]}
    assert own["sockets"].max() == told["numbers"]["opened"]
    assert own["ports_percent"].max() == told["numbers"]["ports_percent"]


@pytest.mark.parametrize("sample", NAMES)
def test_process_sockets_counts_the_rows_of_each_process(sample: str) -> None:
    sockets = raw(sample, "sockets")
    held = sockets[sockets["owner_by"] == "fd"]
    samples = sockets["sample"].unique()
    counted = held.groupby(["sample", "pid", "netid", "state"]).size()
    frame = report(sample, "process_sockets")
    own = frame[frame["owner"] == "process"]
    assert len(own) == counted.groupby(level=[1, 2, 3]).ngroups
    for row in own.to_dict("records"):
        series = counted.loc[:, row["pid"], row["netid"], row["state"]].reindex(
            sorted(samples), fill_value=0
        )
        assert row["peak"] == series.max()
        # A recording's first and last sample that saw the table.
        assert (row["first"], row["last"]) == (series.iloc[0], series.iloc[-1])
        assert row["growth"] == row["last"] - row["first"]


def test_process_sockets_agrees_with_the_workload() -> None:
    told = truth("descriptor_leak")
    row = report("descriptor_leak", "process_sockets").to_dict("records")[0]
    assert (row["comm"], row["pid"]) == (told["comm"], told["pid"])
    assert row["growth"] == told["numbers"]["leaked"]
    assert row["fd_limit"] == told["numbers"]["limit"]


@pytest.mark.parametrize("sample", NAMES)
def test_queue_growth_tells_the_peak_of_every_queue(sample: str) -> None:
    """Of sockets that a row names, the peak is that of their rows; no worse queue is left out."""
    sockets = raw(sample, "sockets")
    sockets = sockets[sockets["state"] != "LISTEN"].copy()
    # The kernel counts the peer's FIN as a byte to be read.
    sockets["recv_q"] -= (sockets["state"] == "CLOSE-WAIT").astype("int64[pyarrow]")
    frame = report(sample, "queue_growth")
    for queue, column in (("Recv-Q", "recv_q"), ("Send-Q", "send_q")):
        peaks = sockets.groupby(["netns", "cookie"])[column].max()
        for row in frame[frame["queue"] == queue].to_dict("records"):
            own = (sockets["cookie"] == row["cookie"]) & (sockets["netns"] == row["netns"])
            here = sockets[own]
            times = here["sample_time"]
            spell = here[(times >= row["since"]) & (times <= row["until"])]
            assert row["peak_bytes"] == spell[column].max() <= peaks[row["netns"], row["cookie"]]
            assert (spell[column] > 0).all()


def test_queue_growth_agrees_with_the_workload() -> None:
    told = truth("slow_reader")
    rows = report("slow_reader", "queue_growth").to_dict("records")
    culprit = f"{told['comm']} ({told['pid']})"
    assert [row["culprit"] for row in rows[:2]] == [culprit, culprit]
    assert {row["queue"]: row["verdict"] for row in rows[:2]} == {
        "Send-Q": "peer stalled",
        "Recv-Q": "reader stalled",
    }
    (read,) = [row for row in rows[:2] if row["queue"] == "Recv-Q"]
    seconds = (read["until"] - read["since"]).total_seconds()
    assert read["moved_bytes_per_s"] * seconds == pytest.approx(
        told["numbers"]["bytes_read_slowly"], rel=0.15
    )
