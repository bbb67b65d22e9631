"""What the command line prints with: UTF-8, tables, and errors on one line.

Owns the terminal's encoding and the exit statuses. Knows no command.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from app.commands.files import STANDARD_OUTPUT, NotWritten, check_writable, write_whole

_NARROWEST = 60  # columns of a table; a narrower terminal breaks its lines, which beats columns of one letter
FAILED, WRONG_USE = 1, 2  # exit statuses: the work failed; the command or the configuration is wrong


def use_utf8() -> None:
    """Make output UTF-8 wherever nobody chose otherwise, and never die of a letter that the console cannot show.

    A Japanese or Western Windows gives pipes its own code page (cp932, cp1252), in which a transcript would not fit.
    """
    chosen = os.environ.get("PYTHONIOENCODING", "").partition(":")[0] or None
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding=chosen or "utf-8", errors="replace")


def forget_output() -> None:
    """Drop what standard output would not take, or the interpreter complains of it at its end."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


# All but tab and line feed, and DEL and the second set of Unicode's.
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(9), *range(11, 32), *range(127, 160))}


def printable(text: str) -> str:
    """Text with its control characters spelled out: those of a model's answer, a server's error or a file's name would
    steer the terminal."""
    return text.translate(_CONTROLS)


class SafeConsole(Console):
    """Sends no control characters of a text to a terminal; what is piped stays as it is."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text) if self.is_terminal else text, **options)


def output() -> Console:
    """Return the console for results; plain when it is not a terminal."""
    return SafeConsole(highlight=False, emoji=False, markup=False, soft_wrap=True)


def messages() -> Console:
    """Return the console for everything but the result, so that results can be piped."""
    return SafeConsole(stderr=True, highlight=False, emoji=False, markup=False, soft_wrap=True)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table. The first column is never shortened; the others wrap."""
    console = output()
    table = Table(box=SIMPLE, pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, no_wrap=index == 0, overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.width = max(console.width, _NARROWEST)
    console.print(table)


def fail(message: str, status: int = FAILED) -> NoReturn:
    """Print an error and end the program with a failure."""
    messages().print(f"speech-gateway: {message}")
    raise typer.Exit(status)


def check_result(file: Path | None) -> None:
    """End the program before the work if its result could not be written."""
    try:
        if file is not None:
            check_writable(file)
    except NotWritten as error:
        fail(str(error), WRONG_USE)


def write_result(text: str, file: Path | None) -> None:
    """Print the result, or write it to the file and print the file's name."""
    if file is None or file == STANDARD_OUTPUT:
        output().print(text, end="" if text.endswith("\n") else "\n")
        return
    try:
        write_whole([text.encode("utf-8")], file)
    except NotWritten as error:
        fail(str(error))
    messages().print(f"Written to {file}.")


def size_text(size: int | None) -> str:
    """Format bytes in binary units: "244.0 MiB"; "-" for nothing."""
    if not size:
        return "-"
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
