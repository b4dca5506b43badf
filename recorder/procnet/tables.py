"""Tables of /proc/net for sockets that sock_diag cannot list: text → columns, and their counts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recorder.procnet.formats import FORMATS
from recorder.procnet.lines import cookies
from recorder.wire.columns import Columns, Values
from recorder.wire.netlink import Dump


class ProcNet:
    """Reads the files of one step, of one namespace after another, into the same columns."""

    names: tuple[str, ...] = tuple(FORMATS)
    """The steps there are files for."""

    def __init__(self, name: str) -> None:
        self._format = FORMATS[name]()
        self.files = self._format.files
        """Below /proc/net."""
        self.columns = Columns(self._format.types)

    def parse(self, file: str, text: bytes, dump: Dump) -> None:
        """Append the rows of one of ``files``. Broken lines are counted and left out."""
        pattern = self._format.pattern(file)
        step = pattern.groups + 1
        parts = pattern.split(text)
        rests = parts[step::step]
        fields = [parts[place::step] for place in range(1, step)]
        lines = self._format.read(file, fields, rests)
        dump.bad += _not_blank(parts[0].partition(b"\n")[2])  # below the heading
        dump.bad += sum(_not_blank(rest) for rest in rests if rest != b"\n")
        whole = np.ones(len(rests), np.bool_)
        for name, values in lines.values.items():
            kind = self.columns[name].dtype
            if kind.kind in "iu" and values.dtype != kind:
                limits = np.iinfo(kind)
                whole &= (values >= limits.min) & (values <= limits.max)
        dump.bad += int((~whole).sum())
        if lines.others is not None:
            whole &= ~lines.others
        count = int(whole.sum())
        rows = self.columns.extend(count)
        for name, values in lines.values.items():
            self.columns.whole(name)[rows] = values[whole]
        inodes = self.columns["inode"][rows]
        hashed = inodes == 0
        if lines.hashed is not None:
            hashed |= lines.hashed[whole]
        made = cookies(inodes, lines.keys[whole], hashed, v6=lines.v6)
        self.columns.whole("cookie")[rows] = made

    def keep(self, rows: npt.NDArray[np.int64]) -> None:
        """Keep only these of the rows read."""
        self.columns.keep(rows)

    def rows(self) -> dict[str, Values | pa.Array]:
        """Return the columns of all rows read since the last ``clear``; absent ones are NULL."""
        return self._format.rows(self.columns)


def _not_blank(data: bytes) -> int:
    """Count the lines that are not blank."""
    return sum(not line.isspace() for line in data.split(b"\n") if line)


_REMEMBERED = 512
"""Contents of files whose counts are remembered: those of a namespace mostly stay as they are."""

_SOCKSTAT = {
    b"TCP": "TCP",
    b"UDP": "UDP",
    b"UDPLITE": "UDP-Lite",
    b"RAW": "RAW",
    b"TCP6": "TCPv6",
    b"UDP6": "UDPv6",
    b"UDPLITE6": "UDPLITEv6",
    b"RAW6": "RAWv6",
}


@lru_cache(maxsize=_REMEMBERED)
def in_use(protocols: bytes, sockstat: bytes, sockstat6: bytes) -> Mapping[str, int]:
    """Return how many sockets of each protocol a namespace has, from its files of these names.

    The keys are the names of /proc/net/protocols, and ``tw``, TCP's TIME-WAIT of both families, and
    ``used``, the sockets of all families until the kernel has freed them, which TIME-WAIT no longer
    are. What cannot be read is left out.

    * TCP counts listeners and all that connects or is connected, be it unaccepted, orphaned or a
      subflow of MPTCP; not TIME-WAIT, SYN-RECV, nor a socket that is bound and no more.
    * UDP, UDP-Lite and PING count what is bound or connected, MPTCP what listens or connects, and
      before Linux 6.2 nothing.
    * DCCP counts as TCP does, and its TIME-WAIT is in no count at all.
    * RAW, PACKET and UNIX count every socket. Those of unix streams are in UNIX-STREAM, those of
      datagrams and sequenced packets in UNIX.
    * NETLINK counts sockets of user space; the kernel's own are in its table too.
    * AF_VSOCK is 0 whatever there is.
    """
    counts: dict[str, int] = {}
    for line in protocols.split(b"\n")[1:]:
        words = line.split()
        if len(words) > 3 and _NUMBER.fullmatch(words[2]):
            counts[words[0].decode("utf-8", "backslashreplace")] = int(words[2])
    for line in (*sockstat.split(b"\n"), *sockstat6.split(b"\n")):
        group, colon, rest = line.partition(b":")
        words = rest.split()
        if not colon or len(words) % 2:
            continue
        pairs = dict(zip(words[::2], words[1::2], strict=True))
        wanted = [(b"inuse", _SOCKSTAT.get(group))]
        wanted += [(b"tw", "tw")] * (group == b"TCP") + [(b"used", "used")] * (group == b"sockets")
        for key, name in wanted:
            if name is not None and _NUMBER.fullmatch(pairs.get(key, b"")):
                counts.setdefault(name, int(pairs[key]))
    return counts


_NUMBER = re.compile(rb"\d{1,18}")
