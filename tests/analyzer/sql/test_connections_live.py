"""The view connections of a real recording beside what the workload knows it did."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

import analyzer
from tests.recorder.support.recorded import record
from tests.workloads.netns import inside, lacking, namespace

pytestmark = [pytest.mark.live, pytest.mark.skipif(lacking() is not None, reason=str(lacking()))]

ROOT = Path(__file__).parents[3]
CHURN = str(ROOT / "tests" / "workloads" / "churn.py")


def sampled(recording: Path) -> bool:
    """Tell whether the first sample is done, and so committed."""
    return any(path.stat().st_size for path in recording.glob("samples/*.arrows"))


def closed(recording: Path) -> int:
    """Return how many ends of connections were recorded as closed so far."""
    with analyzer.open(recording) as opened:
        answer = opened.sql("SELECT count(*) AS n FROM closes WHERE connection").table()
    number: int = answer["n"][0].as_py()
    return number


def wait_for(condition: Callable[[], bool], recorder: subprocess.Popen[bytes]) -> None:
    """Wait for what the recorder is to do by and by."""
    limit = time.monotonic() + 60
    while not condition():
        assert recorder.poll() is None, f"the recorder ended with {recorder.returncode}"
        assert time.monotonic() < limit, "the recorder did not do it within a minute"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def connections(tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, dict[str, int]]:
    """Record 1,000 short connections, a third ended by each way; return the view and the truth."""
    folder = tmp_path_factory.mktemp("connections")
    truth = folder / "truth.json"
    with namespace() as name:
        command = record(folder / "r", "-i", "500ms", "--netns", name)
        recorder = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE)
        try:
            # What the first sample finds was there before.
            wait_for(lambda: sampled(folder / "r"), recorder)
            options = ["--rate", "300", "--seconds", "3", "--truth", str(truth)]
            subprocess.run(inside(name, sys.executable, CHURN, *options), check=True, timeout=60)
            ends = 2 * json.loads(truth.read_text())["connected"]
            # The kernel announces closes from a worker, when it has time.
            wait_for(lambda: closed(folder / "r") >= ends, recorder)
            recorder.terminate()
            _, errors = recorder.communicate(timeout=60)
        finally:
            recorder.kill()
        assert recorder.returncode == 0, errors.decode()
    with analyzer.open(folder / "r") as opened:
        found = opened.sql("SELECT * FROM connections WHERE opened = 'during'").df()
    return found, json.loads(truth.read_text())


def test_both_ends_of_every_connection_are_there_once(
    connections: tuple[pd.DataFrame, dict[str, int]],
) -> None:
    found, truth = connections
    assert found.groupby("role").size().to_dict() == {
        "client": truth["connected"],
        "server": truth["connected"],
    }
    assert not found.duplicated(["netns", "cookie"]).any()


def test_it_tells_who_closed_first(connections: tuple[pd.DataFrame, dict[str, int]]) -> None:
    found, truth = connections
    ways = found.groupby(["role", "closed_first"]).size().to_dict()
    third = truth["connected"] // 3
    assert ways == {
        ("client", "local"): third,
        ("client", "peer"): third,
        ("client", "reset"): third,
        ("server", "local"): third,
        # What the client reset was ended by the peer, too.
        ("server", "peer"): 2 * third,
    }


def test_bytes_add_up(connections: tuple[pd.DataFrame, dict[str, int]]) -> None:
    """A socket that reset its connection has lost its totals in the kernel; its peer has not."""
    found, truth = connections
    clients = found[found["role"] == "client"]
    servers = found[(found["role"] == "server") & (found["closed_first"] == "local")]
    assert clients["bytes_sent"].sum() == truth["client_bytes"]
    assert servers["bytes_sent"].sum() == truth["server_bytes"]
    reset = clients[clients["closed_first"] == "reset"]
    shown = reset["samples"] > 0  # a sample that came between knows what it had sent by then
    assert (reset["bytes_sent"].isna() | shown).all()
    assert not shown.all()
