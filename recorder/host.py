"""What is to be known of the host: kernel, boot, clocks, settings, and what we may not see."""

from __future__ import annotations

import os
import platform
import re
import time
from pathlib import Path
from typing import Any

CAP_NET_ADMIN = 12
CAP_SYS_PTRACE = 19

SYSCTLS = """
net.ipv4.ip_local_port_range net.ipv4.ip_local_reserved_ports net.ipv4.ip_unprivileged_port_start
net.core.somaxconn net.ipv4.tcp_max_syn_backlog net.ipv4.tcp_syncookies net.ipv4.tcp_synack_retries
net.ipv4.tcp_abort_on_overflow net.ipv4.tcp_migrate_req net.ipv4.tcp_fastopen
net.core.netdev_max_backlog net.unix.max_dgram_qlen
net.ipv4.tcp_max_tw_buckets net.ipv4.tcp_tw_reuse net.ipv4.tcp_tw_reuse_delay
net.ipv4.tcp_fin_timeout net.ipv4.tcp_rfc1337 net.ipv4.tcp_max_orphans net.ipv4.tcp_orphan_retries
net.ipv4.tcp_mem net.ipv4.udp_mem net.ipv4.tcp_rmem net.ipv4.tcp_wmem net.ipv4.udp_rmem_min
net.core.rmem_max net.core.rmem_default net.core.wmem_max net.core.wmem_default net.core.optmem_max
net.ipv4.tcp_moderate_rcvbuf net.ipv4.tcp_adv_win_scale net.ipv4.tcp_notsent_lowat
net.ipv4.tcp_limit_output_bytes net.ipv4.tcp_shrink_window
net.ipv4.tcp_syn_retries net.ipv4.tcp_syn_linear_timeouts net.ipv4.tcp_retries1
net.ipv4.tcp_retries2 net.ipv4.tcp_keepalive_time net.ipv4.tcp_keepalive_intvl
net.ipv4.tcp_keepalive_probes net.ipv4.tcp_rto_min_us net.ipv4.tcp_rto_max_ms
net.ipv4.tcp_thin_linear_timeouts
net.ipv4.tcp_congestion_control net.ipv4.tcp_available_congestion_control net.ipv4.tcp_ecn
net.ipv4.tcp_sack net.ipv4.tcp_timestamps net.ipv4.tcp_window_scaling
net.ipv4.tcp_slow_start_after_idle net.ipv4.tcp_mtu_probing net.ipv4.tcp_min_rtt_wlen
net.ipv4.tcp_no_metrics_save net.ipv4.tcp_plb_enabled net.ipv4.tcp_l3mdev_accept
net.core.default_qdisc net.ipv6.bindv6only net.mptcp.enabled net.ipv4.ping_group_range
net.ipv4.conf.all.rp_filter
net.ipv4.tcp_ehash_entries net.ipv4.tcp_child_ehash_entries net.netfilter.nf_conntrack_max
fs.file-max fs.nr_open
""".split()


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


def sysctls(proc: Path = Path("/proc")) -> dict[str, str]:
    """Return the settings that bear on sockets; those that this host does not show are left out."""
    values: dict[str, str] = {}
    for name in SYSCTLS:
        try:
            text = (proc / "sys" / name.replace(".", "/")).read_text()
        except OSError:
            continue
        values[name] = " ".join(text.split())
    return values


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
        ]
    if not effective >> CAP_SYS_PTRACE & 1:
        hidden.append(
            {"what": "owners of other users' sockets", "why": "needs root or CAP_SYS_PTRACE"}
        )
    return hidden
