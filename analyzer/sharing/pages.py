"""The pages of a bundle: what it is and how it is opened, and what is wrong, ready to paste."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from html import escape
from itertools import islice
from typing import Any

import pyarrow as pa

from analyzer import Analysis
from analyzer.screen.cells import html_table, markdown_text, printable
from analyzer.screen.cells import rows as rows_of
from analyzer.screen.render import MAX_TABLE_ROWS, Format, write
from analyzer.sql.catalog import find_report
from analyzer.sql.summary import Summary

CORE = ("coverage", "states", "process_sockets", "churn", "time_wait", "queue_growth")
"""The reports that a bundle has as pages."""

_TOP = 20

_NOTHING = "Nothing found of {} things that were looked for."
_UNCHECKED = "Could not be checked:"
_NO_ROWS = "No rows.\n"

# The policy lets a browser load and run nothing, whatever a name in it holds.
HTML = """\
<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>What the sockets of a host were doing</title>
<style>
body {{ font-family: sans-serif; margin: 2em; }}
div {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-size: smaller; }}
th, td {{ border: 1px solid silver; padding: 0.2em 0.5em; text-align: left; white-space: nowrap; }}
</style>
<h1>What the sockets of a host were doing</h1>
<p>From a recording made by sockrec. Times are UTC.</p>
{body}
</html>
"""

README = """\
# What the sockets of a host were doing

This is a recording made by sockrec: the tables of the Linux kernel's sockets, sample by sample, as
Parquet files. `summary.md` says what is wrong in it, `reports/` has some reports, `report.html` is
both as one page for a browser, and `MANIFEST.json` says what was cut, replaced and left out, and
has a checksum of each file.

With sockrec, the zip as it is:

    sockrec summary {name}
    sockrec report connections {name}
    sockrec verify {name}

With DuckDB, unpacked:

```sql
SELECT state, count(*) AS sockets
FROM '{folder}/sockets/000001.parquet'
GROUP BY state
ORDER BY sockets DESC;
```

With pandas, unpacked:

```python
import pandas
sockets = pandas.read_parquet("{folder}/sockets/000001.parquet")
print(sockets.groupby(["sample_time", "state"]).size())
```

Each column is described in the metadata of its file. NULL means that the kernel, or the recorder's
privileges, did not say; it is never 0. {redacted}
"""

REDACTED = (
    "Addresses and names are not the real ones: each stands for one of the same kind, the same "
    "in all tables. Whoever made this bundle has the map and can turn an answer back by "
    "`sockrec unredact`."
)
"""What the page says where something was replaced."""


def readme(name: str, folder: str, *, redacted: bool) -> str:
    """Return the page that tells the receiver what this is."""
    page = README.format(name=name, folder=folder, redacted=REDACTED if redacted else "")
    return page.rstrip() + "\n"


def pages(analysis: Analysis, *, redacted: bool) -> Iterator[tuple[str, str]]:
    """Yield the summary and the core reports of the recording that is open, by file name.

    All of it together is report.html, too.
    """
    found = analysis.summary()
    answers = {name: _answer(analysis, name) for name in CORE}
    yield "summary.md", "\n".join(_summary(found)) + "\n"
    for name, (title, answer) in answers.items():
        yield f"reports/{name}.md", f"# {title}\n\n{_markdown(answer)}"
    yield "report.html", _html(found, answers.values(), redacted=redacted)


def _answer(analysis: Analysis, name: str) -> tuple[str, pa.Table]:
    report = find_report(name)
    top: dict[str, Any] = {"top": _TOP} if any(p.name == "top" for p in report.params) else {}
    return report.title, analysis.report(report, **top).table()


def _summary(found: Summary) -> Iterator[str]:
    yield "# Summary"
    yield ""
    for row in found.found:
        sentence = markdown_text(row["sentence"])
        yield f"* **{row['severity']}**: {sentence} (report {markdown_text(row['report'])})"
    if not found.found:
        yield _NOTHING.format(len(found.checked))
    if found.unchecked:
        yield ""
        yield _UNCHECKED
        yield ""
        for item in found.unchecked:
            yield f"* {markdown_text(item.title)}: {markdown_text(item.why)}"


def _markdown(answer: pa.Table) -> str:
    text = io.StringIO()
    rows = write(answer.schema, answer.to_batches(), Format.markdown, text)
    return text.getvalue() if rows else _NO_ROWS


def _html(found: Summary, answers: Iterable[tuple[str, pa.Table]], *, redacted: bool) -> str:
    """Return one page of all, which loads nothing and runs nothing."""

    def items(sentences: Iterable[str]) -> str:
        return "<ul>" + "".join(f"<li>{sentence}</li>" for sentence in sentences) + "</ul>"

    body = [f"<p>{escape(REDACTED)}</p>" if redacted else "", "<h2>Summary</h2>"]
    body.append(
        items(
            f"<b>{escape(str(row['severity']))}</b>: {escape(printable(str(row['sentence'])))} "
            f"(report {escape(str(row['report']))})"
            for row in found.found
        )
        if found.found
        else f"<p>{_NOTHING.format(len(found.checked))}</p>"
    )
    if found.unchecked:
        body.append(f"<p>{_UNCHECKED}</p>")
        body.append(
            items(
                f"{escape(item.title)}: {escape(printable(item.why))}" for item in found.unchecked
            )
        )
    for title, answer in answers:
        shown = islice(rows_of(answer.to_batches()), MAX_TABLE_ROWS)
        table = html_table(answer.column_names, shown) if answer.num_rows else f"<p>{_NO_ROWS}</p>"
        body += [f"<h2>{escape(title)}</h2>", f"<div>{table}</div>"]
        if answer.num_rows > MAX_TABLE_ROWS:
            body.append(f"<p>The first {MAX_TABLE_ROWS:,} of {answer.num_rows:,} rows.</p>")
    return HTML.format(body="\n".join(filter(None, body)))
