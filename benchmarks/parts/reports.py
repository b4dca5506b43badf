"""What the shipped reports and the summary cost on six million rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from analyzer.sql.catalog import read_catalog, read_findings
from benchmarks.ask import FINDING, REPORT, SQL, SUMMARY, Answered, Limits, Question, ask
from benchmarks.crowd import record_crowd
from benchmarks.measure import scratch
from tests.workloads.netns import lacking

TARGET_S = {REPORT: 2.0, FINDING: 1.0}
"""Seconds that one of these may take on two cores."""

SCAN = Question(SQL, "SELECT state, count(*) AS rows FROM sockets GROUP BY state")
"""What the others are compared with: it reads one column of all rows."""

ROWS = Question(SQL, "SELECT cookie FROM sockets")


def run(
    recording: Path | None, times: int, threads: int, *, findings: bool, markdown: bool
) -> None:
    """Print what each report costs, and each finding if wanted.

    A recording is made where none is given.
    """
    if recording is None and (why := lacking()):
        print(f"reports: {why}; or give --recording")
        return
    with scratch() as directory, _recorded(recording) as asked:
        questions = [SCAN, *(Question(REPORT, name) for name in read_catalog())]
        questions.append(Question(SUMMARY))
        if findings:
            questions += [Question(FINDING, name) for name in read_findings()]
        limits = Limits(threads)
        size = ask(asked, ROWS, limits, directory).rows
        print(f"reports on {size:,} rows of sockets, {threads} threads, median of {times}:")
        answers = ask_all(asked, questions, limits, times, directory)
        show_answers(answers, TARGET_S, markdown=markdown)


def ask_all(
    recording: Path, questions: Sequence[Question], limits: Limits, times: int, spill: Path
) -> dict[Question, list[Answered]]:
    """Ask each question so many times, all of them in turn, so that all meet the same hours."""
    answers: dict[Question, list[Answered]] = {question: [] for question in questions}
    for _ in range(times):
        for question in questions:
            answers[question].append(ask(recording, question, limits, spill))
    return answers


def show_answers(
    answers: Mapping[Question, Sequence[Answered]],
    targets: Mapping[str, float],
    *,
    markdown: bool = False,
) -> None:
    """Print a line for each question; the first one is what the others are compared with.

    ``targets`` gives seconds for kinds of questions; what takes longer is marked.
    """
    scan = median(answer.seconds for answer in next(iter(answers.values())))
    if markdown:
        print("| report | seconds | × scan | peak memory | rows |\n|---|---|---|---|---|")
    else:
        print(f"  {'':<26}{'seconds':>8}{'× scan':>9}{'peak MiB':>10}{'spilled':>9}{'rows':>11}")
    for question, several in answers.items():
        print(_line(question, several, scan, targets, markdown), flush=True)


def _line(
    question: Question,
    answers: Sequence[Answered],
    scan: float,
    targets: Mapping[str, float],
    markdown: bool,
) -> str:
    name = {SCAN: "bare scan"}.get(question, str(question))
    seconds = median(answer.seconds for answer in answers)
    peak = max(answer.peak_kib for answer in answers) / 1024
    spilled = max(answer.spilled for answer in answers) / (1 << 20)
    rows = answers[0].rows
    notes = []
    if error := next((answer.error for answer in answers if answer.error), None):
        notes.append(f"FAILED: {error}")
    if seconds > targets.get(question.kind, float("inf")):
        notes.append(f"over {targets[question.kind]:g} s")
    if left := answers[-1].left:
        notes.append(f"LEFT BEHIND: {', '.join(left)}")
    note = "; ".join(notes)
    if markdown:
        ratio, memory = f"{seconds / scan:.1f}", f"{peak:.0f} MiB"
        cells = [f"`{name}`", f"{seconds:.2f}", ratio, memory, f"{rows:,}"]
        return f"| {' | '.join(cells)} |" + (f" <!-- {note} -->" if note else "")
    line = f"  {name:<26}{seconds:8.2f}{seconds / scan:9.1f}{peak:10.0f}{spilled:9.0f}{rows:11,}"
    return f"{line}  {note}".rstrip()


@contextmanager
def _recorded(recording: Path | None) -> Iterator[Path]:
    if recording is not None:
        yield recording
        return
    with scratch() as directory:
        record_crowd(directory / "recording")
        yield directory / "recording"
