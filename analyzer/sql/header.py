"""SQL files whose header comment is their documentation: reports, findings and views."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from types import MappingProxyType

from recorder.schema import SockrecError

SUFFIX = ".sql"

NEEDS = (
    "samples",
    "sockets",
    "tcp",
    "udp",
    "unix",
    "closes",
    "conntrack",
    "counters",
    "owners",
    "limits",
    "network",
    "processes",
    "settings",
    "listeners",
    "tcp_info",
    "timers",
    "skmem",
    "drops",
    "other_drops",
    "inodes",
)
"""Words of ``needs``: tables, kernel tables that samples has a step for, limits of owners, and what
of sockets ss tells only if it is asked to, and /proc in part."""

_TYPES: dict[str, tuple[type, ...]] = {
    "BIGINT": (int,),
    "DOUBLE": (float, int),
    "VARCHAR": (str,),
    "BOOLEAN": (bool,),
}
_KEYS = {
    "title",
    "description",
    "needs",
    "lasts",
    "uses",
    "inline",
    "ranks",
    "columns",
    "arguments",
    "params",
    "chart",
}
_PARAMETER_KEYS = {"type", "default", "doc"}
_RESERVED = {"from_us", "to_us", "start", "end", "where", "zone"}
_BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_NAME = re.compile(r"[a-z][a-z0-9_]*", re.ASCII)


class CatalogError(SockrecError):
    """A query that does not exist, or whose header is wrong."""


class ParameterError(CatalogError):
    """A parameter that the query does not have, or a value it cannot take."""


def meant(word: str, known: Iterable[str]) -> str | None:
    """Return the nearest of the known words, as a question; None if none is near."""
    near = difflib.get_close_matches(word.lower(), list(known), n=1)
    return f"did you mean {near[0]}?" if near else None


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a query: a column of the one-row view ``params``.

    Of a parameter with ``choices`` no other word is a value.
    """

    name: str
    type: str
    default: str | int | float | bool
    doc: str
    choices: tuple[str, ...] = ()

    @property
    def values(self) -> str:
        """What it can be, in words."""
        return f"One of {', '.join(self.choices)}" if self.choices else self.type

    def parse(self, text: str) -> str | int | float | bool:
        """Return the value that a user typed. Raises ParameterError."""
        if self.choices and text not in self.choices:
            hint = meant(text, self.choices)
            raise ParameterError(
                f"{self.name}={text}: give one of {', '.join(self.choices)}"
                + (f"; {hint}" if hint else "")
            )
        try:
            match self.type:
                case "BIGINT":
                    value = int(text)
                    if not -(1 << 63) <= value < 1 << 63:
                        raise ValueError
                    return value
                case "DOUBLE":
                    number = float(text)
                    if number != number or number in (float("inf"), float("-inf")):
                        raise ValueError
                    return number
                case "BOOLEAN":
                    return _BOOLEANS[text.lower()]
        except (ValueError, KeyError):
            raise ParameterError(f"{self.name}={text}: a {self.type} is wanted") from None
        return text


@dataclass(frozen=True, slots=True)
class Query:
    """What a header says, and the SQL below it.

    ``columns`` says what each column of the result means, in their order; ``chart`` is in
    Vega-Lite's words; ``needs`` names what of a recording the answer rests on, in words of NEEDS;
    ``lasts`` says how many seconds have to be recorded before nothing found means anything: a
    number, or the parameter that says it. ``uses`` names the functions, parts and views that the
    SQL is made of; ``ranks`` the columns that a narrow screen keeps, the first one longest. What is
    ``inline`` has as many rows as sockets: it is not computed once for all that use it. A function
    has ``arguments`` in place of columns, and its SQL is an expression.
    """

    name: str
    title: str
    description: str
    needs: tuple[str, ...]
    columns: Mapping[str, str]
    params: tuple[Parameter, ...]
    chart: Mapping[str, object]
    sql: str
    uses: tuple[str, ...] = ()
    inline: bool = False
    ranks: tuple[str, ...] = ()
    arguments: Mapping[str, str] = field(default_factory=dict)
    lasts: str | float = 0.0

    def seconds(self, given: Mapping[str, object]) -> float:
        """Return how many seconds it needs, as its parameters are given. Raises ParameterError."""
        if isinstance(self.lasts, str):
            return float(self.values(given)[self.lasts][1])
        return self.lasts

    def values(
        self, given: Mapping[str, object]
    ) -> dict[str, tuple[str, str | int | float | bool]]:
        """Return type and value of every parameter; text is parsed. Raises ParameterError."""
        known = {parameter.name: parameter for parameter in self.params}
        for name in given:
            if name not in known:
                hint = meant(name, known)
                raise ParameterError(
                    f"{self.name} has no parameter {name!r}: it has {', '.join(known) or 'none'}"
                    + (f"; {hint}" if hint else "")
                )
        values = {}
        for name, parameter in known.items():
            value = given.get(name, parameter.default)
            if not isinstance(value, str | int | float):
                raise ParameterError(f"{name}={value!r}: a {parameter.type} is wanted")
            # A Python value takes the same way as a typed one: True must not pass for 1.
            values[name] = (parameter.type, parameter.parse(str(value)))
        return values


