"""What a recorder is told while it records: by an abstract socket that recording.json names.

A socket in the directory would keep programs from copying it. Both ends look at who the other is:
the owner of the recording, or root. A request is one packet of JSON, one a connection,
``{"mark": "deployed v2", "time_us": 1795000000000000}``, and so is the answer: ``{"error": null}``
or the sentence of what went wrong.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import struct
import time
from dataclasses import dataclass
from pathlib import Path

from recorder.format.facts import parse_facts, read_facts
from recorder.format.files import recording_file
from recorder.schema import SockrecError

FACT = "control"
"""What recording.json has the name of the socket as, as long as it is being recorded."""

MOST_BYTES = 4096
MOST_CHARACTERS = 200
PATIENCE_S = 10.0
"""How long an answer is waited for: a sample that is being taken comes first."""

_MOST_CLIENTS = 16
_TRUSTED_US = 60_000_000
"""A mark is of the moment at which it was sent, unless that is further away than this."""


class ControlError(SockrecError):
    """A request that the recorder did not take."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A mark that somebody asks for; ``answer`` must be called once it is written, or is not."""

    name: str
    time_us: int
    connection: socket.socket

    def answer(self, error: str | None = None) -> None:
        """Answer who asked, if that is still there."""
        with contextlib.suppress(OSError):
            self.connection.send(json.dumps({"error": error}).encode())
        self.connection.close()


class Control:
    """The recorder's end; ``descriptors`` are readable when there is something to take.

    ``name`` is that of the socket. Raises OSError where there can be none.
    """

    def __init__(self) -> None:
        self.name = f"sockrec-{secrets.token_hex(16)}"
        self._clients: list[socket.socket] = []
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._listener.bind(f"\0{self.name}")
            self._listener.listen(_MOST_CLIENTS)
            self._listener.setblocking(False)
        except BaseException:
            self.close()
            raise

    @property
    def descriptors(self) -> list[int]:
        return [each.fileno() for each in (self._listener, *self._clients)]

    def take(self) -> list[Asked]:
        """Return what was asked for since; what is no request is answered here."""
        with contextlib.suppress(BlockingIOError):
            while True:
                client, _ = self._listener.accept()
                if _user_of(client) not in (os.geteuid(), 0):
                    client.close()
                    continue
                client.setblocking(False)
                self._clients.append(client)
                if len(self._clients) > _MOST_CLIENTS:
                    self._clients.pop(0).close()  # the one that said nothing for longest
        asked = []
        for client in list(self._clients):
            try:
                data = client.recv(MOST_BYTES + 1)
            except BlockingIOError:
                continue
            except OSError:
                data = b""
            self._clients.remove(client)
            if not data:
                client.close()
                continue
            request = _parsed(data, client)
            if isinstance(request, Asked):
                asked.append(request)
            else:
                Asked("", 0, client).answer(request)
        return asked

    def close(self) -> None:
        for each in (self._listener, *self._clients):
            each.close()
        self._clients.clear()


def mark(recording: Path, name: str) -> None:
    """Have the recorder of a recording write a mark, and wait until it has. Raises ControlError."""
    if wrong := wrong_name(name):
        raise ControlError(wrong)
    place = recording_file(recording)
    found = parse_facts(place, read_facts(place)).get(FACT)
    owner = place.stat().st_uid
    request = {"mark": name, "time_us": time.time_ns() // 1000}
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            connection.settimeout(PATIENCE_S)
            connection.connect(f"\0{found if isinstance(found, str) else ''}"[:108])
            if _user_of(connection) not in (owner, 0):
                raise ConnectionRefusedError
            connection.send(json.dumps(request).encode())
            answer = json.loads(connection.recv(MOST_BYTES) or b'{"error": "no answer came"}')
            if not isinstance(answer, dict):
                raise ValueError("that is no answer")
    except ConnectionRefusedError as error:
        raise ControlError(
            f"{recording}: is not being recorded, or in another network namespace: a mark can only "
            "be made meanwhile"
        ) from error
    except (OSError, ValueError) as error:
        why = str(error) or type(error).__name__
        raise ControlError(f"{recording}: the recorder did not answer: {why}") from error
    if answer.get("error"):
        raise ControlError(f"{recording}: {answer['error']}")


def wrong_name(name: str) -> str | None:
    """Return what is wrong with the text of a mark, None if nothing is."""
    if not name.strip() or len(name) > MOST_CHARACTERS or not name.isprintable():
        return f"{name[:40]!r}: a mark is a line of 1 to {MOST_CHARACTERS} characters"
    return None


def _user_of(connection: socket.socket) -> int:
    """Return the user at the other end, as the kernel tells."""
    size = struct.calcsize("3i")
    found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    user: int = struct.unpack("3i", found)[1]
    return user


def _parsed(data: bytes, client: socket.socket) -> Asked | str:
    now = time.time_ns() // 1000
    try:
        request = json.loads(data)
        name, when = request["mark"], request["time_us"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return "that is no request"
    if not isinstance(name, str) or not isinstance(when, int):
        return "that is no request"
    if wrong := wrong_name(name):
        return wrong
    return Asked(name, when if abs(now - when) < _TRUSTED_US else now, client)
