"""How live words are shown: grey while they come, then each turn's text on a line of standard output.

Owns the terminal's last line. Where messages go to no terminal, the words follow each other there as they come.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rich.live import Live
from rich.text import Text

from app.commands.console import SafeConsole, output, printable


class Captions:
    """One turn at a time. Close it, or a last line stays unfinished."""

    def __init__(self) -> None:
        self._out = output()
        self._console = SafeConsole(stderr=True, highlight=False, emoji=False, markup=False)
        self._live: Live | None = None
        self._speaker, self._words = "", ""

    def words(self, speaker: str, text: str) -> None:
        """More words of a turn that goes on. speaker: "" where it needs no name."""
        if speaker != self._speaker:
            self.close()
        lead = "" if self._words else speaker
        self._speaker, self._words = speaker, self._words + lead + text
        if not self._console.is_terminal:
            self._console.print(lead + text, end="", soft_wrap=True)
            return
        if self._live is None:
            self._live = Live(
                console=self._console,
                auto_refresh=False,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
                vertical_overflow="visible",
            )
            self._live.start()
        self._live.update(Text(printable(self._words), style="dim"), refresh=True)

    def text(self, speaker: str, text: str) -> None:
        """The whole text of a turn, which takes the place of its words."""
        self.close()
        if text:
            self._out.print(speaker + text)

    def remark(self, text: str) -> None:
        """Something that nobody said."""
        self.close()
        self._console.print(text, soft_wrap=True)

    def close(self) -> None:
        """Remove the words from a terminal; elsewhere end their line."""
        if self._live is not None:
            self._live.stop()
        elif self._words:
            self._console.print()
        self._live, self._speaker, self._words = None, "", ""


def print_event(event: Mapping[str, Any]) -> None:
    """One JSON object on one line, at once."""
    console = output()
    console.print(json.dumps(event, ensure_ascii=False))
    console.file.flush()
