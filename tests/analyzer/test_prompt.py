"""The prompt: what Enter does, what is suggested, what is kept, and that errors end nothing."""

import io
import signal
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory, InMemoryHistory
from prompt_toolkit.input import PipeInput, create_pipe_input
from prompt_toolkit.output import DummyOutput

import analyzer
from analyzer.prompt import (
    COMMANDS,
    Answers,
    Prompt,
    Suggestions,
    described_tables,
    history_path,
    is_whole,
    open_history,
    read_query,
)
from analyzer.sql.catalog import read_catalog
from recorder.schema import SockrecError
from tests.analyzer.support.recordings import small
from tests.analyzer.support.terminals import Terminal

ESCAPE = "\x1b"


class Asked:
    """Answers that are remembered; one query fails, another is interrupted."""

    def __init__(self, check: Callable[[str], None]) -> None:
        self.queries: list[str] = []
        self.reports: list[tuple[str, Sequence[str]]] = []
        self.answers = Answers(check, self.sql, self.report)

    def sql(self, query: str) -> None:
        self.queries.append(query)
        if "nosuch" in query:
            raise SockrecError("no table \x1b[2Jnosuch\nhere")
        if "slow" in query:
            raise KeyboardInterrupt

    def report(self, name: str, words: Sequence[str]) -> None:
        self.reports.append((name, words))


@pytest.fixture(scope="module")
def check(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], None]]:
    path = tmp_path_factory.mktemp("prompt") / "r"
    small(path)
    with analyzer.open(path) as opened:
        yield opened.engine.check


@pytest.fixture
def asked(check: Callable[[str], None]) -> Asked:
    return Asked(check)


@pytest.fixture
def keys() -> Iterator[PipeInput]:
    with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
        yield keys


def prompt(asked: Asked, out: io.StringIO | None = None) -> Prompt:
    return Prompt(asked.answers, described_tables(), read_catalog(), out or io.StringIO())


def typed(keys: PipeInput, asked: Asked, text: str, history: Path | None = None) -> str:
    """Type a text, then Ctrl-D; return what the prompt itself wrote."""
    out = io.StringIO()
    keys.send_text(text + "\x04")
    prompt(asked, out).run(history)
    return out.getvalue()


def test_a_whole_query_runs_on_enter(keys: PipeInput, asked: Asked) -> None:
    typed(keys, asked, "SELECT 1 FROM sockets\rSELECT state FROM sockets;\r")
    assert asked.queries == ["SELECT 1 FROM sockets", "SELECT state FROM sockets"]


def test_a_query_goes_over_lines_until_it_is_whole(keys: PipeInput, asked: Asked) -> None:
    typed(keys, asked, "SELECT state\rFROM\rsockets\rSELECT 'a\rb' FROM sockets\r")
    assert asked.queries == ["SELECT state\nFROM\nsockets", "SELECT 'a\nb' FROM sockets"]


def test_a_semicolon_or_an_empty_line_runs_what_is_there(keys: PipeInput, asked: Asked) -> None:
    typed(keys, asked, "SELEC 1;\rSELEC 2\r\r SELECT 3;\r")
    assert asked.queries == ["SELEC 1", "SELEC 2", "SELECT 3"]


def test_alt_enter_begins_a_line_of_a_whole_query(keys: PipeInput, asked: Asked) -> None:
    typed(keys, asked, f"FROM sockets{ESCAPE}\rWHERE pid = 1\r")
    assert asked.queries == ["FROM sockets\nWHERE pid = 1"]


def test_a_statement_that_is_no_select_is_told_at_once(check: Callable[[str], None]) -> None:
    assert is_whole("DROP VIEW sockets", check)
    assert is_whole("COPY (SELECT 1) TO 'x'", check)
    assert not is_whole("SELECT 1 FROM", check)
    assert not is_whole("SELECT state", check)
    assert is_whole("", check)
    assert is_whole(".help", check)
    assert is_whole("quit", check)


@pytest.mark.parametrize(
    "text",
    [
        "select 7 as seven",
        "SELECT 1",
        "SELECT 'a state', 1.5e3 + 2 * 3",
        "SELECT now()::date AS day, upper('x') AS \"The Name\"",
        "SELECT CASE WHEN true THEN 1 ELSE NULL END",
    ],
)
def test_a_query_that_needs_no_table_runs_on_enter(text: str, check: Callable[[str], None]) -> None:
    assert is_whole(text, check)


@pytest.mark.parametrize(
    "text",
    [
        *("SELECT state", "SELECT *", "SELECT count(*)", "SELECT 1,", "SELECT 1 +"),
        *("SELECT max(rtt_us) AS most", "SELECT 's', s.state", 'SELECT "state"', "SELECT 7 seven"),
    ],
)
def test_a_query_that_still_wants_its_table_goes_on(
    text: str, check: Callable[[str], None]
) -> None:
    assert not is_whole(text, check)


