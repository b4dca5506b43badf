"""Prints docs/reports.md or docs/views.md, the reference of queries/, from the headers there."""

import sys
from collections.abc import Iterable, Iterator

from analyzer.sql.catalog import FINDING_COLUMNS, Query, read_catalog, read_findings
from analyzer.sql.library import pieces

REPORTS = """\
# The reports, and what summary looks for

<!-- Written by `make docs` from the headers in queries/: change those, not this. -->

`sockrec summary RECORDING` looks for every [finding](#findings) below. `sockrec report NAME
RECORDING` prints one report; each takes `--from`, `--to`, `--where` and `--top`, and its own
parameters by `--param NAME=VALUE`. A report is one file of `queries/`; `sockrec report ./mine.sql
RECORDING` runs one of your own.

In a column `_us`, `_ms` and `_s` are durations, `_bytes` bytes, `_per_s` a rate; times are UTC.
Nothing (NULL) is what the recording does not say; it is never 0.
"""

VIEWS = """\
# The views

<!-- Written by `make docs` from the headers in queries/views/: change those, not this. -->

Beside the tables of [schema.md](schema.md), `sockrec sql` and every report see the views below.
Each table and view has `t_us`, or columns named `…_us`: microseconds UTC. `sockets` and `closes`
have `local` and `peer`, address and port as one text (`[::1]:80`; of a unix socket its name), and
`who`, the name and number of the process. With `--from`, `baseline` holds the last row before that
time of each socket in `sockets`; `params` is one row with the bounds (`from_us`, `to_us`) and the
parameters of the report.

`host` and `boot` say of which host, and of which boot of it, a row is, `run` when its recorder was
started. `ns` stands for all of them and for the network namespace in one number: a socket is told
from every other by `ns` and `cookie`, so join and group by these; `netns` is the kernel's own
number, which other hosts have too, and `sample` counts anew in each run.

Where several recordings are open, every view has the rows that it has of each alone, with `host`,
`boot` and `run` in front, so that a total of one host is a row of that host; group by them. `--from
+30s` and `--to -10s` count from each recording's own samples, and so does `baseline`.
"""

FUNCTIONS = """\
# The functions

Beside those of DuckDB a query may call these.
"""


OWN = """\
## A report of one's own

A file that begins with a header, TOML in SQL comments, and goes on with one SELECT. `title`,
`description` and `[columns]` must be there; a parameter is a column of the one-row view `params`.
A `[chart]` with a time on its x axis is drawn on a terminal.

```sql
-- title = "Peers by bytes"
-- description = "Who got most, of connections that are known from first to last."
-- [columns]
-- peer_addr = "Peer address."
-- sent_bytes = "Bytes sent to it."
-- [params.top]
-- type = "BIGINT"
-- default = 10
-- doc = "How many peers are listed."
SELECT peer_addr, sent_bytes
FROM (
  SELECT peer_addr, CAST(sum(bytes_sent) AS BIGINT) AS sent_bytes,
    row_number() OVER (ORDER BY sum(bytes_sent) DESC NULLS LAST, peer_addr) AS place
  FROM connections
  GROUP BY peer_addr
) AS peers
CROSS JOIN params
WHERE place <= params.top
ORDER BY place
```
"""


def cell(text: str) -> str:
    """Return the text as it must stand in a cell of a Markdown table."""
    return text.replace("|", "\\|").replace("\n", " ")


def table(*heads: str, rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    """Yield the lines of a Markdown table, if it has rows."""
    body = ["| " + " | ".join(map(cell, row)) + " |" for row in rows]
    if body:
        yield "| " + " | ".join(heads) + " |"
        yield "|---" * len(heads) + "|"
        yield from body
        yield ""


def section(query: Query, level: str = "##") -> Iterator[str]:
    """Yield the lines that describe one query."""
    yield f"{level} {query.name}"
    yield ""
    yield f"**{query.title}.**"
    yield ""
    yield query.description
    yield ""
    if query.needs:
        long = f"{query.lasts:g}" if isinstance(query.lasts, float) else f"`{query.lasts}`"
        time = f", and {long} seconds of samples" if query.lasts else ""
        yield f"Needs {', '.join(query.needs)}{time}."
        yield ""
    yield from table(
        "parameter",
        "type",
        "default",
        "meaning",
        rows=((f"`{p.name}`", p.values, str(p.default), p.doc) for p in query.params),
    )
    for head, described in (("column", query.columns), ("argument", query.arguments)):
        yield from table(head, "meaning", rows=((f"`{n}`", d) for n, d in described.items()))


def reports() -> Iterator[str]:
    """Yield docs/reports.md."""
    catalog, findings = read_catalog(), read_findings()
    yield REPORTS
    yield from table(
        "report", "", rows=((f"[{q.name}](#{q.name})", q.title) for q in catalog.values())
    )
    for query in catalog.values():
        yield from section(query)
    yield OWN
    yield "# Findings"
    yield ""
    yield "A finding is a file of `queries/findings/` whose SQL gives, one row per thing found:"
    yield f"{', '.join(f'`{name}`' for name in FINDING_COLUMNS)}."
    yield "Its parameters are thresholds: `sockrec summary -p FINDING.NAME=VALUE`."
    yield ""
    for query in findings.values():
        yield from section(query)


def views() -> Iterator[str]:
    """Yield docs/views.md."""
    yield VIEWS
    for piece in pieces().values():
        if piece.layer == "views":
            yield from section(piece.query)
    yield FUNCTIONS
    for piece in pieces().values():
        if piece.layer == "functions":
            yield from section(piece.query)


def main() -> None:
    """Print the document that the argument names."""
    lines = {"reports": reports, "views": views}[sys.argv[1]]()
    print("\n".join(lines).rstrip())


if __name__ == "__main__":
    main()
