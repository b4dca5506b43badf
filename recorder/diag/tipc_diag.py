"""tipc_diag (include/uapi/linux/tipc_sockets_diag.h, tipc_netlink.h): messages → columns.

A message has no struct of its own, only the nest TIPC_NLA_SOCK.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recorder.diag.sock_diag import NO_UID, STATES, absent_at
from recorder.wire import details
from recorder.wire.columns import Columns, Values, code_words, word_codes
from recorder.wire.netlink import (
    Attributes,
    Dump,
    Framing,
    Words,
    attributes,
    gather_number,
)

AF_TIPC = 30
ALL_STATES = 0xFFFFFFFF

SOCK = 2
CON, STAT, GROUP = 3, 5, 12
PAD_ATTRIBUTE = 11

# type within the nest → column, numpy type; a flag is there or not
_FLAG = "flag"
_SOCK = {
    1: ("_node", "<u4"),
    2: ("local_id", "<u4"),
    4: ("has_publ", _FLAG),
    6: ("_type", "<u4"),
    7: ("inode", "<u4"),
    8: ("uid", "<u4"),
    9: ("_state", "<u4"),
    10: ("cookie", "<u8"),
}
_NESTS: dict[int, dict[int, tuple[str, str]]] = {
    CON: {
        1: ("con.flag", _FLAG),
        2: ("_peer_node", "<u4"),
        3: ("peer_id", "<u4"),
        4: ("con.type", "<u4"),
        5: ("con.inst", "<u4"),
    },
    STAT: {
        0: ("recv_q", "<u4"),
        1: ("send_q", "<u4"),
        2: ("link_cong", _FLAG),
        3: ("conn_cong", _FLAG),
        4: ("drops", "<u4"),
    },
    GROUP: {
        0: ("group.id", "<u4"),
        1: ("group.open", _FLAG),
        2: ("group.node_scope", _FLAG),
        3: ("group.cluster_scope", _FLAG),
        4: ("group.instance", "<u4"),
        5: ("group.bc_send_next", "<u4"),
    },
}
_FIELDS = (*_SOCK.values(), *(field for nest in _NESTS.values() for field in nest.values()))
_SHOWN = ("local_id", "inode", "uid", "cookie", "peer_id", "recv_q", "send_q", "drops")

NETIDS = ["ti_st", "ti_dg", "ti_rd", "ti_sq"]
_NETID_CODE = {socket.SOCK_STREAM: 0, socket.SOCK_RDM: 2, socket.SOCK_SEQPACKET: 3}


def request_all() -> bytes:
    """Return struct tipc_sock_diag_req for every socket."""
    return struct.pack("=BBHI", AF_TIPC, 0, 0, ALL_STATES)


class TipcDiag:
    """Decodes the messages of one dump after another into the same columns.

    TIPC counts its queues in messages, not in bytes. Its states are numbered as those of TCP.
    """

    def __init__(self) -> None:
        kinds = {name: "u1" if kind == _FLAG else kind for name, kind in _FIELDS}
        self.columns = Columns(kinds | {f"_has_{name}": "?" for name, _ in _FIELDS})

    def decode(self, words: Words, framing: Framing, dump: Dump) -> None:
        """Append the rows of a chunk. Broken messages and those without a socket are counted and
        left out."""
        absent = absent_at(words)
        none = np.zeros(framing.offsets.size, np.bool_)
        outer = attributes(words, framing.offsets, framing.ends, SOCK, absent, none)
        dump.count_unknown(outer.others((SOCK,)))
        begin = outer.at[SOCK]
        lost = outer.bad | (outer.length[SOCK] == 0)
        found = attributes(words, begin, begin + outer.length[SOCK], GROUP, absent, lost)
        if found.bad.any():
            dump.bad += int(found.bad.sum())
            found = found.keep(~found.bad)
        known = (*_SOCK, *_NESTS, PAD_ATTRIBUTE)
        dump.count_unknown(found.others(known), f"{SOCK}/")
        rows = self.columns.extend(found.present.size)
        self._decode_nest(words, found, _SOCK, rows)
        for kind, fields in _NESTS.items():
            begin = found.at[kind]
            none = np.zeros(begin.size, np.bool_)
            stop = begin + found.length[kind]
            inner = attributes(words, begin, stop, max(fields), absent, none)
            dump.count_unknown(inner.others(fields), f"{SOCK}/{kind}/")
            self._decode_nest(words, inner, fields, rows)
        uid = self.columns.whole("uid")[rows]
        uid[~self.columns.whole("_has_uid")[rows]] = NO_UID

    def _decode_nest(
        self, words: Words, found: Attributes, fields: Mapping[int, tuple[str, str]], rows: slice
    ) -> None:
        whole = self.columns.whole
        for kind, (name, type_) in fields.items():
            if type_ == _FLAG:
                has = (found.present >> np.uint32(kind) & 1) != 0
                whole(name)[rows] = has
            else:
                dtype = np.dtype(type_)
                has = found.length[kind] >= dtype.itemsize
                whole(name)[rows] = np.where(has, gather_number(words, found.at[kind], dtype), 0)
            whole(f"_has_{name}")[rows] = has

    def keep(self, rows: npt.NDArray[np.int64]) -> None:
        """Keep only these of the rows decoded."""
        self.columns.keep(rows)

    def rows(self) -> dict[str, Values | pa.Array]:
        """Return the columns of all rows decoded since the last ``clear``; absent ones are NULL."""
        columns = self.columns
        types, index = np.unique(columns["_type"], return_inverse=True)
        netids = np.array([_NETID_CODE.get(kind, 1) for kind in types.tolist()], np.int8)
        state = np.minimum(columns["_state"], len(STATES))
        result: dict[str, Values | pa.Array] = {
            "family": code_words(np.zeros(columns.rows, np.int8), ["tipc"]),
            "netid": code_words(netids[index], NETIDS),
            "state": code_words(word_codes(state, len(STATES), 0), STATES),
            "local_addr": self._nodes("_node"),
            "peer_addr": self._nodes("_peer_node"),
        }
        for name in _SHOWN:
            result[name] = Values(columns[name], columns[f"_has_{name}"])
        fields: dict[str, Values | pa.Array] = {}
        for name, kind in _FIELDS:
            if name not in _SHOWN and not name.startswith("_"):
                has = columns[f"_has_{name}"]
                fields[name] = Values(columns[name] != 0 if kind == _FLAG else columns[name], has)
        result["details"] = details.column(fields, columns.rows)
        return result

    def _nodes(self, name: str) -> pa.DictionaryArray:
        numbers = np.ascontiguousarray(self.columns[name])
        texts = pa.array(numbers, mask=~self.columns[f"_has_{name}"]).cast(pa.string())
        return texts.dictionary_encode()
