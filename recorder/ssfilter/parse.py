"""The text of a filter → its tree, by the grammar in filter.lark."""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from recorder.ssfilter.hosts import WordError, number, parse_host, parse_mark, port_number
from recorder.ssfilter.tree import (
    STATES,
    And,
    Autobound,
    Cgroup,
    Device,
    Filter,
    FilterError,
    Leaf,
    Mark,
    Node,
    Not,
    Or,
    Owner,
    Port,
    Side,
)

if TYPE_CHECKING:
    from lark import Lark, Token, Tree

MAX_FILTER = 1 << 16
"""Characters of a filter."""

_DEEPEST = 100

_ALL = frozenset({"UNKNOWN", *STATES})
"""ss has a state that no socket is in, so that what it calls all is never a single one."""
_NAMES = dict(
    zip(
        "established syn-sent syn-recv fin-wait-1 fin-wait-2 time-wait unconnected close-wait "
        "last-ack listening closing".split(),
        (frozenset({state}) for state in STATES),
        strict=True,
    )
) | {
    "syn-rcv": frozenset({"SYN-RECV"}),
    "close": frozenset({"UNCONN"}),
    "closed": frozenset({"UNCONN"}),
    "all": _ALL,
    "connected": _ALL - {"UNCONN", "LISTEN"},
    "synchronized": _ALL - {"UNCONN", "LISTEN", "SYN-SENT"},
    "bucket": frozenset({"SYN-RECV", "TIME-WAIT"}),
    "big": _ALL - {"SYN-RECV", "TIME-WAIT"},
}

_EXPECTED = {
    "VALUE": "a value",
    "NAME": "the name of a state",
    "_CLOSE": "a closing bracket",
}
_BEFORE = re.compile(r"(state|excl|exclude)\s")
_MOUNTS = ("/sys/fs/cgroup/unified", "/sys/fs/cgroup")


def parse(
    text: str,
    *,
    family: str | None = None,
    tables: Collection[str] = ("tcp", "udp"),
) -> Filter:
    """Read a filter. ``family`` is that of the last option of ss that names one.

    ``tables`` are those that are asked for, for names of services. Raises FilterError.
    """
    if not text.strip():
        return Filter(text)  # the parser takes longer to load than all else
    from lark.exceptions import UnexpectedInput

    if len(text) > MAX_FILTER:
        raise FilterError(f"a filter of more than {MAX_FILTER:,} characters", text[:40], 0, 40)
    if "\0" in text:
        at = text.index("\0")
        raise FilterError("a filter cannot hold the character of number zero", text[:at], at, at)
    _check_depth(text)
    try:
        tree = _parser().parse(text)
    except UnexpectedInput as error:
        raise _unexpected(text, error) from None
    return _Reader(text, family, tables).read(tree)


def read_file(text: str) -> str:
    """Return the filter in a file: its lines, but for those that begin with #."""
    return "\n".join(line for line in text.splitlines() if not line.startswith("#"))


@cache
def _parser() -> Lark:
    from lark import Lark

    grammar = files("recorder.ssfilter").joinpath("filter.lark").read_text()
    return Lark(grammar, parser="lalr", maybe_placeholders=False)


def _check_depth(text: str) -> None:
    deep = 0
    for match in re.finditer(r"\\.|[()]", text):
        deep += {"(": 1, ")": -1}.get(match[0], 0)
        if deep > _DEEPEST:
            raise FilterError("nested too deeply", text, match.start(), match.end())
    if len(re.findall(r"(?:!|\bnot\b)\s*(?=!|not\b)", text)) > _DEEPEST:
        raise FilterError("nested too deeply", text, 0, 1)


def _unexpected(text: str, error: Exception) -> FilterError:
    from lark.exceptions import UnexpectedCharacters, UnexpectedToken

    at = len(text.rstrip())
    expected: Collection[str] = ()
    if isinstance(error, UnexpectedToken):
        expected = error.accepts or error.expected
        if error.token.type != "$END":
            at = error.token.start_pos or 0
    elif isinstance(error, UnexpectedCharacters):
        expected, at = error.allowed or (), getattr(error, "pos_in_stream", None) or 0
    word = re.match(r"\S*", text[at:])
    end = at + len(word[0] if word else "")
    told = next((said for name, said in _EXPECTED.items() if name in expected), "")
    if at >= len(text.rstrip()):
        return FilterError(f"it ends where {told or 'a condition'} should stand", text, at, at + 1)
    found = text[at:end]
    if _BEFORE.match(text, at):
        what = f"{found!r} and its state stand before all other conditions"
    elif "VALUE" in expected or "NAME" in expected:
        what = f"{found!r} stands where {told} should"
    elif found[0] == ")":
        what = "a closing bracket without an opening one"
    else:
        what = f"{found!r} is no condition of a filter"
    return FilterError(what, text, at, max(end, at + 1))


