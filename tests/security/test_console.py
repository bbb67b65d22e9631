"""No text that somebody else wrote steers the terminal it is shown on."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable

import pytest

from app.commands.captions import Captions
from app.commands.console import messages, output, print_table, printable, write_result

HOSTILE = "a\x1b]0;owned\x07\x1b[2J\x9b31m\x08\rb\tc\nd 日本"
SHOWN = "a\\x1b]0;owned\\x07\\x1b[2J\\x9b31m\\x08\\x0db\tc\nd 日本"


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _shown(monkeypatch: pytest.MonkeyPatch) -> _Terminal:
    """A terminal, from now on: pytest sets its own streams after the fixtures."""
    screen = _Terminal()
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, screen)
    for name in ("NO_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    return screen


def test_control_characters_are_spelled_out() -> None:
    assert printable(HOSTILE) == SHOWN


def _live(text: str) -> None:
    captions = Captions()
    captions.words("", text)
    captions.text("", text)
    captions.remark(text)
    captions.close()


@pytest.mark.parametrize(
    "show",
    [
        lambda text: output().print(text),
        lambda text: messages().print(text),
        lambda text: write_result(text, None),
        lambda text: print_table(["name"], [[text]]),
        _live,
    ],
    ids=["output", "messages", "result", "table", "captions"],
)
def test_no_text_steers_the_terminal(monkeypatch: pytest.MonkeyPatch, show: Callable[[str], None]) -> None:
    terminal = _shown(monkeypatch)
    show(HOSTILE)
    screen = terminal.getvalue()
    assert "owned" in screen
    for sequence in ("\x1b]0", "\x1b[2J\x9b", "\x07", "\x9b", "\x08"):
        assert sequence not in screen


def test_what_is_piped_stays_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    write_result("a\x1b[31mb\n", None)
    assert capsys.readouterr().out == "a\x1b[31mb\n"
