"""The sysctls that bear on sockets: reads them, and tells which changed since the last reading."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa

from recorder.host.procfs import read_file
from recorder.wire.columns import Values

HOST = 0
"""Stands for the whole host where a network namespace is asked for."""

NAMESPACE_SYSCTLS = """
net.ipv4.ip_local_port_range net.ipv4.ip_local_reserved_ports net.ipv4.ip_unprivileged_port_start
net.core.somaxconn net.ipv4.tcp_max_syn_backlog net.ipv4.tcp_syncookies net.ipv4.tcp_synack_retries
net.ipv4.tcp_abort_on_overflow net.ipv4.tcp_migrate_req net.ipv4.tcp_fastopen
net.unix.max_dgram_qlen
net.ipv4.tcp_max_tw_buckets net.ipv4.tcp_tw_reuse net.ipv4.tcp_tw_reuse_delay
net.ipv4.tcp_fin_timeout net.ipv4.tcp_rfc1337 net.ipv4.tcp_orphan_retries
net.ipv4.tcp_rmem net.ipv4.tcp_wmem net.ipv4.udp_rmem_min
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
net.ipv6.bindv6only net.mptcp.enabled net.ipv4.ping_group_range
net.ipv4.conf.all.rp_filter net.ipv4.conf.default.rp_filter
net.ipv4.tcp_ehash_entries net.ipv4.tcp_child_ehash_entries net.netfilter.nf_conntrack_max
""".split()
"""Each network namespace has its own, or shows those of the host.

``tcp_ehash_entries`` is negative in a namespace that shares the table of the host.
"""

HOST_SYSCTLS = """
net.core.netdev_max_backlog net.core.default_qdisc
net.ipv4.tcp_max_orphans net.ipv4.tcp_mem net.ipv4.udp_mem
fs.file-max fs.nr_open
""".split()
"""One value for the host; those of net.* are shown in its first network namespace only."""


_LONGEST = 1 << 16
"""ip_local_reserved_ports may be this long."""


def _read(names: Iterable[str], proc: Path) -> dict[str, str]:
    values: dict[str, str] = {}
    try:
        directory = os.open(proc / "sys", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return values
    try:
        for name in names:
            with contextlib.suppress(OSError):
                content = read_file(directory, name.replace(".", "/"), _LONGEST)
                values[name] = " ".join(content.decode("utf-8", "backslashreplace").split())
    finally:
        os.close(directory)
    return values


def read_namespace(proc: Path = Path("/proc")) -> dict[str, str]:
    """Read those of the network namespace this thread is in; missing ones are left out.

    The kernel shows below /proc/sys/net the namespace of whoever opens a file there.
    """
    return _read(NAMESPACE_SYSCTLS, proc)


def read_host(proc: Path = Path("/proc")) -> dict[str, str]:
    """Read those of the host; missing ones are left out."""
    return _read(HOST_SYSCTLS, proc)


def sysctls(proc: Path = Path("/proc")) -> dict[str, str]:
    """Read all; missing ones are left out."""
    return read_namespace(proc) | read_host(proc)


Changed = list[tuple[str, str | None]]
"""Names and values; None if a sysctl is gone."""


class Settings:
    """Knows the last reading of every namespace."""

    def __init__(self) -> None:
        self._last: dict[int, dict[str, str]] = {}
        self._seen: set[str] = set()

    def changed(self, netns: int, values: Mapping[str, str]) -> Changed:
        """Compare a reading with the one before, and remember it.

        ``values`` are those of read_namespace, or of read_host for the namespace HOST.
        """
        last = self._last.get(netns, {})
        if values == last:
            return []
        self._seen.update(values)
        self._last[netns] = dict(values)
        rows: Changed = [(n, value) for n, value in values.items() if last.get(n) != value]
        return rows + [(name, None) for name in last if name not in values]

    def all(self) -> list[tuple[int, Changed]]:
        """Return what was read last, of every namespace."""
        return [(netns, list(values.items())) for netns, values in self._last.items()]

    def missing(self) -> list[str]:
        """Return the sysctls that no reading so far has shown."""
        return [name for name in (*NAMESPACE_SYSCTLS, *HOST_SYSCTLS) if name not in self._seen]

    def forget(self, netns: int) -> None:
        """Let go of a namespace that is gone; should its number come back, all is new."""
        self._last.pop(netns, None)


def columns(changes: Sequence[tuple[int, Changed]]) -> dict[str, Values | pa.Array]:
    """Return the columns of schema.SETTINGS, but for sample and sample_time, of (netns, rows)."""
    numbers = np.array([netns for netns, _ in changes], np.uint64)
    rows = list(chain.from_iterable(rows for _, rows in changes))
    names, values = ([row[0] for row in rows], [row[1] for row in rows])
    return {
        "netns": Values(np.repeat(numbers, [len(rows) for _, rows in changes])),
        "name": pa.array(names, pa.string()).dictionary_encode(),
        "value": pa.array(values, pa.string()).dictionary_encode(),
    }
