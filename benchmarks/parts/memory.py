"""Whether every report answers where the recording is four times as large as the memory it gets."""

from __future__ import annotations

from analyzer.sql.catalog import read_catalog
from benchmarks.ask import REPORT, SQL, SUMMARY, Limits, Question, ask
from benchmarks.measure import scratch
from benchmarks.parts.reports import SCAN, show_answers
from tests.workloads.large import write_large

LIMIT_MIB = 256
SIZE_MIB = 4 * LIMIT_MIB
SOCKETS = 100_000

SORT = Question(
    SQL,
    "SELECT sample_time, netid, state, local_addr, local_port, peer_addr, peer_port, comm, pid, "
    "bytes_sent, bytes_received, rtt_us FROM sockets ORDER BY bytes_sent, netns, cookie, sample",
)
"""What only spilling can answer. To merge all 164 columns DuckDB needs more than 256 MiB."""


def run(threads: int, *, markdown: bool) -> None:
    """Print what each report, the summary and a sort of everything take under the limit."""
    with scratch() as directory:
        recording, spill = directory / "recording", directory / "spill"
        spill.mkdir()
        rows = write_large(recording, SIZE_MIB << 20, SOCKETS).rows
        size = sum(path.stat().st_size for path in recording.rglob("*.parquet"))
        print(
            f"reports on {rows:,} rows of {size >> 20:,} MiB, {LIMIT_MIB} MiB of memory, "
            f"{threads} threads:"
        )
        questions = [SCAN, *(Question(REPORT, name) for name in read_catalog())]
        questions += [Question(SUMMARY), SORT]
        limits = Limits(threads, f"{LIMIT_MIB}MiB")
        show_answers(
            {question: [ask(recording, question, limits, spill)] for question in questions},
            targets={},
            markdown=markdown,
        )
