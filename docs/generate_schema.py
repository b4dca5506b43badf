"""Prints docs/schema.md, the reference of every recorded table, from recorder.schema."""

from collections.abc import Iterator, Sequence

from recorder.schema import AGES, KINDS, MOMENTS, SHARES, SOCKETS, TABLES, VERSION, Column, Table

SHARED = "\n".join(f"* `{share}`: {meaning}" for share, meaning in SHARES.items())

INTRODUCTION = f"""\
# Schema of a recording, version {VERSION}

<!-- Written by `make docs` from recorder/schema.py: change that, not this. -->

Every column may be NULL: the kernel, or the recorder's privileges, did not say. NULL is never 0.
The types are those of sealed segments and of every view. So are the columns, but for the ages of
`sockets`. Times are UTC.

`shared` says how `sockrec bundle` hands a column over ([sharing.md](sharing.md)):

{SHARED}
"""


def cell(text: str) -> str:
    """Return the text as it must stand in a cell of a Markdown table."""
    return text.replace("|", "\\|")


def section(table: Table) -> Iterator[str]:
    """Yield the lines that describe one table."""
    yield f"## {table.name}"
    yield ""
    yield table.doc
    yield ""
    yield f"Segments are sorted by {', '.join(f'`{name}`' for name in table.order)}."
    yield ""
    yield from listed(table.columns)
    if table == SOCKETS:
        names = ", ".join(f"`{name}`" for name in AGES)
        yield ""
        yield f"In segments these stand in place of {names}, which views make of them:"
        yield ""
        yield from listed(MOMENTS)


def listed(columns: Sequence[Column]) -> Iterator[str]:
    """Yield the lines of a table of columns."""
    yield "| column | type | unit | shared | meaning |"
    yield "|---|---|---|---|---|"
    for column in columns:
        sql_type = KINDS[column.kind][2]
        told = [sql_type, cell(column.unit), column.share, cell(column.doc)]
        yield f"| `{column.name}` | {' | '.join(told)} |"


def main() -> None:
    """Print the document."""
    print(INTRODUCTION)
    print("\n\n".join("\n".join(section(table)) for table in TABLES.values()))


if __name__ == "__main__":
    main()
