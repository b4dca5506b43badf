"""Measure the recorder against the bare receive loop and against ss, in one run.

    python -m benchmarks [--sockets 20000 100000] [--rounds 10] [--live 20]

Every figure is CPU time, and what counts is ratios: machines differ, and so do their hours.
The floor is a receive loop over one legacy TCP dump with every extension that looks at nothing.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import pyarrow.parquet as pq

from benchmarks.population import population
from recorder import host
from recorder.imports import leave_out_pandas
from recorder.inet_diag import TCPDIAG_GETSOCK, request_tcp_both
from recorder.journal import Journals, committed
from recorder.netlink import request
from recorder.owners import Owners
from recorder.sampler import TABLES, Sampler
from recorder.schema import RECORDING_FILE
from recorder.segment import seal
from recorder.transport import DATAGRAM, connect_diag

ACTIVE = 0.1
"""Share of the connections that exchange a few bytes each second."""

SS = {
    "ss -tanie": ["ss", "-tanie"],
    "ss -tanpieom": ["ss", "-tanpieom"],
}


def cpu(action: Callable[[], object], rounds: int) -> float:
    """Return the median CPU seconds of an action, after one round that is not counted."""
    action()
    seconds = []
    for _ in range(rounds):
        before = time.process_time()
        action()
        seconds.append(time.process_time() - before)
    return median(seconds)


def floor() -> None:
    """Receive one dump of all TCP sockets and look at nothing but its end."""
    diag, _ = connect_diag()
    with diag:
        diag.send(request(TCPDIAG_GETSOCK, request_tcp_both(), 1))
        buffer = memoryview(bytearray(DATAGRAM))
        kind = 0
        while kind != 3:
            size = diag.recv_into(buffer)
            kind = int.from_bytes(buffer[size - 16 : size - 14], "little")


def floor_once_a_second(rounds: int) -> float:
    """Return the floor's median CPU seconds where each dump finds cold caches, as live ones do."""
    seconds = []
    for _ in range(rounds):
        time.sleep(0.7)
        before = time.process_time()
        floor()
        seconds.append(time.process_time() - before)
    return median(seconds)


def ss_cpu(command: list[str], rounds: int) -> float:
    """Return the median CPU seconds of an ss command, its output thrown away."""
    seconds = []
    for _ in range(rounds):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    return median(seconds)


class Stages:
    """One recorder's sample, taken apart; journals go to a temporary directory."""

    def __init__(self, directory: Path) -> None:
        self.sampler = Sampler(
            TABLES,
            netns=host.current_netns(),
            release=host.release(),
            owners=Owners(),
            owners_budget_s=0.2,
        )
        self.sampler.warm_up()
        self.directory = directory
        self.journals = Journals(directory, 1)
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
        for step in self.sampler.steps:
            step.read(self.sampler.diag)

    def columns(self) -> None:
        """Make the columns of what was decoded last."""
        for step in self.sampler.steps:
            step.decoder.rows()

    def seal(self) -> float:
        """Seal what was written; return the CPU seconds of each sample."""
        self.journals.close()
        (self.directory / RECORDING_FILE).write_text("{}")
        before = time.process_time()
        seal(self.directory, 1)
        return (time.process_time() - before) / self.number


@contextmanager
def scratch() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="sockrec-bench-"))
    try:
        yield path
    finally:
        shutil.rmtree(path)


def show(name: str, seconds: float, base: float, note: str = "") -> None:
    print(
        f"  {name:<34}{seconds * 1000:10.1f} ms {seconds / base:8.2f} x floor  {note}", flush=True
    )


def one_sample(rounds: int) -> tuple[float, float]:
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


def against_ss(base: float, whole: float, rounds: int) -> None:
    """Print what ss costs and the ratio to a whole sample."""
    if shutil.which("ss") is None:
        print("  ss is not installed")
        return
    for name, command in SS.items():
        seconds = ss_cpu(command, max(1, rounds // 4))
        show(f"{name} >/dev/null", seconds, base, f"sample is 1/{seconds / whole:.0f} of it")


def live(seconds: int) -> None:
    """Record at 1 Hz with the real command; print CPU with sealing, lateness, bytes, memory."""
    with scratch() as directory:
        target = directory / "recording"
        command = [sys.executable, "-m", "sockrec", "record", "-q", "-o", str(target)]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        child = subprocess.Popen([*command, "-i", "1s", "-d", f"{seconds}s"])
        peak: dict[str, int] = {}
        start_cpu: float | None = None
        while child.poll() is None:
            time.sleep(0.5)
            for pid, name in [
                (child.pid, "sampler"),
                *((p, "sealer") for p in _children(child.pid)),
            ]:
                peak[name] = max(peak.get(name, 0), _peak_memory(pid))
            if start_cpu is None and len(committed(target, 1)) > 0:
                start_cpu = sum(map(_cpu_so_far, [child.pid, *_children(child.pid)]))
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
        samples = pq.read_table(target / "samples")
        count = samples["sample"].combine_chunks().unique()
        late = {
            (row["sample"], row["late_us"], row["skipped"])
            for row in samples.select(["sample", "late_us", "skipped"]).to_pylist()
        }
        rows = pq.ParquetDataset(target / "sockets").fragments
        total = sum(fragment.count_rows() for fragment in rows)
        size = sum(path.stat().st_size for path in (target / "sockets").iterdir())
        steady = (spent - (start_cpu or 0.0)) / len(count)
        too_late = sum(late_us > 100_000 for _, late_us, _ in late)
        skipped = sum(skipped for _, _, skipped in late)
        print(
            f"  live: {len(count)} samples at 1 Hz, {too_late} late, {skipped} skipped (target 0)"
        )
        base = floor_once_a_second(8)
        show("floor, once a second", base, base)
        show("live: CPU a sample, sealing included", steady, base, "target 3.0")
        print(f"  sealed: {size / total:.2f} bytes a row over {total:,} rows")
        memory = ", ".join(f"{name} {kib / 1024:.0f} MiB" for name, kib in sorted(peak.items()))
        print(f"  peak memory: {memory} (target 300 each)")


def drain() -> None:
    """Wait until the TIME-WAIT sockets of an earlier population are gone."""
    for _ in range(70):
        words = Path("/proc/net/sockstat").read_text().split()
        if int(words[words.index("tw") + 1]) < 100:
            return
        time.sleep(1)


def _children(pid: int) -> list[int]:
    try:
        return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _peak_memory(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1])
    except OSError:
        pass
    return 0


def _cpu_so_far(pid: int) -> float:
    """CPU seconds of a process: at the first sample imports and the first look at /proc."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--sockets", type=int, nargs="+", default=[20_000, 100_000])
    layouts = ["uniform", "mixed"]
    parser.add_argument("--layouts", nargs="+", choices=layouts, default=layouts)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--live", type=int, default=60, help="seconds recorded live, 0 for none")
    options = parser.parse_args()
    leave_out_pandas()
    for count in options.sockets:
        for mixed in options.layouts:
            drain()
            print(f"{count:,} sockets, {mixed}, {ACTIVE:.0%} active:")
            with population(count, mixed=mixed == "mixed", active=ACTIVE):
                base, whole = one_sample(options.rounds)
                against_ss(base, whole, options.rounds)
                if options.live:
                    live(options.live)


if __name__ == "__main__":
    main()
