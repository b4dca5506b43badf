"""unix_diag (include/uapi/linux/unix_diag.h): the request, messages → columns."""

from __future__ import annotations

import socket
import struct

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recorder.diag.sock_diag import NO_UID, SKMEM, STATES, absent_at
from recorder.wire import details, text
from recorder.wire.columns import Bits, Columns, Values, code_words, word_codes
from recorder.wire.lists import Lists
from recorder.wire.netlink import Dump, Framing, Words, attributes, gather, gather_number

NAME, VFS, PEER, ICONS, RQLEN, MEMINFO, SHUTDOWN, UID = range(8)
LAST = UID
ALL_STATES = 0xFFFFFFFF
SHOW_ALL = 0x7F

NAME_WIDTH = 112
"""sun_path has 108 bytes; rounded up to a multiple of 8."""

MESSAGE = np.dtype(
    {
        "names": ["type", "state", "inode", "cookie"],
        "formats": ["u1", "u1", "<u4", "<u8"],
        "offsets": [1, 2, 4, 8],
        "itemsize": 16,
    }
)
_TWO = np.dtype([("first", "<u4"), ("second", "<u4")])
_U4 = np.dtype("<u4")
_U1 = np.dtype("u1")

NETIDS = ["u_str", "u_seq", "u_dgr"]
_NETID_CODE = np.array([{1: 0, 5: 1}.get(n, 2) for n in range(256)], np.int8)


def request_all() -> bytes:
    """Return struct unix_diag_req for every socket and everything the kernel can show."""
    return struct.pack("=BBxxIIIII", socket.AF_UNIX, 0, ALL_STATES, 0, SHOW_ALL, 0, 0)


