"""The jsonl file of a dataset: one clip per line with `text` and `code`, written so that it is never half there.

Lines go to a working file beside the output, which an interrupted run leaves and the next one continues; only the whole
file gets the output's name. Knows no audio.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from backends.interface import InvalidInput


@dataclass(frozen=True, slots=True)
class Clip:
    """text: raw; code: 0..65535, 50 a second; source: id in the text file; duration: seconds."""

    text: str
    code: tuple[int, ...]
    source: str = ""
    duration: float = 0.0

    def line(self) -> str:
        fields: dict[str, Any] = {"text": self.text, "code": list(self.code), "source": self.source}
        return json.dumps({**fields, "duration": round(self.duration, 3)}, ensure_ascii=False) + "\n"


def read_clips(path: Path) -> Iterator[Clip]:
    """Every line of a dataset, of whatever tool: only `text` and `code` are needed. Raises InvalidInput with the
    line."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield _clip(line, f"{path} line {number}")
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error}") from error
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path} is not UTF-8 text") from error


def _clip(line: str, where: str) -> Clip:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise InvalidInput(f"{where} is not valid JSON: {error}") from error
    if not isinstance(row, dict) or not isinstance(row.get("text"), str) or not row["text"].strip():
        raise InvalidInput(f"{where} has no text")
    code = row.get("code")
    if not isinstance(code, list) or not code:
        raise InvalidInput(f"{where} has no codes")
    if not all(isinstance(value, int) and not isinstance(value, bool) and value >= 0 for value in code):
        raise InvalidInput(f"{where} has codes that are not whole numbers from 0 on")
    duration = row.get("duration")
    return Clip(
        row["text"], tuple(code), str(row.get("source", "")), duration if isinstance(duration, int | float) else 0.0
    )


class DatasetWriter:
    """Writes the lines of `output`.

    settings: what the codes depend on; a working file made with others is not continued. texts: source -> text of all
    clips; of a working file, only the lines that agree with them stay. done: those, by source.
    """

    def __init__(
        self, output: Path, settings: Mapping[str, Any], texts: Mapping[str, str], *, overwrite: bool = False
    ) -> None:
        """Raises InvalidInput if the output exists already."""
        if output.exists() and not overwrite:
            raise InvalidInput(f"{output} exists already; choose another name or overwrite it")
        output.parent.mkdir(parents=True, exist_ok=True)
        self._output = output
        self._working = output.with_name(output.name + ".part")
        self._note = output.with_name(output.name + ".part.settings")
        self._settings = json.dumps(settings, sort_keys=True)
        self.done = self._continued(texts)

    def _continued(self, texts: Mapping[str, str]) -> dict[str, Clip]:
        """The clips that an interrupted run with the same settings has finished; a torn last line is cut off."""
        try:
            if self._note.read_text(encoding="utf-8") != self._settings:
                raise FileNotFoundError
            lines = self._working.read_text(encoding="utf-8").split("\n")
        except (FileNotFoundError, UnicodeDecodeError):
            self._working.write_text("", encoding="utf-8")
            self._note.write_text(self._settings, encoding="utf-8")
            return {}
        clips = [_clip(line, str(self._working)) for line in lines[:-1]]  # what stands after the last line end was torn
        unchanged = [clip for clip in clips if texts.get(clip.source) == clip.text]
        self._working.write_text("".join(clip.line() for clip in unchanged), encoding="utf-8", newline="\n")
        return {clip.source: clip for clip in unchanged}

    def __enter__(self) -> DatasetWriter:
        self._file = self._working.open("a", encoding="utf-8", newline="\n")
        return self

    def write(self, clip: Clip) -> None:
        self._file.write(clip.line())
        self._file.flush()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """The output appears only if nothing went wrong; a working file stays only if there is something to
        continue."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        if kind is None:
            self._working.replace(self._output)
            self._note.unlink(missing_ok=True)
        elif not self._working.stat().st_size:
            self._working.unlink()
            self._note.unlink(missing_ok=True)
