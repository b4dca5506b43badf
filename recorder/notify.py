"""What systemd is told of a recording: that it is ready, alive, and about to end (sd_notify(3)).

A datagram of ``NAME=value`` lines to the socket that NOTIFY_SOCKET names: too little for a library,
of which the one in pure Python has had no release since 2017 and the others are compiled.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import MutableMapping

_BEATS = 4
"""How often within the time of the watchdog it is told that all is well."""


class Notify:
    """Tells nothing where nobody asked for it; takes what it needs out of the environment.

    So that a command that is started does not speak in our name.
    """

    def __init__(self, environment: MutableMapping[str, str]) -> None:
        self._address = environment.pop("NOTIFY_SOCKET", "").replace("@", "\0", 1)
        microseconds = environment.pop("WATCHDOG_USEC", "")
        pid = environment.pop("WATCHDOG_PID", "")
        mine = not pid or pid == str(os.getpid())
        self._every = int(microseconds) / 1e6 / _BEATS if microseconds.isdigit() and mine else None
        self._told = 0.0
        self._is_ready = False

    def ready(self, status: str) -> None:
        """Tell once that the recording has begun."""
        if not self._is_ready:
            self._is_ready = True
            self._tell(f"READY=1\nSTATUS={status}")

    def alive(self) -> None:
        """Tell that it goes on, as often as the watchdog needs it; to be called all the time."""
        now = time.monotonic()
        if self._every is not None and now - self._told >= self._every:
            self._told = now
            self._tell("WATCHDOG=1")

    def stopping(self) -> None:
        """Tell that the recording ends."""
        self._tell("STOPPING=1")

    def _tell(self, text: str) -> None:
        if not self._address:
            return
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender,
        ):
            sender.sendto(text.encode(), self._address)
