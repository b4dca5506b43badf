"""What all families of sock_diag share (include/uapi/linux/sock_diag.h, net/tcp_states.h)."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import numpy.typing as npt

from recorder.wire.columns import Columns, Values
from recorder.wire.layout import Layout
from recorder.wire.lists import Lists
from recorder.wire.netlink import (
    PAD,
    Dump,
    Framing,
    Words,
    attributes,
    gather,
    gather_number,
    gather_text,
)

SOCK_DIAG_BY_FAMILY = 20

STATES = (
    "UNKNOWN ESTAB SYN-SENT SYN-RECV FIN-WAIT-1 FIN-WAIT-2 TIME-WAIT UNCONN CLOSE-WAIT LAST-ACK "
    "LISTEN CLOSING SYN-RECV UNCONN"
).split()
"""Names as ss prints them, by the kernel's number; NEW_SYN_RECV and BOUND_INACTIVE are last."""

UNCONN = STATES.index("UNCONN")

NO_UID = 0xFFFFFFFF
"""What the column ``uid`` holds under a NULL: the kernel's invalid user, whom nothing names."""

LISTEN = 10

KERNEL_COOKIE = "_kernel_cookie"
"""The internal column with the cookies that ``give_cookies`` replaced, among others."""

_SK_MEMINFO = "rmem_alloc rcvbuf wmem_alloc sndbuf fwd_alloc wmem_queued optmem backlog drops"

SKMEM = Layout(
    "skmem",
    tuple(
        (name, 4 * n, "<u4" if name == "drops" else "<i4")
        for n, name in enumerate(_SK_MEMINFO.split())
    ),
)
"""The SK_MEMINFO_* words; backlog came with 3.6 and drops with 4.7.

The header calls them __u32, but the kernel has an int of each (sk_get_meminfo). Only drops, a
counter that begins again, means to be unsigned.
"""


class FamilyDiag:
    """Decodes messages of one struct with attributes of types 0 to 31, dump after dump.

    Every field of the struct becomes a column of its name; one that no row shows begins with ``_``.
    Families add what ``rows`` makes of the columns.
    """

    def __init__(
        self,
        message: np.dtype[np.void],
        structs: Mapping[int, Layout],
        scalars: Mapping[int, tuple[str, str]],
        lists: Mapping[int, int] | None = None,
        blobs: Mapping[int, tuple[str, int]] | None = None,
        other: Collection[int] = (),
    ) -> None:
        """Take what the attributes are, by type: structs, (name, numpy type) of numbers, sizes of
        the elements of arrays, (name, size) of bytes, and others that are known."""
        self._message = message
        self._structs = structs
        self._scalars = scalars
        self._lists = {kind: Lists(size) for kind, size in (lists or {}).items()}
        self._blobs = dict(blobs or {})
        self._known = frozenset((*structs, *scalars, *self._lists, *self._blobs, *other))
        kinds: dict[str, npt.DTypeLike] = {"_present": "u4", "uid": "u4"}
        for layout in structs.values():
            kinds |= layout.column_types()
        kinds |= dict(scalars.values())
        kinds |= {name: f"V{_rounded(size)}" for name, size in self._blobs.values()}
        for name in message.names or ():
            kinds[name] = message[name]
        self.columns = Columns(kinds)

    def decode(self, words: Words, framing: Framing, dump: Dump) -> None:
        """Append the rows of a chunk. Short and broken messages are counted and left out."""
        if not self.columns.rows:
            for each in self._lists.values():
                each.clear()
        starts, ends = framing.offsets, framing.ends
        head = self._message.itemsize
        bad = ends - starts < head
        absent = absent_at(words)
        begin = np.minimum(starts + head, ends)
        found = attributes(words, begin, ends, max(self._known, default=0), absent, bad)
        if found.bad.any():
            dump.bad += int(found.bad.sum())
            starts = starts[~found.bad]
            found = found.keep(~found.bad)
        dump.count_unknown(found.others(self._known))
        rows = self.columns.extend(starts.size)
        whole = self.columns.whole
        whole("uid")[rows] = NO_UID
        message = gather(words, starts, self._message)
        for name in self._message.names or ():
            whole(name)[rows] = message[name]
        for kind, layout in self._structs.items():
            layout.decode(words, found.at[kind], found.length[kind], self.columns, rows)
        present = found.present.copy()
        for kind, (name, type_) in self._scalars.items():
            dtype = np.dtype(type_)
            full = found.length[kind] >= dtype.itemsize
            present[~full] &= ~np.uint32(1 << kind)
            number = gather_number(words, found.at[kind], dtype)
            whole(name)[rows] = np.where(full, number, NO_UID if name == "uid" else 0)
        for kind, each in self._lists.items():
            each.decode(words, found.at[kind], found.length[kind], rows.start)
        for kind, (name, size) in self._blobs.items():
            length = found.length[kind]
            present[length < size] &= ~np.uint32(1 << kind)
            whole(name)[rows] = gather_text(words, found.at[kind], length, _rounded(size))
        whole("_present")[rows] = present

    def keep(self, rows: npt.NDArray[np.int64]) -> None:
        """Keep only these of the rows decoded, in ascending order."""
        self.columns.keep(rows)
        for each in self._lists.values():
            each.keep(rows)

    def _has(self, kind: int) -> npt.NDArray[np.bool_]:
        """Return which rows have that attribute, in full if it is a number."""
        bits = self.columns["_present"].astype(np.uint32, copy=False)
        has: npt.NDArray[np.bool_] = (bits & np.uint32(1 << kind)) != 0
        return has

    def _scalar_values(self) -> dict[str, Values]:
        return {
            name: Values(self.columns[name], self._has(kind))
            for kind, (name, _) in self._scalars.items()
        }


def absent_at(words: Words) -> int:
    """Return the offset to give absent attributes: zeros, in which no attribute can begin.

    The first of the zeros is where an attribute without payload ends, if it is the last of all.
    """
    return words.nbytes - PAD + 4


def where_not_zero(values: Values) -> Values:
    """Return a column that is NULL where it is 0, too."""
    some = values.data != 0
    return Values(values.data, some if values.valid is None else some & values.valid)


def _rounded(size: int) -> int:
    return (size + 7) & ~7


def derived_cookies(
    cookies: npt.NDArray[np.uint64], numbers: npt.NDArray[np.uint64]
) -> npt.NDArray[np.uint64]:
    """Return an identity of its own for each of the sockets that share a cookie.

    ``numbers`` tell them apart. The top bit is set, which no cookie of the kernel has; the rest
    mixes both (splitmix64).
    """
    mixed = cookies.astype(np.uint64) ^ (numbers << np.uint64(32) | numbers >> np.uint64(32))
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    result: npt.NDArray[np.uint64] = mixed | np.uint64(1 << 63)
    return result


def give_cookies(
    columns: Columns,
    rows: slice,
    sharing: npt.NDArray[np.bool_],
    numbers: npt.NDArray[np.uint64],
) -> None:
    """Give those of some rows that share a cookie one of their own; see ``derived_cookies``.

    Those of the kernel are kept in the column KERNEL_COOKIE.
    """
    cookies = columns["cookie"][rows].copy()
    columns[KERNEL_COOKIE][rows] = cookies
    columns["cookie"][rows] = np.where(sharing, derived_cookies(cookies, numbers), cookies)