def test_an_error_or_ctrl_c_ends_the_query_and_not_the_conversation(
    keys: PipeInput, asked: Asked, capsys: pytest.CaptureFixture[str]
) -> None:
    typed(keys, asked, "FROM nosuch\rFROM slow\rFROM half\x03FROM sockets\r")
    assert asked.queries == ["FROM nosuch", "FROM slow", "FROM sockets"]
    assert capsys.readouterr().err == "error: no table \\x1b[2Jnosuch\\nhere\nstopped\n"


@pytest.mark.parametrize(
    "word", [".quit", "quit", "exit;", "QUIT", "\\q", "SELECT state\rexit", "SELECT state\r\\q"]
)
def test_the_words_for_leaving_leave(keys: PipeInput, asked: Asked, word: str) -> None:
    typed(keys, asked, f"{word}\rFROM sockets\r")
    assert asked.queries == []


def test_a_word_for_leaving_within_a_text_is_no_command(keys: PipeInput, asked: Asked) -> None:
    typed(keys, asked, "SELECT 'a\rquit\rb' FROM sockets\r")
    assert asked.queries == ["SELECT 'a\nquit\nb' FROM sockets"]


def test_clear_clears_and_asks_nothing(keys: PipeInput, asked: Asked) -> None:
    cleared: list[bool] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("analyzer.prompt.clear", lambda: cleared.append(True))
        typed(keys, asked, "clear\rFROM sockets\r.clear\r")
    assert asked.queries == ["FROM sockets"]
    assert len(cleared) == 2


def test_the_commands_tell_tables_columns_and_reports(keys: PipeInput, asked: Asked) -> None:
    shown = typed(keys, asked, ".tables\r.reports\r.help\r")
    for word in ("sockets ", "connections ", "baseline ", "states ", *COMMANDS):
        assert f"\n{word}" in shown
    assert max(map(len, shown.splitlines())) < 200
    assert asked.queries == []


@pytest.mark.parametrize("table", list(described_tables()))
def test_every_table_has_a_schema_that_is_true(
    table: str, check: Callable[[str], None], tmp_path: Path, asked: Asked
) -> None:
    out = io.StringIO()
    assert prompt(asked, out).obey(f".schema {table}")
    told = [line.split()[0] for line in out.getvalue().splitlines()]
    small(tmp_path / "r")
    with analyzer.open(tmp_path / "r") as opened:
        found = opened.sql(f"FROM {table} LIMIT 0").table().schema.names
    assert sorted(told) == sorted(found)


