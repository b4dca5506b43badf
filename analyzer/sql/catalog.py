"""Which reports and findings there are: the SQL files of queries/, and a user's own."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType

from analyzer.sql.header import (
    SUFFIX,
    CatalogError,
    ParameterError,
    Query,
    meant,
    parse_query,
    read_folder,
)

__all__ = [
    "FINDING_COLUMNS",
    "CatalogError",
    "ParameterError",
    "Query",
    "find_findings",
    "find_report",
    "load_report",
    "read_catalog",
    "read_findings",
]

FINDING_COLUMNS = {
    "severity": "VARCHAR",
    "score": "DOUBLE",
    "subject": "VARCHAR",
    "netns": "BIGINT",
    "pid": "INTEGER",
    "comm": "VARCHAR",
    "since": "TIMESTAMP",
    "until": "TIMESTAMP",
    "measured": "DOUBLE",
    "threshold": "DOUBLE",
    "sentence": "VARCHAR",
    "report": "VARCHAR",
}
"""What every finding's SQL gives: how bad, who, when, by how much, and what to read next."""

_MAX_QUERY = 1 << 20


@cache
def read_catalog() -> Mapping[str, Query]:
    """Return the shipped reports by name, in the order of their names."""
    return MappingProxyType({n: parse_query(n, text) for n, text in read_folder().items()})


@cache
def read_findings() -> Mapping[str, Query]:
    """Return what summary looks for by name, in the order of their names."""
    return MappingProxyType(
        {
            name: parse_query(name, text, columns=FINDING_COLUMNS)
            for name, text in read_folder("findings").items()
        }
    )


def find_findings(only: Collection[str] | None = None) -> Mapping[str, Query]:
    """Return the findings of these names, or all, in the order of names. Raises CatalogError."""
    findings = read_findings()
    for name in () if only is None else only:
        if name not in findings:
            hint = meant(name, findings) or f"the findings are {', '.join(findings)}"
            raise CatalogError(f"there is no finding {name!r}: {hint}")
    return {name: one for name, one in findings.items() if only is None or name in only}


def find_report(name: str) -> Query:
    """Return a shipped report, or the one in the file that a name with a slash or .sql names.

    Raises CatalogError.
    """
    if "/" in name or name.endswith(SUFFIX):
        return load_report(Path(name))
    reports = read_catalog()
    if name in reports:
        return reports[name]
    hint = meant(name, reports) or "'sockrec reports' lists them"
    raise CatalogError(f"there is no report {name!r}: {hint}")


def load_report(path: Path) -> Query:
    """Return the report of a user's own file. Raises CatalogError."""
    if path.suffix != SUFFIX:
        raise CatalogError(f"{path}: not an {SUFFIX} file; 'sockrec reports' lists others")
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_QUERY + 1)
    except OSError as error:
        raise CatalogError(f"{path}: {error.strerror}") from error
    if len(text) > _MAX_QUERY:
        raise CatalogError(f"{path}: more than {_MAX_QUERY:,} bytes are no report")
    try:
        return parse_query(str(path).removesuffix(SUFFIX), text.decode())
    except UnicodeDecodeError as error:
        raise CatalogError(f"{path}: not UTF-8 text") from error
