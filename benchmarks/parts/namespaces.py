"""What 200 network namespaces cost, at rest and as they come and go."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from datetime import UTC
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.live import INTERVAL_S, Live, record, recording
from benchmarks.measure import drain, floor_live, scratch, show
from benchmarks.namespaces import ROOT, WORKLOAD, held
from benchmarks.node import node
from benchmarks.population import population
from tests.workloads.namespaces import Truth
from tests.workloads.netns import lacking

NAMESPACES = 200
LISTENERS = 3
SOCKETS = 100_000
SECONDS = 20

NODE = 110
"""Namespaces of a container node, with sockets of many families in each."""

COMING, COMING_RATE, LIFE_S = 200, 10.0, 3 * INTERVAL_S
"""How many namespaces come and go, how many a second, and how long each lives."""


def run() -> None:
    """Print the cost of namespaces on an idle host, then on one that holds many sockets."""
    if why := lacking():
        print(f"namespaces: {why}")
        return
    for sockets in (0, SOCKETS):
        drain()
        with population(sockets) if sockets else nullcontext():
            print(f"{NAMESPACES} network namespaces beside {sockets:,} sockets, recorded at 1 Hz:")
            base = floor_live(8)
            show("floor, once a second", base, base)
            alone = _at_rest("without them", base)
            with held(NAMESPACES):
                _at_rest("idle", base, alone)
            with held(NAMESPACES, LISTENERS):
                _at_rest(f"{LISTENERS} listeners in each", base, alone)
            with node(NODE) as each:
                _at_rest(f"{NODE} with {each} sockets each", base, alone, NODE)
            if sockets:
                _come_and_go()


def _at_rest(name: str, base: float, alone: Live | None = None, count: int = NAMESPACES) -> Live:
    with scratch() as directory:
        live = record(directory / "recording", SECONDS)
    note = ""
    if alone is not None:
        more = (live.sample_s - alone.sample_s) / count
        note = f"{more * 1e6:.0f} µs a namespace"
    show(f"{name}: CPU a sample", live.sample_s, base, note)
    show(f"{name}: with sealing", live.sealed_s, base)
    if alone is not None:
        # a row for each table of what is read, one for the whole of what is not
        dumped = live.a_sample("unix")
        rotated, skipped = (live.a_sample("all", why) for why in ("rotated", "skipped_empty"))
        print(
            f"  {name}: of the namespaces of a sample {dumped:.1f} dumped, {rotated:.1f} rotated, "
            f"{skipped:.1f} skipped as empty"
        )
        live.show_steps()
    print(f"  {name}: {live.lateness()}", flush=True)
    return live


def _come_and_go() -> None:
    """Print what was missed of namespaces that lived for two samples, and what stayed open."""
    with scratch() as directory, recording(directory / "recording") as recorder:
        before = _descriptors(recorder.pid)
        path = directory / "truth.json"
        work = ["--count", str(COMING), "--rate", str(COMING_RATE), "--life", str(LIFE_S)]
        subprocess.run([*WORKLOAD, *work, "--truth", str(path)], cwd=ROOT, check=True)
        time.sleep(3 * INTERVAL_S)
        after = _descriptors(recorder.pid)
        live = recorder.finish()
        truths = [Truth(**one) for one in json.loads(path.read_text())]
        rows = pq.read_table(live.directory / "namespaces").to_pylist()
        mine = pc.field("netns").isin([truth.netns for truth in truths])
        sockets = pq.read_table(live.directory / "sockets", columns=["netns", "pid"], filters=mine)
        print(f"  {COMING} namespaces made and deleted, {COMING_RATE:.0f} a second:")
        show("CPU a sample", live.sample_s)
        _tell_missed(truths, live, rows, sockets)
        kept = {f"net:[{truth.netns}]" for truth in truths} & after.keys()
        print(
            f"    {before.total()} descriptors before with {_namespaces(before)} namespaces, "
            f"{after.total()} after with {_namespaces(after)}; "
            f"{len(kept)} of deleted namespaces (target 0)"
        )
        print(f"    {live.lateness()}", flush=True)


def _tell_missed(
    truths: Sequence[Truth], live: Live, rows: Sequence[dict[str, Any]], sockets: pa.Table
) -> None:
    times = [row["sample_time"].replace(tzinfo=UTC).timestamp() * 1e6 for row in live.whole]
    lived = [
        truth
        for truth in truths
        if sum(truth.born_us + 100_000 < time < truth.gone_us for time in times) >= 2
    ]
    # numbers of namespaces are used again, names and processes are not
    names = {row["name"] for row in rows}
    pids = {row["pid"] for row in rows}
    missed = [t for t in lived if (t.name not in names if t.name else t.pid not in pids)]
    listening = [truth.pid for truth in lived if truth.sockets]
    unread = set(listening) - set(sockets["pid"].to_pylist())
    print(
        f"    missed {len(missed)} of {len(lived)} that lived for two samples (target 0); "
        f"the listeners of {len(unread)} of {len(listening)}"
    )


def _descriptors(pid: int) -> Counter[str]:
    """Count what a process has open, by link."""
    found: Counter[str] = Counter()
    for entry in os.scandir(f"/proc/{pid}/fd"):
        try:
            found[os.readlink(entry.path)] += 1
        except FileNotFoundError:
            continue
    return found


def _namespaces(descriptors: Counter[str]) -> int:
    return sum(link.startswith("net:") for link in descriptors)
