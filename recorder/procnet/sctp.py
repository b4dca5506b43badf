"""How the lines of /proc/net/sctp look, and what columns they make (net/sctp/proc.c)."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recorder.diag import sctp
from recorder.procnet.lines import KEY, POINTER, Fields, Lines, cut, decimal, pointer_keys
from recorder.wire.columns import AnyArray, Columns, Values, code_words


class SctpFormat:
    """SCTP endpoints and associations of one family, though the files have both.

    An association shares the inode of its endpoint. The family is IPv6 if any address is, which
    a socket of IPv4 cannot have. The peer is the primary address, which has the star.

    Lines without columns of memory are those of Linux 2.6, which counts the states of associations
    from 1; 3.0 to 3.8, where this does not run, print the same columns and count from 0. Before
    2.6.23 a line ends with the addresses.
    """

    files = ("sctp/eps", "sctp/assocs")
    QUEUES = ("send_q", "recv_q")
    MEMORY = ("wmem_alloc", "wmem_queued", "sndbuf", "rcvbuf")
    """Told since Linux 3.9."""
    STREAMS = ("_instrms", "_outstrms")
    types: Mapping[str, npt.DTypeLike] = {
        **KEY,
        **dict.fromkeys(("_association", "_state", "_told", "_counted"), "u1"),
        **dict.fromkeys(("local_port", "peer_port"), "u2"),
        **dict.fromkeys(("_locals", "_peers", "_primary"), "O"),
        **dict.fromkeys(QUEUES, "u4"),
        **dict.fromkeys(MEMORY, "i4"),
        **dict.fromkeys(STREAMS, "u2"),
    }
    ENDPOINT = re.compile(
        rb"^ *" + POINTER + rb" +" + POINTER + rb" +\d+ +(\d{1,3}) +\d+ +(\d{1,5}) +(\d{1,10}) +"
        rb"(\d{1,10}) +([0-9A-Fa-f.:* ]*)$",
        re.MULTILINE,
    )
    ASSOCIATION = re.compile(
        rb"^ *" + POINTER + rb" +" + POINTER + rb" +\d+ +\d+ +(\d{1,3}) +\d+ +-?\d+ +(\d{1,10}) +"
        rb"(\d{1,10}) +(\d{1,10}) +(\d{1,10}) +(\d{1,5}) +(\d{1,5}) +([0-9A-Fa-f.:* ]*)<->[ \t]*"
        rb"((?:\*?[0-9A-Fa-f]+[.:][0-9A-Fa-f.:]+(?:[ \t]+|$))*)"
        rb"(?:\d+ +(\d{1,5}) +(\d{1,5}) +\d+ +\d+ +\d+ +-?\d+"
        rb"(?: +(-?\d{1,10}) +(-?\d{1,10}) +(-?\d{1,10}) +(-?\d{1,10}))?)? *$",
        re.MULTILINE,
    )

    def __init__(self, *, v6: bool) -> None:
        self._v6 = v6

    def pattern(self, file: str) -> re.Pattern[bytes]:
        return self.ENDPOINT if file.endswith("eps") else self.ASSOCIATION

    def read(self, file: str, fields: Fields, rests: list[bytes]) -> Lines:
        values: dict[str, AnyArray] = {}
        if file.endswith("eps"):
            pointer, _, state, local_port, uid, inode, own = fields
            count = len(uid)
            values["_association"] = np.zeros(count, np.uint8)
            peers, peer_port = [b""] * count, [b"0"] * count
            queues, streams = [[b"0"] * count] * 2, [[b""] * count] * 2
            memory = [[b""] * count] * 4
        else:
            pointer, _, state, tx, rx, uid, inode, local_port, peer_port, own, peers = fields[:11]
            values["_association"] = np.ones(len(uid), np.uint8)
            streams, queues, memory = fields[11:13], [tx, rx], fields[13:]
        told, counted = (np.array([bool(i) for i in o[0]], np.bool_) for o in (memory, streams))
        values["_told"], values["_counted"] = told.astype(np.uint8), counted.astype(np.uint8)
        for name, texts in (
            *zip(self.QUEUES, queues, strict=True),
            *zip(self.MEMORY, memory, strict=True),
            *zip(self.STREAMS, streams, strict=True),
            *(("_state", state), ("local_port", local_port), ("peer_port", peer_port)),
            *(("uid", uid), ("inode", inode)),
        ):
            values[name] = decimal([item or b"0" for item in texts])
        begin = np.where(told, 0, values["_association"])
        values["_state"] = np.where(cut(told) | cut(counted), -1, values["_state"] - begin)
        # a reference count, which is 1 while nothing is allocated
        values["wmem_alloc"] = np.maximum(values["wmem_alloc"] - 1, 0)
        for name, texts in (("_locals", own), ("_peers", peers)):
            lists = np.empty(len(texts), object)
            for place, each in enumerate(texts):
                lists[place] = tuple(_plain_address(item) for item in each.split())
            values[name] = lists
        values["_primary"] = np.empty(len(peers), object)
        values["_primary"][:] = [_primary(each) for each in peers]
        v6 = np.array([b":" in a + b for a, b in zip(own, peers, strict=True)], np.bool_)
        hashed = values["_association"] != 0
        return Lines(values, pointer_keys(pointer), hashed, others=v6 != self._v6)

    def rows(self, columns: Columns) -> dict[str, Values | pa.Array]:
        association = columns["_association"] != 0
        own, peers = columns["_locals"].tolist(), columns["_peers"].tolist()
        details = [
            _json(
                {"locals": mine}
                | ({"peers": other} if connected else {})
                | ({"instrms": i, "outstrms": o} if counted else {})
            )
            for mine, other, i, o, connected, counted in zip(
                own,
                peers,
                *(columns[name].tolist() for name in (*self.STREAMS, "_association", "_counted")),
                strict=True,
            )
        ]
        result: dict[str, Values | pa.Array] = {
            "family": code_words(
                np.zeros(columns.rows, np.int8), ["inet6" if self._v6 else "inet"]
            ),
            "netid": code_words(np.zeros(columns.rows, np.int8), ["sctp"]),
            "state": sctp.states(columns["_state"], association),
            "local_addr": _texts([each[0] if each else None for each in own]),
            "peer_addr": _texts(columns["_primary"].tolist()),
            "peer_port": Values(columns["peer_port"], association),
            "details": pa.array(details, pa.string()).dictionary_encode(),
        }
        for name in self.QUEUES:
            result[name] = Values(columns[name], association)
        told = columns["_told"] != 0
        for name in self.MEMORY:
            result[name] = Values(columns[name], told)
        for name in "local_port uid inode cookie".split():
            result[name] = Values(columns[name])
        return result


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def _plain_address(item: bytes) -> str:
    """Return an address in its short form; the kernel marks the primary one with a star."""
    address = item.decode("ascii").lstrip("*")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        return socket.inet_ntop(family, socket.inet_pton(family, address))
    except OSError:
        return address


def _primary(peers: bytes) -> str | None:
    """Return the address with the star; the first if none has it, None of none."""
    addresses = peers.split()
    starred = [item for item in addresses if item.startswith(b"*")]
    return next((_plain_address(item) for item in (*starred, *addresses)), None)


def _texts(texts: list[str | None]) -> pa.Array:
    return pa.array(texts, pa.string()).dictionary_encode()
