"""vsock_diag (include/uapi/linux/vm_sockets_diag.h): the request, messages → columns."""

from __future__ import annotations

import socket
import struct

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recorder.diag.sock_diag import STATES, FamilyDiag
from recorder.wire.columns import Values, code_words, word_codes

ALL_STATES = 0xFFFFFFFF
ANY = 0xFFFFFFFF
"""VMADDR_CID_ANY and VMADDR_PORT_ANY."""

MESSAGE = np.dtype(
    {
        "names": "_type _state shutdown _src_cid local_id _dst_cid peer_id inode cookie".split(),
        "formats": "u1 u1 u1 <u4 <u4 <u4 <u4 <u4 <u8".split(),
        "offsets": [1, 2, 3, 4, 8, 12, 16, 20, 24],
        "itemsize": 32,
    }
)

NETIDS = ["v_str", "v_dgr", "v_seq"]
_NETID_CODE = np.ones(256, np.int8)
_NETID_CODE[[socket.SOCK_STREAM, socket.SOCK_SEQPACKET]] = 0, 2


def request_all() -> bytes:
    """Return struct vsock_diag_req for every socket."""
    return struct.pack("=BBHIIIII", socket.AF_VSOCK, 0, 0, ALL_STATES, 0, 0, 0, 0)


class VsockDiag(FamilyDiag):
    """Decodes the messages of one dump after another into the same columns.

    The kernel tells neither user nor queues.
    """

    def __init__(self) -> None:
        super().__init__(MESSAGE, {}, {})

    def rows(self) -> dict[str, Values | pa.Array]:
        """Return the columns of all rows decoded since the last ``clear``; absent ones are NULL."""
        columns = self.columns
        result: dict[str, Values | pa.Array] = {
            "family": code_words(np.zeros(columns.rows, np.int8), ["vsock"]),
            "netid": code_words(_NETID_CODE[columns["_type"]], NETIDS),
            "state": code_words(word_codes(columns["_state"], len(STATES), 0), STATES),
            "local_addr": _cids(columns["_src_cid"], "*"),
            "peer_addr": _cids(columns["_dst_cid"], None),
        }
        for name in ("local_id", "peer_id"):
            result[name] = Values(columns[name], columns[name] != ANY)
        for name in ("shutdown", "inode", "cookie"):
            result[name] = Values(columns[name])
        return result


def _cids(numbers: npt.NDArray[np.uint32], any_: str | None) -> pa.DictionaryArray:
    coded = pa.array(np.ascontiguousarray(numbers, np.uint32)).dictionary_encode()
    names = [any_ if number == ANY else str(number) for number in coded.dictionary.to_pylist()]
    return pa.array(names, pa.string()).take(coded.indices).dictionary_encode()
