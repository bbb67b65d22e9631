"""The text side of a dataset: which clip says what, from the many ways in which people write that down.

Reads `id:text` lines, LJSpeech's metadata.csv (id|text|normalised), quoted csv, tab-separated tables, and a .txt beside
every clip. What cannot be used is reported with its line, never dropped in silence. Knows no audio.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from backends.interface import InvalidInput

AUDIO = (".wav", ".flac", ".ogg", ".mp3", ".opus")
_MOST_COLUMNS = 3  # of LJSpeech's format: id, text, normalised text
_GUESSES = ("|", "\t", ":", ";", ",")


@dataclass(frozen=True, slots=True)
class DatasetSource:
    """A folder of clips and the file of their texts (None: a .txt beside every clip).

    separator: between id and text (None: judged by the file); id_column, text_column: counted from 0 (text_column None:
    the second one, in LJSpeech's format the last one that is not empty); extension: of clips named without one.
    """

    audio_dir: Path
    text_file: Path | None = None
    separator: str | None = None
    id_column: int = 0
    text_column: int | None = None
    extension: str = ".wav"


@dataclass(frozen=True, slots=True)
class Entry:
    """One clip: line of the text file (0: a sidecar), id as written, text, audio file."""

    line: int
    id: str
    text: str
    audio: Path


@dataclass(frozen=True, slots=True)
class Skipped:
    """A line that gave no clip, and why."""

    line: int
    id: str
    reason: str


def read_entries(source: DatasetSource) -> Iterator[Entry | Skipped]:
    """Entries in the order of the file. Raises InvalidInput for a folder or file that is not there or not UTF-8."""
    if not source.audio_dir.is_dir():
        raise InvalidInput(f"there is no folder {source.audio_dir}")
    if source.text_file is None:
        yield from _sidecars(source.audio_dir)
        return
    by_name = {path.stem: path for path in sorted(source.audio_dir.rglob("*")) if path.suffix.lower() in AUDIO}
    seen: dict[Path, int] = {}
    for number, columns in _rows(source.text_file, source.separator, source.text_column):
        # Of more columns, or of a text that holds the separator, nobody knows what is meant.
        if columns is None:
            yield Skipped(
                number, "", f"it has more than {_MOST_COLUMNS} columns: say which one is the text (--text-column)"
            )
            continue
        entry = _entry(number, columns, source, by_name)
        if isinstance(entry, Entry) and entry.audio in seen:
            entry = Skipped(number, entry.id, f"the same clip as line {seen[entry.audio]}")
        if isinstance(entry, Entry):
            seen[entry.audio] = number
        yield entry


def _sidecars(audio_dir: Path) -> Iterator[Entry | Skipped]:
    for path in sorted(audio_dir.rglob("*")):
        if path.suffix.lower() not in AUDIO:
            continue
        name, sidecar = path.relative_to(audio_dir).as_posix(), path.with_suffix(".txt")
        if not sidecar.is_file():
            yield Skipped(0, name, f"there is no {sidecar.name} beside it")
            continue
        text = " ".join(_read(sidecar).split())
        yield Entry(0, name, text, path) if text else Skipped(0, name, "its text is empty")


def _rows(text_file: Path, separator: str | None, text_column: int | None) -> Iterator[tuple[int, list[str] | None]]:
    """Line number and columns of every line that is not blank; None for too many of LJSpeech's columns."""
    content = _read(text_file)
    lines = [line.rstrip("\r") for line in content.split("\n")]  # splitlines would also cut at U+2028 and its like
    mark = separator or _guess(text_file, next((line for line in lines if line.strip()), ""))
    if mark == "," or (mark == ";" and text_file.suffix.lower() == ".csv"):
        yield from _quoted(text_file, content, mark)
        return
    # Only the separators before the text count: "a:b: c" is the text "b: c". LJSpeech has a third column instead.
    splits = -1 if mark in "|\t" and text_column is None else max(1, text_column or 1)
    for number, line in enumerate(lines, start=1):
        if line.strip():
            quoted = splits < 0 and line.startswith('"')  # LJSpeech quotes nothing, and no id begins with a quote
            columns = next(csv.reader([line], delimiter=mark)) if quoted else line.split(mark, splits)
            ljspeech = mark == "|" and text_column is None
            if ljspeech and not quoted and len(columns) > _MOST_COLUMNS:
                yield number, None
            else:
                normalised = ljspeech and len(columns) == _MOST_COLUMNS and columns[2].strip()
                yield number, [columns[0], columns[2]] if normalised else columns


def _quoted(text_file: Path, content: str, mark: str) -> Iterator[tuple[int, list[str]]]:
    """Rows of a csv file with quotes, numbered by their first line. Raises InvalidInput for a quote that is never
    closed."""
    reader, began = csv.reader(io.StringIO(content, newline=""), delimiter=mark, strict=True), 1
    try:
        for columns in reader:
            if any(column.strip() for column in columns):
                yield began, columns
            began = reader.line_num + 1
    except csv.Error as error:
        raise InvalidInput(f"{text_file} line {began} is not valid csv: {error}") from error


def _guess(text_file: Path, line: str) -> str:
    order = ("|", "\t", ",", ";", ":") if text_file.suffix.lower() in (".csv", ".tsv") else _GUESSES
    return next((mark for mark in order if mark in line), ":")


def _entry(number: int, columns: list[str], source: DatasetSource, by_name: dict[str, Path]) -> Entry | Skipped:
    """The entry of one line's columns. by_name: the folder's clips by their names without extension."""
    id_column, text_column = source.id_column, 1 if source.text_column is None else source.text_column
    name = columns[id_column].strip() if id_column < len(columns) else ""
    last = max(id_column, text_column)
    if last >= len(columns):
        return Skipped(number, name, f"it has {len(columns)} column(s), column {last} is needed")
    text = columns[text_column].strip()
    if not name or not text:
        return Skipped(number, name, "its text is empty" if name else "it names no clip")
    audio = _find(source, by_name, name)
    if audio is None:
        return Skipped(number, name, f"there is no clip {name!r} in {source.audio_dir}")
    return Entry(number, name, text, audio)


def _find(source: DatasetSource, by_name: dict[str, Path], name: str) -> Path | None:
    """A clip by path (with or without its extension), else by its bare name anywhere in the folder."""
    root = source.audio_dir.resolve()
    for candidate in (name, name + source.extension, *(name + ending for ending in AUDIO)):
        path = source.audio_dir / candidate
        if path.suffix.lower() in AUDIO and path.is_file() and path.resolve().is_relative_to(root):
            return path
    bare = Path(name.replace("\\", "/")).name
    return by_name.get(bare) or by_name.get(Path(bare).stem)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error}") from error
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path} is not UTF-8 text (byte {error.start})") from error
