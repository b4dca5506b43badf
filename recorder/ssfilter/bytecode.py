"""A filter of ss as what the kernel is asked for: a mask of states, and bytecode of inet_diag.

Layouts: include/uapi/linux/inet_diag.h. The kernel has no word for some conditions, and looks at
others with other eyes (the mark of a TIME-WAIT, who chose a port). So it is asked for at least what
the filter lets through, and its answer is filtered again.
"""

from __future__ import annotations

import struct
from collections.abc import Collection
from typing import TypeAlias

from recorder.ssfilter.tree import (
    INET,
    INET6,
    STATES,
    Address,
    And,
    Filter,
    Host,
    Name,
    Network,
    Node,
    Not,
    Or,
    Port,
)

REQUEST_BYTECODE = 1
"""INET_DIAG_REQ_BYTECODE."""

_JMP, _S_GE, _S_LE, _D_GE, _D_LE, _S_COND, _D_COND = 1, 2, 3, 4, 5, 7, 8
_UNSPEC, _INET, _INET6 = 0, 2, 10
_OP = struct.Struct("=BBH")
_LONGEST = 0xFFFF - 4
"""Bytes of an attribute of netlink."""

_BITS = {name: 1 << number for number, name in enumerate(STATES, 1)}
_BITS["SYN-RECV"] |= 1 << 12  # NEW_SYN_RECV
_BITS["UNCONN"] |= 1 << 13  # BOUND_INACTIVE
ALL_STATES = 0xFFFE

_Code: TypeAlias = bytes | bool
"""A program, or what it would always say."""


def states_mask(states: Collection[str] | None) -> int:
    """Return the states of a filter as ``idiag_states``; None is all."""
    if states is None or set(STATES) <= set(states):
        return ALL_STATES
    mask = 0
    for name in states:
        mask |= _BITS.get(name, 0)
    return mask


def bytecode(found: Filter) -> bytes | None:
    """Return a program that lets through at least what the filter does; b"" is everything.

    None says that no internet socket can pass.
    """
    if found.family not in (None, INET, INET6):
        return None
    code: _Code = True if found.tree is None else _write(found.tree, True)
    if isinstance(code, bool):
        return b"" if code else None
    return code if len(code) <= _LONGEST else b""


def attribute(code: bytes) -> bytes:
    """Return a program as an attribute of a request."""
    return struct.pack("=HH", 4 + len(code), REQUEST_BYTECODE) + code if code else b""


def _write(node: Node, most: bool) -> _Code:
    """Return a program for a tree; what has no word in it counts as ``most``."""
    match node:
        case And() | Or():
            return _list(node, most)
        case Not(inner):
            return _not(_write(inner, not most))
        case Host(side, networks, port):
            return _host(side == "local", networks, port)
        case Port(side, low, high):
            return _port(side == "local", low, high)
        case Name() | Address():  # of other sockets
            return False
    return most


def _list(node: And | Or, most: bool) -> _Code:
    """Write a list of one operator, which may be long, from its end."""
    kind, join = (And, _and) if isinstance(node, And) else (Or, _or)
    parts: list[Node] = []
    left: Node = node
    while isinstance(left, kind):
        parts.append(left.right)
        left = left.left
    code = _write(parts[0], most)
    for part in (*parts[1:], left):
        code = join(_write(part, most), code)
    return code


# A program accepts at its end, and rejects four bytes behind it.


def _and(left: _Code, right: _Code) -> _Code:
    if isinstance(left, bool):
        return right if left else False
    if isinstance(right, bool):
        return left if right else False
    return _rejecting_at(left, len(right)) + right


def _or(left: _Code, right: _Code) -> _Code:
    if isinstance(left, bool):
        return True if left else right
    if isinstance(right, bool):
        return True if right else left
    return left + _jump(len(right)) + right


def _not(code: _Code) -> _Code:
    # What accepts comes to the jump, which rejects; what rejects comes behind it.
    return not code if isinstance(code, bool) else code + _jump(4)


def _jump(over: int) -> bytes:
    return _OP.pack(_JMP, 4, 4 + over)


def _rejecting_at(code: bytes, further: int) -> bytes:
    """Return a program whose rejection lies further behind its end."""
    patched = bytearray(code)
    at = 0
    while at < len(code):
        op, yes, no = _OP.unpack_from(code, at)
        if at + no == len(code) + 4:
            _OP.pack_into(patched, at, op, yes, no + further)
        at += yes
    return bytes(patched)


def _host(local: bool, networks: tuple[Network, ...], port: int | None) -> _Code:
    if port is not None and not 0 <= port <= 0xFFFF:
        return False
    if not networks:
        return True if port is None else _condition(local, _UNSPEC, 0, b"", port)
    code: _Code = False
    for one in networks:
        family = _INET if one.family == INET else _INET6
        code = _or(code, _condition(local, family, one.bits, one.address, port))
    return code


def _condition(local: bool, family: int, bits: int, address: bytes, port: int | None) -> bytes:
    """Return a comparison with struct inet_diag_hostcond."""
    wanted = -1 if port is None else port
    host = struct.pack("=BBxxi", family, bits, wanted) + address
    size = _OP.size + len(host)
    return _OP.pack(_S_COND if local else _D_COND, size, size + 4) + host


def _port(local: bool, low: int | None, high: int | None) -> _Code:
    if low is not None:
        if not 0 < low <= 0xFFFF:
            return low <= 0
        return _compared(_S_GE if local else _D_GE, low)
    assert high is not None
    if not 0 <= high < 0xFFFF:
        return high > 0
    return _compared(_S_LE if local else _D_LE, high)


def _compared(op: int, port: int) -> bytes:
    """Return a comparison with the port that the next operation holds."""
    return _OP.pack(op, 8, 12) + _OP.pack(0, 0, port)
