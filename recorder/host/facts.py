"""What is to be known of the host: kernel, boot, clocks, settings, and what we may not see."""

from __future__ import annotations

import os
import platform
import re
import time
from pathlib import Path
from typing import Any

from recorder.host.settings import sysctls

CAP_NET_ADMIN = 12
CAP_SYS_PTRACE = 19


def release() -> tuple[int, int]:
    """Return the kernel's version and patch level, as (6, 18)."""
    found = re.match(r"(\d+)\.(\d+)", platform.release())
    return (int(found[1]), int(found[2])) if found else (0, 0)


def current_netns(proc: Path = Path("/proc")) -> int:
    """Return the inode number of the network namespace this process is in."""
    return (proc / "self/ns/net").stat().st_ino


def capabilities(proc: Path = Path("/proc")) -> int:
    """Return the effective capabilities of this process as a bit mask."""
    status = (proc / "self/status").read_text()
    found = re.search(r"^CapEff:\s*([0-9a-f]+)$", status, re.MULTILINE)
    return int(found[1], 16) if found else 0


def facts(proc: Path = Path("/proc")) -> dict[str, Any]:
    """Return what recording.json says of the host."""
    return {
        "host": platform.node(),
        "machine": platform.machine(),
        "kernel": platform.release(),
        "boot_id": (proc / "sys/kernel/random/boot_id").read_text().strip(),
        "clock": {
            "realtime_us": time.clock_gettime_ns(time.CLOCK_REALTIME) // 1000,
            "boottime_us": time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000,
            "ticks_per_second": os.sysconf("SC_CLK_TCK"),
        },
        "uid": os.geteuid(),
        "netns": current_netns(proc),
        "sysctl": sysctls(proc),
    }


def unseen(effective: int) -> list[dict[str, str]]:
    """Return what capabilities hide from us, as items of recording.json."""
    hidden = []
    if not effective >> CAP_NET_ADMIN & 1:
        why = "needs CAP_NET_ADMIN"
        hidden += [
            {"what": "firewall marks (mark)", "why": why},
            {"what": "number of TCP-MD5 keys (md5_keys)", "why": why},
            {
                "what": "sequence numbers of MPTCP subflows; before Linux 6.15 all of ulp",
                "why": why,
            },
            {
                "what": "close events in bursts of more than net.core.rmem_max holds",
                "why": why,
            },
            {"what": "filters of packet sockets (details.filter)", "why": why},
        ]
    if not effective >> CAP_SYS_PTRACE & 1:
        hidden.append(
            {"what": "owners of other users' sockets", "why": "needs root or CAP_SYS_PTRACE"}
        )
    return hidden
