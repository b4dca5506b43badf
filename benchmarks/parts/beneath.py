"""What looking at processes, at the network beneath and at connection tracking adds to a sample."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from statistics import median

import pyarrow.compute as pc

from benchmarks.live import Live, record
from benchmarks.measure import floor_live, scratch, show
from benchmarks.namespaces import held
from benchmarks.population import population
from recorder.host import facts
from recorder.host.namespaces import Namespaces, raise_descriptor_limit
from recorder.kernel.closes import Closes
from recorder.kernel.places import Places
from recorder.kernel.tables import EVERYTHING
from recorder.network.network import Network
from recorder.owners.owners import Owners
from recorder.sampling.sampler import Sampler
from tests.workloads.netns import lacking

PROCESSES, NAMESPACES, LISTENERS = 1_000, 200, 3
SAMPLES = 24
"""Samples that are taken with and without, in turn."""

SOCKETS, HOLDERS, SECONDS = 100_000, 300, 20

LEFT_OUT = {
    "owners and processes": ("--no-owners", "--conntrack"),
    "the network": ("--no-network", "--conntrack"),
    "connection tracking": (),
}
"""Options of the command that leave out a part."""

STEPS = ("owners", "processes", "network", "conntrack")

_TRACKED = """
table inet bench {
  chain seen {
    type filter hook input priority 0
    ct state established counter
  }
}
"""
"""A rule that asks for the state of connections, without which the kernel tracks none."""

_CLONE_NEWNET = 0x40000000

_IMPORT = """
import numpy, pyarrow, time
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) / 256
before, began = resident(), time.process_time()
import recorder.network.network
print(resident() - before, time.process_time() - began)
"""
"""MB and seconds of CPU, in an interpreter that has what the recorder loads anyway."""


def run() -> None:
    """Print what a sample costs with and without each."""
    if why := lacking():
        print(f"beneath: {why}")
        return
    done = subprocess.run([sys.executable, "-c", _IMPORT], check=True, capture_output=True)
    memory, seconds = map(float, done.stdout.split())
    print(f"the network's parsers: {memory:.0f} MB, {1000 * seconds:.0f} ms of CPU to begin")
    with _idle_processes(PROCESSES):
        print(f"{PROCESSES:,} idle processes with a socket each:")
        _compare("_processes")
    with held(NAMESPACES, LISTENERS):
        print(f"{NAMESPACES} network namespaces with {LISTENERS} listeners each:")
        _compare("_network")
    _alone(_leave_out)


def _leave_out() -> None:
    """Record many sockets with all there is, and without each part; then beside namespaces."""
    if shutil.which("nft"):
        subprocess.run(["nft", "-f", "-"], input=_TRACKED, text=True, check=True)
    with population(SOCKETS, processes=HOLDERS, active=0.1):
        base = floor_live(8)
        print(f"{SOCKETS:,} sockets of {HOLDERS} processes, recorded at 1 Hz:")
        show("floor, once a second", base, base)
        _each_left_out(base)
        with held(NAMESPACES, LISTENERS):
            print(
                f"the same beside {NAMESPACES} network namespaces with {LISTENERS} listeners each:"
            )
            _each_left_out(base)


def _each_left_out(base: float) -> None:
    whole = _live("with all", base, "--conntrack")
    costs = whole.costs()
    for step in STEPS:
        # a table of connections is not looked at in each sample: of all of them the mean
        rows = whole.samples.filter(pc.field("step") == step)
        seconds = (pc.sum(rows["cpu_us"]).as_py() or 0) / 1e6 / whole.count
        note = f"{costs[step].rows:,} rows" if step in costs else "not taken"
        show(f"  its step {step}", seconds, base, note)
    for name, options in LEFT_OUT.items():
        _live(f"without {name}", base, *options)


def _live(name: str, base: float, *options: str) -> Live:
    with scratch() as directory:
        live = record(directory / "recording", SECONDS, *options)
    show(f"{name}: CPU a sample", live.sample_s, base, live.memory())
    return live


def _alone(action: Callable[[], None]) -> None:
    """Do something in a network namespace of its own, whose connections may be tracked."""
    pid = os.fork()
    if not pid:
        try:
            if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "unshare")
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
            action()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if os.waitpid(pid, 0)[1]:
        raise SystemExit("beneath: it failed in its namespace; why stands above")


def _compare(part: str) -> None:
    """Take samples with and without a part of the sampler, in turn."""
    raise_descriptor_limit()
    closes = Closes(facts.release())
    sampler = Sampler(
        EVERYTHING,
        release=facts.release(),
        places=Places(Namespaces(["all"]), closes),
        owners=Owners(),
        closes=closes,
        interval_s=1.0,
        network=Network(),
    )
    with contextlib.closing(sampler):
        sampler.warm_up()
        whole = {name: getattr(sampler, name) for name in ("_processes", "_network")}
        cost: dict[bool, list[float]] = {True: [], False: []}
        step: list[float] = []
        for number in range(SAMPLES):
            there = number % 2 == 1
            for name, value in whole.items():
                setattr(sampler, name, value if name == part and there else None)
            before = time.process_time()
            sample = sampler.take(number)
            cost[there].append(time.process_time() - before)
            step += [
                row["cpu_us"] / 1e6
                for table, batch in sample.batches
                if table == "samples"
                for row in batch.to_pylist()
                if row["step"] == part.removeprefix("_")
            ]
            time.sleep(0.1)
        for name, value in whole.items():
            setattr(sampler, name, value)
    without, with_it = (median(cost[there][1:]) for there in (False, True))
    show("CPU a sample without", without)
    show("with", with_it, note=f"{with_it / without:.2f} x without")
    show(f"the step {part.removeprefix('_')}", median(step[1:]))


@contextlib.contextmanager
def _idle_processes(count: int) -> Iterator[None]:
    pids = [os.fork() or _idle() for _ in range(count)]
    try:
        time.sleep(1)
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _idle() -> int:
    """Hold a socket until the end."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    with socket.socket(type=socket.SOCK_DGRAM) as held:
        held.bind(("127.0.0.1", 0))
        while True:
            signal.pause()
