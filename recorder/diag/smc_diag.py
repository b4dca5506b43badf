"""smc_diag (include/uapi/linux/smc_diag.h): the request, messages → columns."""

from __future__ import annotations

import socket
import struct

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recorder.diag.sock_diag import FamilyDiag, where_not_zero
from recorder.wire import details, text
from recorder.wire.columns import Values, code_words, word_codes
from recorder.wire.layout import Layout

AF_SMC = 43

CONNINFO, LGRINFO, SHUTDOWN, DMBINFO, FALLBACK = range(1, 6)
ALL_EXTENSIONS = 0xFF

MESSAGE = np.dtype(
    {
        "names": "_family _state _mode local_port peer_port _src _dst interface cookie uid "
        "inode".split(),
        "formats": "u1 u1 u1 >u2 >u2 V16 V16 <u4 <u8 <u4 <u4".split(),
        "offsets": [0, 1, 2, 4, 6, 8, 24, 40, 44, 52, 56],
        "itemsize": 64,
    }
)
"""The inode has 8 bytes there, of which the kernel uses the lower half."""

# enum smc_state (net/smc/smc.h); those that TCP has too in the words of ss.
STATES = (
    "UNKNOWN ESTAB INIT UNCONN LISTEN PEERCLOSEWAIT1 PEERCLOSEWAIT2 APPCLOSEWAIT1 APPCLOSEWAIT2 "
    "APPFINCLOSEWAIT PEERFINCLOSEWAIT PEERABORTWAIT PROCESSABORT"
).split()
_STATE_CODE = np.zeros(256, np.int8)
_STATE_CODE[[1, 2, 7, 10, *range(20, 28)]] = range(1, len(STATES))
MODES = ["SMCR", "FALLBACK_TCP", "SMCD", "UNKNOWN"]

_CURSORS = (
    *(("rx_prod", 16), ("rx_cons", 24), ("tx_prod", 32), ("tx_cons", 40)),
    *(("tx_prep", 52), ("tx_sent", 60), ("tx_fin", 68)),
)
_FLAGS = "rx_prod_flags rx_conn_state_flags tx_prod_flags tx_conn_state_flags"
_CONNECTION = Layout(
    "conninfo",
    (
        *(
            (f"conninfo.{name}", 4 * n, "<u4")
            for n, name in enumerate("token sndbuf_size rmbe_size peer_rmbe_size".split())
        ),
        *((f"conninfo.{name}", 48 + n, "u1") for n, name in enumerate(_FLAGS.split())),
        *((f"conninfo.{name}_wrap", at + 2, "<u2") for name, at in _CURSORS),
        *((f"conninfo.{name}_count", at + 4, "<u4") for name, at in _CURSORS),
    ),
)
_BUFFER = "peer_gid my_gid token peer_token peer_gid_ext my_gid_ext"
_SHARED_BUFFER = Layout(
    "dmbinfo",
    (
        ("dmbinfo.linkid", 0, "<u4"),
        *((f"dmbinfo.{name}", 8 + 8 * n, "<u8") for n, name in enumerate(_BUFFER.split())),
    ),
)
_FALLBACK = Layout(
    "fallback", (("fallback.reason", 0, "<u4"), ("fallback.peer_diagnosis", 4, "<u4"))
)
_LINK_GROUP = np.dtype(
    [
        *(("link_id", "u1"), ("ibname", "V64"), ("ibport", "u1")),
        *(("gid", "V40"), ("peer_gid", "V40"), ("role", "u1")),
    ]
)


def request_all() -> bytes:
    """Return struct smc_diag_req for every socket and everything the kernel can show."""
    return struct.pack("=BxxB", AF_SMC, ALL_EXTENSIONS) + bytes(48)


class SmcDiag(FamilyDiag):
    """Decodes the messages of one dump after another into the same columns.

    The kernel does not tell an address of IPv4 from one of IPv6: ``::`` is shown as ``0.0.0.0``.
    """

    def __init__(self) -> None:
        super().__init__(
            MESSAGE,
            {CONNINFO: _CONNECTION, DMBINFO: _SHARED_BUFFER, FALLBACK: _FALLBACK},
            {SHUTDOWN: ("shutdown", "u1")},
            blobs={LGRINFO: ("_link_group", _LINK_GROUP.itemsize)},
            other=(0,),
        )

    def rows(self) -> dict[str, Values | pa.Array]:
        """Return the columns of all rows decoded since the last ``clear``; absent ones are NULL."""
        columns = self.columns
        count = columns.rows
        family = self._address_family()
        result: dict[str, Values | pa.Array] = {
            "family": code_words(np.zeros(count, np.int8), ["smc"]),
            "netid": code_words(np.zeros(count, np.int8), ["smc"]),
            "state": code_words(_STATE_CODE[columns["_state"]], STATES),
            "interface": where_not_zero(Values(columns["interface"])),
            **self._scalar_values(),
        }
        for name, raw in (("local_addr", "_src"), ("peer_addr", "_dst")):
            result[name] = text.addresses(family, columns[raw].view("V16"), socket.AF_INET)
        for name in "local_port peer_port cookie uid inode".split():
            result[name] = Values(columns[name])
        mode = word_codes(columns["_mode"], len(MODES) - 1, len(MODES) - 1)
        fields: dict[str, Values | pa.Array] = {"mode": details.strings(code_words(mode, MODES))}
        for layout in (_CONNECTION, _SHARED_BUFFER, _FALLBACK):
            fields |= layout.values(columns)
        if self._has(LGRINFO).any():
            fields |= self._link_group()
        result["details"] = details.column(fields, count)
        return result

    def _address_family(self) -> npt.NDArray[np.uint8]:
        words = [
            np.ascontiguousarray(self.columns[name]).view(np.uint32).reshape(-1, 4)
            for name in ("_src", "_dst")
        ]
        long = words[0][:, 1:].any(axis=1) | words[1][:, 1:].any(axis=1)
        is_v6 = long | (self.columns["_family"] == socket.AF_INET6)
        return np.where(is_v6, socket.AF_INET6, socket.AF_INET).astype(np.uint8)

    def _link_group(self) -> dict[str, Values | pa.Array]:
        has = self._has(LGRINFO)
        raw = np.ascontiguousarray(self.columns["_link_group"]).view(np.uint8)
        whole = raw.reshape(has.size, -1)[:, : _LINK_GROUP.itemsize]
        structs = np.ascontiguousarray(whole).view(_LINK_GROUP).reshape(-1)
        fields: dict[str, Values | pa.Array] = {}
        for name in _LINK_GROUP.names or ():
            values = structs[name]
            fields[f"lgrinfo.{name}"] = (
                details.strings(text.names(values, has))
                if values.dtype.kind == "V"
                else Values(values, has)
            )
        return fields
