"""The pages of a bundle: what it is and how it is opened, and what is wrong, ready to paste."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

from analyzer import Analysis
from analyzer.screen.cells import markdown_text
from analyzer.screen.render import Format, write
from analyzer.sql.catalog import find_report

CORE = ("coverage", "states", "process_sockets", "churn", "time_wait", "queue_growth")
"""The reports that a bundle has as pages."""

_TOP = 20

README = """\
# What the sockets of a host were doing

This is a recording made by sockrec: the tables of the Linux kernel's sockets, sample by sample, as
Parquet files. `summary.md` says what is wrong in it, `reports/` has some reports, `MANIFEST.json`
says what was cut, replaced and left out, and has a checksum of each file.

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


def pages(analysis: Analysis) -> Iterator[tuple[str, str]]:
    """Yield the summary and the core reports of the recording that is open, by file name."""
    yield "summary.md", "\n".join(_summary(analysis)) + "\n"
    for name in CORE:
        yield f"reports/{name}.md", _report(analysis, name)


def _summary(analysis: Analysis) -> Iterator[str]:
    found = analysis.summary()
    yield "# Summary"
    yield ""
    for row in found.found:
        sentence = markdown_text(row["sentence"])
        yield f"* **{row['severity']}**: {sentence} (report {markdown_text(row['report'])})"
    if not found.found:
        yield f"Nothing found of {len(found.checked)} things that were looked for."
    if found.unchecked:
        yield ""
        yield "Could not be checked:"
        yield ""
        for item in found.unchecked:
            yield f"* {markdown_text(item.title)}: {markdown_text(item.why)}"


def _report(analysis: Analysis, name: str) -> str:
    report = find_report(name)
    top: dict[str, Any] = {"top": _TOP} if any(p.name == "top" for p in report.params) else {}
    text = io.StringIO()
    with analysis.report(report, **top).batches() as (schema, batches):
        rows = write(schema, batches, Format.markdown, text)
    shown = text.getvalue() if rows else "No rows.\n"
    return f"# {report.title}\n\n{shown}"