class UnixDiag:
    """Decodes the messages of one dump after another into the same columns."""

    def __init__(self) -> None:
        kinds: dict[str, npt.DTypeLike] = {
            "_type": "u1",
            "_state": "u1",
            "inode": "u4",
            "cookie": "u8",
            "_present": "u4",
            "_name": f"V{NAME_WIDTH}",
            "_name_length": "u2",
            "vfs_inode": "u4",
            "vfs_dev": "u4",
            "peer_inode": "u4",
            "recv_q": "u4",
            "send_q": "u4",
            "shutdown": "u1",
            "uid": "u4",
        }
        self.columns = Columns(kinds | SKMEM.column_types())
        self._icons = Lists(4)

    def decode(self, words: Words, framing: Framing, dump: Dump) -> None:
        """Append the rows of a chunk. Short and broken messages are counted and left out."""
        if not self.columns.rows:
            self._icons.clear()
        starts, ends = framing.offsets, framing.ends
        bad = ends - starts < MESSAGE.itemsize
        absent = absent_at(words)
        found = attributes(
            words, np.minimum(starts + MESSAGE.itemsize, ends), ends, LAST, absent, bad
        )
        if found.bad.any():
            dump.bad += int(found.bad.sum())
            starts = starts[~found.bad]
            found = found.keep(~found.bad)
        dump.count_unknown(found.others(range(LAST + 1)))
        rows = self.columns.extend(starts.size)
        whole = self.columns.whole
        message = gather(words, starts, MESSAGE)
        for name, column in (("type", "_type"), ("state", "_state")):
            whole(column)[rows] = message[name]
        for name in ("inode", "cookie"):
            whole(name)[rows] = message[name]
        present = found.present.copy()
        for kind, size in ((VFS, 8), (PEER, 4), (RQLEN, 8), (SHUTDOWN, 1), (UID, 4)):
            present[found.length[kind] < size] &= ~np.uint32(1 << kind)
        whole("_present")[rows] = present
        length = np.minimum(found.length[NAME], NAME_WIDTH)
        whole("_name")[rows] = gather(words, found.at[NAME], np.dtype([("v", f"V{NAME_WIDTH}")]))[
            "v"
        ]
        whole("_name_length")[rows] = length
        for kind, first, second in ((VFS, "vfs_inode", "vfs_dev"), (RQLEN, "recv_q", "send_q")):
            pair = gather(words, found.at[kind], _TWO)
            whole(first)[rows], whole(second)[rows] = pair["first"], pair["second"]
        whole("peer_inode")[rows] = gather_number(words, found.at[PEER], _U4)
        with_uid = (present >> np.uint32(UID) & 1) != 0
        whole("uid")[rows] = np.where(with_uid, gather_number(words, found.at[UID], _U4), NO_UID)
        whole("shutdown")[rows] = gather_number(words, found.at[SHUTDOWN], _U1)
        SKMEM.decode(words, found.at[MEMINFO], found.length[MEMINFO], self.columns, rows)
        self._icons.decode(words, found.at[ICONS], found.length[ICONS], rows.start)

    def keep(self, rows: npt.NDArray[np.int64]) -> None:
        """Keep only these of the rows decoded, in ascending order."""
        self.columns.keep(rows)
        self._icons.keep(rows)

    def rows(self) -> dict[str, Values | pa.Array]:
        """Return the columns of all rows decoded since the last ``clear``; absent ones are NULL."""
        columns = self.columns
        bits = Bits(columns["_present"].astype(np.uint32, copy=False))
        result: dict[str, Values | pa.Array] = {
            "family": code_words(np.zeros(columns.rows, np.int8), ["unix"]),
            "netid": code_words(_NETID_CODE[columns["_type"].astype(np.uint8)], NETIDS),
            "state": code_words(word_codes(columns["_state"], len(STATES), 0), STATES),
            "inode": Values(columns["inode"]),
            "cookie": Values(columns["cookie"]),
        }
        if bits.any(NAME):
            names = self._names(bits.mask(NAME)).dictionary_encode()
            result["local_addr"] = names
            if bits.any(PEER):
                result["peer_addr"] = self._peer_names(names, bits.mask(PEER))
        for kind, names in (
            (VFS, ("vfs_inode", "vfs_dev")),
            (PEER, ("peer_inode",)),
            (RQLEN, ("recv_q", "send_q")),
            (SHUTDOWN, ("shutdown",)),
            (UID, ("uid",)),
        ):
            if bits.any(kind):
                for name in names:
                    result[name] = Values(columns[name], bits.mask(kind))
        result |= SKMEM.values(columns)
        if self._icons:
            inodes = pa.array(self._icons.elements().view(np.uint32).reshape(-1))
            counts = self._icons.counts(columns.rows)
            icons = details.joined_lists(inodes.cast(pa.string()), counts)
            result["icons"] = icons.dictionary_encode()
        return result

    def _names(self, valid: npt.NDArray[np.bool_] | None) -> pa.Array:
        raw = np.ascontiguousarray(self.columns["_name"]).view(np.uint8).reshape(-1, NAME_WIDTH)
        length = self.columns["_name_length"].astype(np.int64)
        # a path comes with its NUL, an abstract name starts with one and ends where it ends
        last = raw[np.arange(len(raw)), np.maximum(length - 1, 0)]
        is_path = (length > 0) & (raw[:, 0] != 0)
        length = length - (is_path & (last == 0))
        mask = np.zeros(len(raw), np.bool_) if valid is None else ~valid
        return text.joined(raw, length, mask)

    def _peer_names(
        self, names: pa.DictionaryArray, valid: npt.NDArray[np.bool_] | None
    ) -> pa.DictionaryArray:
        """Return the name of each peer; NULL if it has none or is not among the rows.

        An inode is that of one socket on the host, whatever its namespace; 0 is no inode.
        """
        inodes = self.columns["inode"].astype(np.uint32, copy=False)
        peers = self.columns["peer_inode"].astype(np.uint32, copy=False)
        order = np.argsort(inodes)
        place = np.minimum(np.searchsorted(inodes, peers, sorter=order), inodes.size - 1)
        row = order[place]
        known = (inodes[row] == peers) & (peers != 0)
        if valid is not None:
            known &= valid
        codes = names.indices.take(pa.array(row, mask=~known))
        return pa.DictionaryArray.from_arrays(codes, names.dictionary)