def parse_query(name: str, text: str, *, columns: Collection[str] | None = None) -> Query:
    """Make a query of the text of its file. Raises CatalogError.

    Its header describes the columns of its result, unless ``columns`` says what they are.
    """
    lines = text.splitlines()
    header: list[str] = []
    for line in lines:
        if not line.startswith("--"):
            break
        header.append(line[2:].removeprefix(" "))
    try:
        found = tomllib.loads("\n".join(header))
    except tomllib.TOMLDecodeError as error:
        raise CatalogError(f"{name}{SUFFIX}: its header is not TOML: {error}") from error
    if unknown := sorted(found.keys() - _KEYS):
        raise CatalogError(f"{name}{SUFFIX}: unknown words in its header: {', '.join(unknown)}")
    sql = "\n".join(lines[len(header) :]).strip().removesuffix(";")
    if not sql:
        raise CatalogError(f"{name}{SUFFIX}: no SQL below its header")
    described, arguments = _table(name, found, "columns"), _table(name, found, "arguments")
    if bool(described or arguments) == (columns is not None):
        wrong = "describes no [columns]" if columns is None else "may not describe [columns]"
        raise CatalogError(f"{name}{SUFFIX}: its header {wrong}")
    return Query(
        name=name,
        title=_text(name, found, "title"),
        description=_text(name, found, "description").strip(),
        needs=_needs(name, found.get("needs", [])),
        uses=_names(name, found, "uses"),
        inline=_inline(name, found),
        ranks=_ranks(name, _names(name, found, "ranks"), described),
        columns=MappingProxyType({c: _text(name, described, c) for c in described}),
        arguments=MappingProxyType({a: _text(name, arguments, a) for a in arguments}),
        params=tuple(
            _parameter(name, key, value) for key, value in _table(name, found, "params").items()
        ),
        chart=MappingProxyType(_table(name, found, "chart")),
        sql=sql,
        lasts=_lasts(name, found),
    )


def read_folder(*below: str) -> dict[str, str]:
    """Return the texts of the shipped SQL files of a folder of queries/ by name, in order."""
    folder = files("analyzer").joinpath("queries", *below)
    texts = {
        item.name.removesuffix(SUFFIX): item.read_text(encoding="utf-8")
        for item in folder.iterdir()
        if item.name.endswith(SUFFIX)
    }
    return {name: texts[name] for name in sorted(texts)}


def _text(name: str, table: Mapping[str, object], key: str) -> str:
    value = table.get(key)
    if not isinstance(value, str) or not value.strip():
        raise CatalogError(f"{name}{SUFFIX}: its header lacks a text {key!r}")
    return value


def _table(name: str, table: Mapping[str, object], key: str) -> dict[str, object]:
    value = table.get(key, {})
    if not isinstance(value, dict):
        raise CatalogError(f"{name}{SUFFIX}: {key!r} in its header is not a table")
    return value


def _needs(name: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(need in NEEDS for need in value):
        raise CatalogError(f"{name}{SUFFIX}: 'needs' is no list of {', '.join(NEEDS)}")
    return tuple(value)


def _inline(name: str, found: Mapping[str, object]) -> bool:
    value = found.get("inline", False)
    if not isinstance(value, bool):
        raise CatalogError(f"{name}{SUFFIX}: 'inline' is neither true nor false")
    return value


def _lasts(name: str, found: Mapping[str, object]) -> str | float:
    value = found.get("lasts", 0.0)
    if isinstance(value, str):
        kind = _table(name, found, "params").get(value)
        if isinstance(kind, dict) and kind.get("type") == "DOUBLE":
            return value
    elif type(value) in (int, float) and isinstance(value, int | float) and value >= 0:
        return float(value)
    raise CatalogError(f"{name}{SUFFIX}: 'lasts' is neither seconds nor a DOUBLE parameter")


def _names(name: str, table: Mapping[str, object], key: str) -> tuple[str, ...]:
    value = table.get(key, [])
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise CatalogError(f"{name}{SUFFIX}: {key!r} is no list of names")
    return tuple(value)


def _ranks(name: str, ranks: tuple[str, ...], columns: Collection[str]) -> tuple[str, ...]:
    for column in ranks:
        if column not in columns:
            raise CatalogError(
                f"{name}{SUFFIX}: 'ranks' has {column!r}, which is none of its columns"
            )
    if len(set(ranks)) < len(ranks):
        raise CatalogError(f"{name}{SUFFIX}: 'ranks' names a column twice")
    return ranks


def _parameter(report: str, name: str, value: object) -> Parameter:
    where = f"{report}{SUFFIX}: parameter {name!r}"
    if not _NAME.fullmatch(name) or name in _RESERVED:
        raise CatalogError(f"{where}: is no name for a parameter")
    if not isinstance(value, dict) or value.keys() - {"choices"} != _PARAMETER_KEYS:
        raise CatalogError(f"{where}: wants type, default and doc, maybe choices, nothing else")
    kind, default = value["type"], value["default"]
    if kind not in _TYPES:
        raise CatalogError(f"{where}: its type is none of {', '.join(_TYPES)}")
    if type(default) not in _TYPES[kind] or not isinstance(default, str | int | float):
        raise CatalogError(f"{where}: its default is no {kind}")
    choices = value.get("choices", [])
    if "choices" in value and (
        kind != "VARCHAR"
        or not isinstance(choices, list)
        or not all(isinstance(choice, str) for choice in choices)
        or default not in choices
    ):
        raise CatalogError(f"{where}: its choices are no list of texts with its default")
    return Parameter(name, kind, default, _text(report, value, "doc"), tuple(choices))