def test_a_report_is_run_with_its_parameters(keys: PipeInput, asked: Asked) -> None:
    typed(keys, asked, ".report states interval=2 'top=3'\r")
    assert asked.reports == [("states", ["interval=2", "top=3"])]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (".schema", ".schema TABLE: its columns"),
        (".schema nosuch", "there is no table 'nosuch': .tables lists them"),
        (".report", ".report NAME"),
        (".nosuch", "there is no command '.nosuch': .help lists them"),
        (".report 'x", "No closing quotation"),
        (".tables x", ".tables the tables"),
    ],
)
def test_a_command_that_is_wrong_says_how_it_is_right(
    line: str, says: str, asked: Asked, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prompt(asked).obey(line)
    assert says in capsys.readouterr().err


def suggested(text: str) -> list[str]:
    before, _, after = text.partition("^")
    found = Suggestions(described_tables(), read_catalog()).get_completions(
        Document(before + after, len(before)), CompleteEvent(completion_requested=True)
    )
    return [completion.text for completion in found]


def test_columns_of_the_tables_that_are_named_are_suggested_first() -> None:
    assert suggested("SELECT local_p^ FROM sockets") == ["local_port"]
    assert suggested("select rtt^ FROM connections") == ["rtt_us", "rtt_max_us"]
    assert suggested("SELECT rtt_max^ FROM sockets") == []
    found = suggested("SELECT s^ FROM sockets")
    assert found.index("state") < found.index("samples") < found.index("SELECT")


def test_tables_keywords_and_columns_behind_an_alias_are_suggested() -> None:
    assert suggested("FROM soc^") == ["sockets"]
    assert suggested("SEL^") == ["SELECT"]
    assert suggested("SELECT s.local_p^ FROM sockets AS s") == ["local_port"]
    assert suggested("SELECT c.peer_p^ FROM sockets s JOIN closes c ON true") == ["peer_port"]
    assert suggested("SELECT x.loc^ FROM sockets s") == []
    assert suggested("SELECT 'soc^") == []
    assert suggested("SELECT ^") == []


def test_commands_tables_reports_and_parameters_are_suggested() -> None:
    assert suggested(".ta^") == [".tables"]
    assert suggested(".schema conne^") == ["connections"]
    assert suggested(".report stat^") == ["states"]
    assert "interval=" in suggested(".report states ^")
    assert suggested(".report nosuch ^") == []


def test_tab_completes_and_runs_nothing(keys: PipeInput, asked: Asked) -> None:
    # Ctrl-U clears the line, so that Ctrl-D leaves.
    typed(keys, asked, "FROM soc\t\x15")
    assert asked.queries == []


def test_history_is_kept_for_its_owner_only(keys: PipeInput, asked: Asked, tmp_path: Path) -> None:
    path = tmp_path / "state" / "sockrec" / "history"
    typed(keys, asked, "FROM sockets\rSELECT pid\r FROM closes\r", path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    lines = list(FileHistory(path).load_history_strings())
    assert lines == ["SELECT pid\n FROM closes", "FROM sockets"]


def test_a_history_that_others_could_read_is_closed_to_them(tmp_path: Path) -> None:
    path = tmp_path / "history"
    path.touch(0o644)
    assert isinstance(open_history(path), FileHistory)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_earlier_lines_are_offered_and_not_run(
    keys: PipeInput, asked: Asked, tmp_path: Path
) -> None:
    path = tmp_path / "history"
    path.write_text("\n# before\n+FROM closes\n")
    typed(keys, asked, "", path)
    assert asked.queries == []


def test_without_a_place_for_it_history_is_not_kept(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert isinstance(open_history(tmp_path / "file" / "history"), InMemoryHistory)
    assert isinstance(open_history(None), InMemoryHistory)


def test_the_place_of_the_history_is_the_one_of_xdg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    assert history_path({"XDG_STATE_HOME": "/state"}) == Path("/state/sockrec/history")
    home = Path("/home/ada/.local/state/sockrec/history")
    assert history_path({}) == home
    assert history_path({"XDG_STATE_HOME": ""}) == home
    assert history_path({"XDG_STATE_HOME": "relative"}) == home


def test_a_text_of_a_pipe_is_one_query() -> None:
    assert read_query(["SELECT 1\n", "FROM sockets ;\n"]) == "SELECT 1\nFROM sockets"
    assert read_query([]) == ""


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    small(tmp_path / "r")
    (tmp_path / "tmp").mkdir()
    found = Terminal(
        *("sql", tmp_path / "r"), XDG_STATE_HOME=tmp_path / "state", TMPDIR=tmp_path / "tmp"
    )
    yield found
    found.close()


def test_a_conversation_on_a_terminal(terminal: Terminal, tmp_path: Path) -> None:
    terminal.wait_for("sockrec>")
    terminal.type("SELECT count(*) * 1000 AS n FROM sockets\r")
    terminal.wait_for("15,000")
    terminal.wait_for("sockrec>")
    terminal.type("SELECT pid\r")
    terminal.wait_for("; or an empty line runs it")
    terminal.type("FROM sockets LIMIT 0\r")
    terminal.wait_for("no rows")
    terminal.wait_for("sockrec>")
    terminal.type("FROM nosuch\r")
    terminal.wait_for("error: ")
    terminal.wait_for("sockrec>")
    terminal.type("SELECT count(*) FROM range(1000000000000) AS a, range(1000) AS b;\r")
    terminal.wait_for("━")  # the bar, after a second
    begun = time.monotonic()
    terminal.type("\x03")
    terminal.wait_for("stopped")
    assert time.monotonic() - begun < 5
    terminal.wait_for("sockrec>")
    terminal.type(".report states\r")
    terminal.wait_for("Sockets per kind and state over time")
    terminal.wait_for("over time, ")
    terminal.wait_for("sockrec>")
    terminal.type("\x04")
    assert terminal.process.wait(30) == 0
    kept = (tmp_path / "state/sockrec/history").read_text()
    assert "+FROM nosuch\n" in kept


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("line", ["", "SELECT count(*) FROM range(1000000000000), range(1000);\r"])
def test_a_signal_ends_the_conversation_and_leaves_nothing(
    terminal: Terminal, tmp_path: Path, number: signal.Signals, line: str
) -> None:
    terminal.wait_for("sockrec>")
    assert list((tmp_path / "tmp").iterdir()) != []
    terminal.type(line)
    if line:
        terminal.wait_for("━")
    terminal.process.send_signal(number)
    assert terminal.wait() == 128 + number
    assert "Traceback" not in terminal.shown
    assert list((tmp_path / "tmp").iterdir()) == []
