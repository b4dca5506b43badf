"""struct sctp_info (include/uapi/linux/sctp.h) and the addresses of SCTP → columns and details.

The kernel lists an endpoint, which is the socket, and each of its associations, all of them with
the cookie and the inode of the socket. An association is known by the attribute with its peers.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from recorder.diag.sock_diag import STATES, give_cookies
from recorder.wire import details, text
from recorder.wire.columns import Columns, Values, code_words, word_codes
from recorder.wire.layout import Layout
from recorder.wire.lists import Lists
from recorder.wire.netlink import Attributes, Words

LOCALS, PEERS = 12, 13
_SOCKADDR_STORAGE = 128

ASSOCIATION_STATES = (
    "CLOSED COOKIE_WAIT COOKIE_ECHOED ESTAB SHUTDOWN_PENDING SHUTDOWN_SENT SHUTDOWN_RECEIVED "
    "ACK_SENT"
).split()
"""enum sctp_state in the words of ss."""

TIMER = "T3_RTX"
"""The one timer that is shown, in the word of ss."""

_ALL_STATES = [*STATES, *(word for word in ASSOCIATION_STATES if word not in STATES)]
_ASSOCIATION_CODE = np.zeros(256, np.int8)
_ASSOCIATION_CODE[: len(ASSOCIATION_STATES)] = [_ALL_STATES.index(w) for w in ASSOCIATION_STATES]

_U2, _U4, _U8 = "<u2", "<u4", "<u8"
_CHUNKS = (
    "isacks osacks opackets ipackets rtxchunks outofseqtsns idupchunks gapcnt ouodchunks "
    "iuodchunks oodchunks iodchunks octrlchunks ictrlchunks"
)
_PRIMARY = (
    "cwnd srtt rto hbinterval pathmaxrxt sackdelay sackfreq ssthresh partial_bytes_acked "
    "flight_size"
)
_QUEUES = "fragmentation_point inqueue outqueue overall_error max_burst maxseg peer_rwnd peer_tag"

LAYOUT = Layout(
    "info",
    (
        ("tag", 0, _U4),
        ("_sctpi_state", 4, _U4),
        ("rwnd", 8, _U4),
        ("unackdata", 12, _U2),
        ("penddata", 14, _U2),
        ("instrms", 16, _U2),
        ("outstrms", 18, _U2),
        *((name, 20 + 4 * n, _U4) for n, name in enumerate(_QUEUES.split())),
        ("peer_capable", 52, "u1"),
        ("peer_sack", 53, "u1"),
        *((name, 56 + 8 * n, _U8) for n, name in enumerate(_CHUNKS.split())),
        *((f"_p_address_{n}", 168 + 8 * n, _U8) for n in range(3)),
        ("p_state", 296, "<i4"),
        *((f"p_{name}", 300 + 4 * n, _U4) for n, name in enumerate(_PRIMARY.split())),
        ("p_error", 340, _U2),
        ("s_autoclose", 344, _U4),
        ("s_adaptation_ind", 348, _U4),
        ("s_pd_point", 352, _U4),
        ("s_nodelay", 356, "u1"),
        ("s_disable_fragments", 357, "u1"),
        ("s_v4mapped", 358, "u1"),
        ("s_frag_interleave", 359, "u1"),
        ("s_type", 360, _U4),
    ),
)


class Addresses:
    """The addresses of endpoints and associations, beside the columns that inet_diag decodes."""

    def __init__(self) -> None:
        self._lists = {kind: Lists(_SOCKADDR_STORAGE) for kind in (LOCALS, PEERS)}

    def clear(self) -> None:
        """Forget everything."""
        for each in self._lists.values():
            each.clear()

    def decode(self, words: Words, found: Attributes, rows: slice) -> None:
        """Append those of some messages."""
        for kind, each in self._lists.items():
            each.decode(words, found.at[kind], found.length[kind], rows.start)

    def keep(self, rows: npt.NDArray[np.int64]) -> None:
        """Keep only those of these rows, in ascending order."""
        for each in self._lists.values():
            each.keep(rows)

    def fragments(self, rows: int) -> dict[str, pa.Array]:
        """Return them as JSON arrays, without ports, which are those of the row."""
        return {
            name: details.arrays(
                details.strings(text.socket_addresses(self._lists[kind].elements())),
                self._lists[kind].counts(rows),
            )
            for name, kind in (("locals", LOCALS), ("peers", PEERS))
            if self._lists[kind]
        }


def associations(columns: Columns) -> npt.NDArray[np.bool_]:
    """Return which rows are associations; the others are endpoints."""
    return (columns["_present"] >> np.uint32(PEERS) & 1).astype(np.bool_)


def identify(columns: Columns, rows: slice) -> None:
    """Give associations a cookie of their own, told apart by their tags."""
    tags = columns.whole("tag")[rows].astype(np.uint64)
    give_cookies(columns, rows, associations(columns)[rows], tags)


def states(
    numbers: npt.NDArray[np.uint8], is_association: npt.NDArray[np.bool_]
) -> pa.DictionaryArray:
    """Return the states, of which endpoints have those of TCP."""
    endpoint = word_codes(numbers, len(STATES), 0)
    return code_words(np.where(is_association, _ASSOCIATION_CODE[numbers], endpoint), _ALL_STATES)


def values(columns: Columns, is_association: npt.NDArray[np.bool_]) -> dict[str, Values | pa.Array]:
    """Return the fields of ``details``; the kernel fills in those of an endpoint (``s_``) or of an
    association, and leaves 0 in the others."""
    found = LAYOUT.values(columns)
    found.pop("_sctpi_state", None)
    address = [found.pop(f"_p_address_{n}", None) for n in range(3)]
    result: dict[str, Values | pa.Array] = {}
    for name, value in found.items():
        owner = ~is_association if name.startswith("s_") else is_association
        result[name] = Values(value.data, owner if value.valid is None else owner & value.valid)
    if address[2] is not None:
        words = np.stack([columns[f"_p_address_{n}"] for n in range(3)], axis=1)
        texts = text.socket_addresses(np.ascontiguousarray(words).view(np.uint8))
        shown = is_association if address[2].valid is None else is_association & address[2].valid
        null = pa.scalar(None, pa.string())
        result["p_address"] = pc.if_else(pa.array(shown), details.strings(texts), null)
    return result
