"""A voice kept as a folder: an audio file, and `transcript.txt` (or a .txt named like the audio) with what it says.

Knows which file is what and reads both. What a model makes of a clip, and where that is kept, is the model's matter.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile

from backends.interface import InvalidInput, Samples

_AUDIO = (".wav", ".flac", ".ogg", ".mp3")


def folder_voices(folder: Path) -> list[str]:
    """Names of the voices in a folder of such folders, sorted."""
    return sorted(path.name for path in folder.iterdir() if clip_in(path)) if folder.is_dir() else []


def clip_in(folder: Path) -> Path | None:
    """The audio file of a voice; None where there is none, or no such folder."""
    try:
        if not folder.is_dir():
            return None
    except OSError:  # a name that this file system cannot have, such as one of more than 255 bytes
        return None
    return next((path for path in sorted(folder.iterdir()) if path.suffix.lower() in _AUDIO), None)


def transcript_of(folder: Path, clip: Path, spoken: Callable[[str], str] = str) -> str:
    """What the clip says. spoken: what is left of a text that can be said. Raises InvalidInput."""
    for path in (folder / "transcript.txt", clip.with_suffix(".txt")):
        if path.is_file() and spoken(text := text_of(path)).strip():
            return text
    expected = folder / "transcript.txt"
    raise InvalidInput(
        f"the voice {folder.name!r} has no transcript: put what the clip says into {expected}", param="voice"
    )


def text_of(path: Path) -> str:
    """A text file of a voice, without blanks around it. Raises InvalidInput."""
    try:
        return path.read_text(encoding="utf-8-sig").strip()
    except (UnicodeDecodeError, OSError) as error:
        text = f"{path.name} of the voice {path.parent.name!r} cannot be read as UTF-8: {error}"
        raise InvalidInput(text, param="voice") from error


def read_clip(path: Path, longest: float) -> tuple[Samples, int]:
    """At most `longest` seconds of an audio file: float32 [time], mono, and its rate in Hz. Raises InvalidInput."""
    try:
        with soundfile.SoundFile(path) as reader:
            count = int(min(len(reader), longest * reader.samplerate))
            samples = reader.read(count, dtype="float32", always_2d=True).mean(axis=1, dtype=np.float32)
            return samples, int(reader.samplerate)
    except (soundfile.SoundFileError, OSError, ValueError, RuntimeError) as error:
        raise InvalidInput(f"the clip {path.name} cannot be read: {error}", param="voice") from error
