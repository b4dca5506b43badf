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
from recorder.procnet.lines import KEY, POINTER, Fields, Lines, decimal, pointer_keys
from recorder.wire.columns import AnyArray, Columns, Values, code_words


class SctpFormat:
    """SCTP endpoints and associations, of both families together.

    An association shares the inode of its endpoint. The family is that of the first own address.
    """

    files = ("sctp/eps", "sctp/assocs")
    QUEUES = ("send_q", "recv_q", "wmem_alloc", "wmem_queued", "sndbuf", "rcvbuf")
    types: Mapping[str, npt.DTypeLike] = {
        **KEY,
        **dict.fromkeys(("_association", "_state"), "u1"),
        **dict.fromkeys(("local_port", "peer_port"), "u2"),
        **dict.fromkeys(("_locals", "_peers"), "O"),
        **dict.fromkeys(QUEUES, "u4"),
        **dict.fromkeys(("_instrms", "_outstrms"), "u2"),
    }
    ENDPOINT = re.compile(
        rb"^ *" + POINTER + rb" +" + POINTER + rb" +\d+ +(\d{1,3}) +\d+ +(\d{1,5}) +(\d{1,10}) +"
        rb"(\d{1,10}) +([0-9A-Fa-f.:* ]*)$",
        re.MULTILINE,
    )
    ASSOCIATION = re.compile(
        rb"^ *" + POINTER + rb" +" + POINTER + rb" +\d+ +\d+ +(\d{1,3}) +\d+ +\d+ +(\d{1,10}) +"
        rb"(\d{1,10}) +(\d{1,10}) +(\d{1,10}) +(\d{1,5}) +(\d{1,5}) +([0-9A-Fa-f.:* ]*)<-> "
        rb"([0-9A-Fa-f.:* ]*)\t *\d+ +(\d{1,5}) +(\d{1,5}) +\d+ +\d+ +\d+ +\d+ +(\d{1,10}) +"
        rb"(\d{1,10}) +(\d{1,10}) +(\d{1,10}) *$",
        re.MULTILINE,
    )

    def pattern(self, file: str) -> re.Pattern[bytes]:
        return self.ENDPOINT if file.endswith("eps") else self.ASSOCIATION

    def read(self, file: str, fields: Fields, rests: list[bytes]) -> Lines:
        values: dict[str, AnyArray] = {}
        if file.endswith("eps"):
            pointer, _, state, local_port, uid, inode, own = fields
            count = len(uid)
            values["_association"] = np.zeros(count, np.uint8)
            peers, peer_port, queues = [b""] * count, [b"0"] * count, [[b"0"] * count] * 6
            streams = [[b"0"] * count] * 2
        else:
            pointer, _, state, tx, rx, uid, inode, local_port, peer_port, own, peers = fields[:11]
            values["_association"] = np.ones(len(uid), np.uint8)
            streams, queues = fields[11:13], [tx, rx, *fields[13:]]
        for name, texts in zip(self.QUEUES, queues, strict=True):
            values[name] = decimal(texts)
        for name, texts in (
            *zip(("_instrms", "_outstrms"), streams, strict=True),
            *(("_state", state), ("local_port", local_port), ("peer_port", peer_port)),
            *(("uid", uid), ("inode", inode)),
        ):
            values[name] = decimal(texts)
        for name, texts in (("_locals", own), ("_peers", peers)):
            lists = np.empty(len(texts), object)
            for place, each in enumerate(texts):
                lists[place] = tuple(_plain_address(item) for item in each.split())
            values[name] = lists
        return Lines(values, pointer_keys(pointer), values["_association"] != 0)

    def rows(self, columns: Columns) -> dict[str, Values | pa.Array]:
        association = columns["_association"] != 0
        own, peers = columns["_locals"].tolist(), columns["_peers"].tolist()
        v6 = np.array([bool(each) and ":" in each[0] for each in own], np.int8)
        details = [
            _json({"locals": mine, "peers": other, "instrms": i, "outstrms": o})
            if connected
            else _json({"locals": mine})
            for mine, other, i, o, connected in zip(
                own,
                peers,
                columns["_instrms"].tolist(),
                columns["_outstrms"].tolist(),
                association.tolist(),
                strict=True,
            )
        ]
        result: dict[str, Values | pa.Array] = {
            "family": code_words(v6, ["inet", "inet6"]),
            "netid": code_words(np.zeros(columns.rows, np.int8), ["sctp"]),
            "state": sctp.states(columns["_state"], association),
            "local_addr": _first(own),
            "peer_addr": _first(peers),
            "peer_port": Values(columns["peer_port"], association),
            "details": pa.array(details, pa.string()).dictionary_encode(),
        }
        for name in self.QUEUES:
            result[name] = Values(columns[name], association)
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


def _first(lists: list[tuple[str, ...]]) -> pa.Array:
    firsts = [each[0] if each else None for each in lists]
    return pa.array(firsts, pa.string()).dictionary_encode()
