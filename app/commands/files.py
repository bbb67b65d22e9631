"""How the commands write their results: whole or not at all, to a file, a device, a pipe or standard output.

Owns the draft beside the file and the words for a disk that refuses. Knows no command and no network.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

STANDARD_OUTPUT = Path("-")


class NotWritten(Exception):
    """The result cannot be written; the text is for the user."""


def check_writable(file: Path) -> None:
    """Raise NotWritten where a result could not be written, before the work that makes it."""
    folder = file.absolute().parent
    if file == STANDARD_OUTPUT or _is_special(file):
        return
    if not folder.is_dir():
        raise NotWritten(f"there is no folder {file.parent} to write {file.name} into; make it first")
    try:
        if file.exists():
            file.open("ab").close()
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise _refused(file, error) from error


def write_whole(pieces: Iterable[bytes], file: Path) -> None:
    """Write to a draft that takes the file's place when all is there; what ends the pieces early leaves no file.

    Devices and pipes get the pieces directly. Raises NotWritten where the disk is at fault, and leaves the errors of
    `pieces`.
    """
    if file == STANDARD_OUTPUT:
        _write(pieces, sys.stdout.buffer, file)
        return
    target = file.resolve()  # a link stays a link
    if _is_special(target):
        with _opened(target, file) as out:
            _write(pieces, out, file)
        return
    draft = target.with_name(target.name + ".part")
    out = _opened(draft, file)
    try:
        with out:
            _write(pieces, out, file)
        _replace(draft, target, file)
    finally:
        draft.unlink(missing_ok=True)


def _is_special(file: Path) -> bool:
    """Whether the path is a device or a named pipe, which nothing may replace."""
    return file.exists() and not file.is_file() and not file.is_dir()


def _opened(target: Path, file: Path) -> BinaryIO:
    try:
        return target.open("wb", buffering=0)
    except OSError as error:
        raise _refused(file, error) from error


def _write(pieces: Iterable[bytes], out: BinaryIO, file: Path) -> None:
    for piece in pieces:
        rest = memoryview(piece)
        try:
            while rest:
                rest = rest[out.write(rest) or 0 :]
            out.flush()
        except OSError as error:
            raise _refused(file, error) from error


def _replace(draft: Path, target: Path, file: Path) -> None:
    try:
        draft.replace(target)
    except OSError as error:
        raise _refused(file, error) from error


def _refused(file: Path, error: OSError) -> NotWritten:
    name = "standard output" if file == STANDARD_OUTPUT else str(file)
    return NotWritten(f"{name} cannot be written: {error.strerror or error}")
