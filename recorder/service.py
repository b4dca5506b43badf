"""A systemd unit for a recorder that is left on: what it may do, and what it may take."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from recorder.schema import SockrecError

OPTIONS = (
    *("--append", "%S/sockrec/recording"),
    *("--keep-size", "2G"),
    *("--min-free", "1G"),
    *("--max-cpu", "10%%"),
    *("--heartbeat", "1h"),
    "--log",
)
"""Of what is given twice the latter counts, so that others may follow."""

_UNIT = """\
[Unit]
Description=Record what the sockets of this host are doing
# It needs nothing but its directory, and goes on trying.
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
ExecStart={command}
Restart=always
RestartSec=5s
# of a wrong use, which no second try makes right
RestartPreventExitStatus=2
# The first look at every process and what a killed recorder left to seal come before it is ready.
TimeoutStartSec=5min
TimeoutStopSec=2min
WatchdogSec=3min
KillMode=mixed

StateDirectory=sockrec
StateDirectoryMode=0700
UMask=0077

# What it may take
MemoryMax=1G
CPUQuota=50%
TasksMax=32
LimitNOFILE=65536
Nice=5
IOSchedulingClass=best-effort
IOSchedulingPriority=7

# What it may do: ask the kernel for marks and filters (NET_ADMIN), enter network namespaces
# (SYS_ADMIN), look at the descriptors of all processes (SYS_PTRACE, DAC_READ_SEARCH).
CapabilityBoundingSet=CAP_NET_ADMIN CAP_SYS_ADMIN CAP_SYS_PTRACE CAP_DAC_READ_SEARCH
NoNewPrivileges=yes
RestrictNamespaces=net
RestrictAddressFamilies=AF_NETLINK AF_UNIX
SystemCallArchitectures=native
SystemCallFilter=@system-service setns kcmp open_by_handle_at name_to_handle_at
SystemCallErrorNumber=EPERM

ProtectSystem=strict
ProtectHome=read-only
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
PrivateDevices=yes
PrivateTmp=yes
LockPersonality=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes

[Install]
WantedBy=multi-user.target
"""


class ServiceError(SockrecError):
    """A unit that cannot be written."""


def unit(program: Path, options: Sequence[str]) -> str:
    """Return the text of the unit for a program by its path, with more options of ``record``."""
    words = [str(program), "record", *OPTIONS, *(option.replace("%", "%%") for option in options)]
    return _UNIT.format(command=" ".join(_quoted(word) for word in words))


def _quoted(word: str) -> str:
    """Return a word as systemd.service(5) takes it."""
    if not word.isprintable():
        raise ServiceError(f"{word!r}: has a character that a unit cannot have")
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("$", "$$")
    return f'"{escaped}"' if set(word) & set(" \t\"'\\$;") or not word else escaped
