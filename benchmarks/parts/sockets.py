"""What a sample of many TCP sockets costs, stage by stage, against the floor and against ss."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import pyarrow.parquet as pq

from benchmarks.live import INTERVAL_S, record
from benchmarks.measure import cpu, drain, floor, floor_live, scratch, show
from benchmarks.population import population
from recorder.host import facts
from recorder.host.namespaces import Namespaces
from recorder.kernel.closes import Closes
from recorder.kernel.places import Places
from recorder.kernel.tables import EVERYTHING
from recorder.owners.owners import Owners
from recorder.sampling.sampler import Sampler
from recorder.schema import RECORDING_FILE
from recorder.store.directory import Directory, open_list
from recorder.store.journal import Journals
from recorder.store.segment import seal

LAYOUTS = ["uniform", "mixed"]

ACTIVE = 0.1
"""Share of the connections that exchange a few bytes each second."""

SS = {
    "ss -tanie": ["ss", "-tanie"],
    "ss -tanpieom": ["ss", "-tanpieom"],
}


def run(
    counts: Sequence[int],
    layouts: Sequence[str],
    rounds: int,
    seconds: int,
    interval_s: float = INTERVAL_S,
) -> None:
    """Print the cost for each number of sockets and layout; record live for so many seconds."""
    for count in counts:
        for layout in layouts:
            drain()
            print(f"{count:,} sockets, {layout}, {ACTIVE:.0%} active:")
            with population(count, mixed=layout == "mixed", active=ACTIVE):
                base, whole = _one_sample(rounds)
                _against_ss(base, whole, rounds)
                if seconds:
                    _live(seconds, interval_s)


class Stages:
    """One recorder's sample, taken apart; journals go to a temporary directory."""

    def __init__(self, directory: Path) -> None:
        closes = Closes(facts.release())
        self.sampler = Sampler(
            EVERYTHING,
            release=facts.release(),
            places=Places(Namespaces(), closes),
            owners=Owners(),
            closes=closes,
            interval_s=1.0,
        )
        self.sampler.warm_up()
        self.directory = Directory.open(directory)
        self.journals = Journals(self.directory, 1)
        self.number = 0
        self.rows = 0

    def whole(self) -> None:
        """Take, write and commit one sample."""
        sample = self.sampler.take(self.number)
        for table, batch in sample.batches:
            self.journals.append(table, batch)
        self.journals.commit(self.number)
        self.number += 1
        self.rows = sample.sockets

    def take(self) -> None:
        """Take a sample and write nothing."""
        self.sampler.take(0)

    def dump(self) -> None:
        """Receive and decode every table."""
        self.sampler.steps.begin()
        for place in self.sampler.places:
            for step in self.sampler.steps:
                step.read(place, place.inode, 0)
        self.sampler.steps.finish()

    def columns(self) -> None:
        """Make the columns of what was decoded last."""
        for gathered in self.sampler.steps.gathered.values():
            if gathered.rows:
                gathered.decoder.rows()

    def seal(self) -> float:
        """Seal what was written; return the CPU seconds of each sample."""
        self.journals.close()
        (self.directory.path / RECORDING_FILE).write_text("{}")
        listing = open_list(self.directory)
        before = time.process_time()
        seal(self.directory, listing, 1)
        cost = (time.process_time() - before) / self.number
        os.close(listing)
        return cost


def _one_sample(rounds: int) -> tuple[float, float]:
    """Print what each stage of a steady-state sample costs; return floor and whole."""
    with scratch() as directory:
        stages = Stages(directory)
        # floor and sample in turn, so that both meet the same hour of the machine
        floors, wholes = [], []
        for _ in range(3):
            floors.append(cpu(floor, rounds))
            wholes.append(cpu(stages.whole, rounds))
        base, whole = median(floors), median(wholes)
        show("floor: bare receive loop", base, base)
        show("receive and decode, all tables", cpu(stages.dump, rounds), base)
        show("text and masks of the columns", cpu(stages.columns, rounds), base)
        take = cpu(stages.take, rounds)
        show("both, and the owners", take, base)
        show("whole sample, journal written", whole, base, "target 2.0 uniform, 2.5 mixed")
        size = stages.journals.size / stages.journals.rows
        print(f"  journal: {size:.1f} bytes a row; {stages.rows:,} sockets a sample")
        show("sealing, for each sample", stages.seal(), base)
    return base, whole


def _against_ss(base: float, whole: float, rounds: int) -> None:
    """Print what ss costs and the ratio to a whole sample."""
    if shutil.which("ss") is None:
        print("  ss is not installed")
        return
    for name, command in SS.items():
        seconds = _ss_cpu(command, max(1, rounds // 4))
        show(f"{name} >/dev/null", seconds, base, f"sample is 1/{seconds / whole:.0f} of it")


def _ss_cpu(command: list[str], rounds: int) -> float:
    """Return the median CPU seconds of an ss command, its output thrown away."""
    seconds = []
    for _ in range(rounds):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    return median(seconds)


def _live(seconds: int, interval_s: float) -> None:
    """Record with the real command; print CPU with sealing, lateness, bytes, memory."""
    with scratch() as directory:
        live = record(directory / "recording", seconds, interval_s=interval_s)
        sockets = live.directory / "sockets"
        rows = sum(part.count_rows() for part in pq.ParquetDataset(sockets).fragments)
        size = sum(path.stat().st_size for path in sockets.iterdir())
        print(f"  live: {live.lateness()}")
        base = floor_live(8)
        show("floor, live", base, base)
        show("live: CPU a sample", live.sample_s, base)
        show("live: CPU a sample, sealing included", live.sealed_s, base, "target 3.0")
        print(f"  sealed: {size / rows:.2f} bytes a row over {rows:,} rows (target 4 at 20,000)")
        print(f"  peak memory: {live.memory()} (target 300 each)", flush=True)