class _Reader:
    """Makes conditions of what the grammar found, from left to right as ss does."""

    def __init__(self, text: str, family: str | None, tables: Collection[str]) -> None:
        self._text = text
        self._family = family
        self._named: str | None = None
        self._tables = tables
        self._warnings: dict[str, None] = {}

    def read(self, tree: Tree[Token]) -> Filter:
        from lark import Tree as Found

        states: frozenset[str] | None = None
        node: Node | None = None
        for child in tree.children:
            assert isinstance(child, Found)
            if child.data == "state":
                states = (states or frozenset()) | self._states(child)
            elif child.data == "exclude":
                states = (_ALL if states is None else states) - self._states(child)
            else:
                node = self._node(child)
        return Filter(self._text, states, self._named, node, tuple(self._warnings))

    def _states(self, tree: Tree[Token]) -> frozenset[str]:
        word = _token(tree)
        found = _NAMES.get(word.lower())
        if found is None:
            raise self._error(f"{str(word)!r} is no state; there are {', '.join(_NAMES)}", word)
        return found

    def _node(self, tree: Tree[Token]) -> Node:
        """Return a condition; a long list is walked, not descended into."""
        chain: list[Tree[Token]] = []
        while tree.data in ("either", "both"):
            chain.append(tree)
            tree = _subtree(tree, 0)
        self._warn(chain[::-1])
        node = self._one(tree)
        for part in reversed(chain):
            right = self._node(_subtree(part, -1))
            node = Or(node, right) if part.data == "either" else And(node, right)
        return node

    def _one(self, tree: Tree[Token]) -> Node:
        match tree.data:
            case "group":
                return self._node(_subtree(tree, 0))
            case "negation":
                return Not(self._node(_subtree(tree, 0)))
            case "autobound":
                return Autobound()
        first, *middle, word = (token for token in tree.children if isinstance(token, str))
        operator = str(middle[0]) if middle else "="
        value = re.sub(r"\\(.)", r"\1", word, flags=re.DOTALL)
        try:
            return self._leaf(str(tree.data), str(first), operator, value)
        except WordError as error:
            raise self._error(str(error), word) from None

    def _leaf(self, kind: str, first: str, operator: str, value: str) -> Node:
        match kind:
            case "host" | "port":
                return self._host(first, operator, value)
            case "device":
                leaf: Leaf = Device(value, number(value))
            case "mark":
                leaf = Mark(*parse_mark(value))
            case "cgroup":
                leaf = Cgroup(_cgroup(value))
            case _:
                if first == "pid" and not re.fullmatch(r"[0-9]{1,10}", value, re.ASCII):
                    raise WordError(f"{value!r} is no number of a process")
                leaf = Owner(first, value)
        return leaf if operator == "=" else Not(leaf)

    def _host(self, first: str, operator: str, value: str) -> Node:
        side: Side = "peer" if first[0] == "d" else "local"
        is_port = first.endswith("port")
        leaf, family = parse_host(value, side, self._family, self._tables, is_port=is_port)
        if family is not None:
            self._family = self._named = family
        match operator.rstrip("q"):
            case "=" | "e":
                return leaf
            case "!=" | "ne":
                return Not(leaf)
            case ">=" | "ge":
                return Port(side, port_number(leaf), None)
            case "<=" | "le":
                return Port(side, None, port_number(leaf))
            case ">" | "gt":
                return Not(Port(side, None, port_number(leaf)))
            case _:
                return Not(Port(side, port_number(leaf), None))

    def _warn(self, chain: list[Tree[Token]]) -> None:
        """Warn where the manual page of ss promises another precedence than ss has."""
        kinds = [str(part.data) for part in chain]
        if "either" in kinds and "both" in kinds[kinds.index("either") :]:
            self._warnings[
                "'and' does not bind tighter than 'or', as the manual of ss says, but both go "
                "from left to right, as ss does: write brackets"
            ] = None

    def _error(self, what: str, word: str) -> FilterError:
        start = getattr(word, "start_pos", 0) or 0
        return FilterError(what, self._text, start, start + len(word))


def _token(tree: Tree[Token]) -> Token:
    from lark import Token as Found

    (token,) = tree.children
    assert isinstance(token, Found)
    return token


def _subtree(tree: Tree[Token], place: int) -> Tree[Token]:
    from lark import Tree as Found

    child = tree.children[place]
    assert isinstance(child, Found)
    return child


def _cgroup(path: str) -> str:
    """Return the path below the mount of cgroup v2."""
    for mount in _MOUNTS:
        if path == mount or path.startswith(f"{mount}/"):
            path = path[len(mount) :]
            break
    return "/" + path.strip("/")
