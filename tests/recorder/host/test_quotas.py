"""Limits of cgroups: a live one that throttles, and the files of both versions."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from recorder.host.quotas import NO_QUOTA, Quotas
from tests.recorder.support.owners_child import PATIENCE_S, Child

V2 = "25 24 0:22 / {} rw - cgroup2 cgroup2 rw\n"
V1 = "30 24 0:29 {} {} rw - cgroup cgroup rw,{}\n"


def host(folder: Path, mounts: str, files: Mapping[str, str]) -> Quotas:
    """Make a /proc with these mounts, and files of cgroups beside it."""
    (folder / "proc/self").mkdir(parents=True)
    (folder / "proc/self/mountinfo").write_text(mounts)
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    quotas = Quotas(folder / "proc")
    quotas.begin()
    return quotas


def test_the_nearest_limit_above_counts(tmp_path: Path) -> None:
    stat = "usage_usec 9\nnr_periods 50\nnr_throttled 20\nthrottled_usec 1700000\n"
    quotas = host(
        tmp_path,
        V2.format(tmp_path / "cg"),
        {
            "cg/pod/cpu.max": "50000 100000\n",
            "cg/pod/cpu.stat": stat,
            "cg/pod/memory.max": "max\n",
            "cg/pod/one/cpu.max": "max 100000\n",
            "cg/pod/one/cpu.stat": "usage_usec 9\nnr_periods 0\nnr_throttled 0\nthrottled_usec 0\n",
            "cg/pod/one/memory.max": "1048576\n",
            "cg/pod/one/memory.events": "low 0\nhigh 0\nmax 7\noom 1\noom_kill 2\n",
        },
    )
    found = quotas.of(b"0::/pod/one\n")
    assert (found.cpu_limit_us, found.nr_periods, found.nr_throttled) == (500_000, 50, 20)
    assert (found.throttled_us, found.memory_limit_bytes) == (1_700_000, 1 << 20)
    assert (found.memory_limit_hits, found.oom_kills) == (7, 2)
    assert quotas.of(b"0::/\n") == quotas.of(b"0::/elsewhere\n") == quotas.of(b"") == NO_QUOTA


def test_the_hierarchies_of_version_1_have_numbers_of_their_own(tmp_path: Path) -> None:
    mounts = V1.format("/", tmp_path / "cpu", "cpu,cpuacct") + V2.format(tmp_path / "unified")
    quotas = host(
        tmp_path,
        # of memory only the part of a container is mounted
        mounts + V1.format("/docker/x", tmp_path / "memory", "memory"),
        {
            "cpu/docker/x/cpu.cfs_quota_us": "150000\n",
            "cpu/docker/x/cpu.cfs_period_us": "100000\n",
            "cpu/docker/x/cpu.stat": "nr_periods 4\nnr_throttled 1\nthrottled_time 2500000\n",
            "memory/memory.limit_in_bytes": "4096\n",
            "memory/memory.failcnt": "3\n",
            "memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
        },
    )
    found = quotas.of(b"4:memory:/docker/x\n2:cpu,cpuacct:/docker/x\n0::/\n")
    assert (found.cpu_limit_us, found.nr_periods, found.nr_throttled) == (1_500_000, 4, 1)
    assert (found.throttled_us, found.memory_limit_bytes) == (2500, 4096)
    assert (found.memory_limit_hits, found.oom_kills) == (3, 1)
    assert quotas.of(b"4:memory:/docker/xyz\n") == NO_QUOTA


def test_what_is_read_is_read_once_a_look(tmp_path: Path) -> None:
    files = {"cg/a/cpu.max": "1000 2000\n", "cg/a/cpu.stat": "nr_periods 1\n"}
    quotas = host(tmp_path, V2.format(tmp_path / "cg"), files)
    assert quotas.of(b"0::/a\n").nr_periods == 1
    (tmp_path / "cg/a/cpu.stat").write_text("nr_periods 2\n")
    assert quotas.of(b"0::/a\n").nr_periods == 1
    quotas.begin()
    assert quotas.of(b"0::/a\n").nr_periods == 2


@pytest.fixture
def throttling() -> Iterator[Path]:
    """Make a cgroup that may use a tenth of a core."""
    for mount, version in (("/sys/fs/cgroup/cpu", 1), ("/sys/fs/cgroup", 2)):
        folder = Path(mount) / f"sockrec-test-{os.getpid()}"
        try:
            folder.mkdir()
        except OSError:
            continue
        try:
            if version == 1:
                (folder / "cpu.cfs_period_us").write_text("20000")
                (folder / "cpu.cfs_quota_us").write_text("2000")
            else:
                (folder / "cpu.max").write_text("2000 20000")
        except OSError:
            folder.rmdir()
            continue
        yield folder
        folder.rmdir()
        return
    pytest.skip("needs root and the cpu controller of cgroups")


@pytest.mark.live
def test_a_throttled_process_is_seen_to_be(throttling: Path) -> None:
    quotas = Quotas()
    with Child() as child:
        child.run("")
        (throttling / "cgroup.procs").write_text(str(child.pid))
        child.begin("while True: pass")
        cgroups = Path(f"/proc/{child.pid}/cgroup").read_bytes()
        limit = time.monotonic() + PATIENCE_S
        while True:
            before = (throttling / "cpu.stat").read_text()
            quotas.begin()
            found = quotas.of(cgroups)
            after = (throttling / "cpu.stat").read_text()
            told = dict(line.split() for line in after.splitlines())
            if before == after and int(told["nr_throttled"]) > 0:
                break
            assert time.monotonic() < limit, "it is not throttled"
    assert found.cpu_limit_us == 100_000
    assert found.nr_periods == int(told["nr_periods"])
    assert found.nr_throttled == int(told["nr_throttled"])
