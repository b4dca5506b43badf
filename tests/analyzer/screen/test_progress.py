"""The bar: late, on a terminal only, and nothing of it stays."""

import io
import re
import threading
import time

import pytest

from analyzer.screen.progress import Bar


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def a_terminal_that_can_erase(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")


def wait_for(out: Screen, pattern: str) -> str:
    """Return the text of the screen once the pattern is in it."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        if re.search(pattern, out.getvalue()):
            return out.getvalue()
        time.sleep(0.02)
    raise AssertionError(f"{pattern!r} is not in {out.getvalue()!r}")


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "sockrec-bar"]


def test_what_is_quick_shows_nothing() -> None:
    out = Screen()
    with Bar(lambda: 0.5, out, after=30):
        assert threads()
    assert out.getvalue() == ""
    assert threads() == []


def test_what_is_no_terminal_gets_nothing() -> None:
    out = io.StringIO()
    with Bar(lambda: 0.5, out, after=0):
        assert threads() == []
        time.sleep(0.2)
    assert out.getvalue() == ""


def test_the_share_is_shown_and_erased() -> None:
    out = Screen()
    shares = iter([None, 0.25, 0.5, 2.0])
    with Bar(lambda: next(shares, 0.75), out, after=0):
        wait_for(out, r"25%")
        wait_for(out, r"50%")
        wait_for(out, r"100%")
        wait_for(out, r"75%")
    assert out.getvalue().endswith("\x1b[1A\x1b[2K")
    assert threads() == []


def test_without_a_share_the_time_is_shown() -> None:
    out = Screen()
    with Bar(lambda: None, out, after=0.0):
        shown = wait_for(out, r"1 s")
    assert "%" not in shown


def test_the_cursor_is_never_hidden() -> None:
    out = Screen()
    with Bar(lambda: None, out, after=0):
        wait_for(out, "0 s")
    assert "\x1b[?25l" not in out.getvalue()


def test_what_is_written_after_a_stop_stays() -> None:
    out = Screen()
    with Bar(lambda: 0.5, out, after=0) as bar:
        wait_for(out, "50%")
        bar.stop()
        out.write("answer\n")
        bar.stop()
        time.sleep(0.3)
    assert out.getvalue().endswith("answer\n")


def test_an_error_erases_the_bar() -> None:
    out = Screen()
    with pytest.raises(KeyboardInterrupt), Bar(lambda: 0.5, out, after=0):  # noqa: PT012
        wait_for(out, "50%")
        raise KeyboardInterrupt
    assert out.getvalue().endswith("\x1b[1A\x1b[2K")
    assert threads() == []
