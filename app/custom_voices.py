"""Voices that clients make of a recording, and the recordings of consent to them: folders below that of the models.

Owns ids, files and their order of writing. A voice lies where the backends that clone look for voices, as a clip with
its transcript; they see it from the moment on in which its clip is there. Knows no HTTP and no backend.
"""

from __future__ import annotations

import io
import re
import secrets
import shutil
import time
import wave
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
import structlog

from backends.interface import Samples

log = structlog.get_logger("voices")

RATE = 24_000  # Hz, at which clips are kept: the higher of the rates that backends clone at
MOST_RECORDINGS = 1000  # of one kind
_RECORD, _CLIP, _TRANSCRIPT = "recording.json", "clip.wav", "transcript.txt"
_DIGITS = 32  # hexadecimal, behind an id's prefix


@dataclass(frozen=True, slots=True)
class Recording:
    """What is known of one. created_at: Unix time; language: BCP 47, of a consent; consent: id of a voice's consent."""

    id: str
    name: str
    created_at: int
    language: str = ""
    consent: str = ""


class StoreFull(Exception):
    """There are MOST_RECORDINGS already."""


class RecordingStore:
    """The recordings of one kind. Every method works on the disk and raises OSError."""

    def __init__(self, folder: Path, prefix: str) -> None:
        self._folder, self._prefix = folder, prefix
        self._id = re.compile(rf"{prefix}[0-9a-f]{{{_DIGITS}}}")

    def is_id(self, text: str) -> bool:
        """Whether a text has the form of an id, and so is safe as the name of a folder."""
        return self._id.fullmatch(text) is not None

    def add(
        self, name: str, samples: Samples, *, transcript: str = "", language: str = "", consent: str = ""
    ) -> Recording:
        """Keep a recording. samples: float32 [time] at RATE. Raises StoreFull."""
        if len(self.all()) >= MOST_RECORDINGS:
            raise StoreFull
        recording = Recording(self._prefix + secrets.token_hex(_DIGITS // 2), name, int(time.time()), language, consent)
        folder = self._folder / recording.id
        folder.mkdir(parents=True)
        try:
            self._write(recording)
            if transcript:
                (folder / _TRANSCRIPT).write_text(transcript, encoding="utf-8")
            _replace(folder / _CLIP, _wav(samples))  # the last: a folder is a voice once it has a clip
        except OSError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return recording

    def get(self, identity: str) -> Recording | None:
        """The recording of that id."""
        if not self.is_id(identity):
            return None
        file = self._folder / identity / _RECORD
        try:
            return replace(msgspec.json.decode(file.read_bytes(), type=Recording), id=identity)
        except FileNotFoundError:
            return None
        except msgspec.DecodeError as error:
            log.warning("recording.unreadable", file=str(file), error=str(error))
            return None

    def all(self) -> list[Recording]:
        """The newest first."""
        if not self._folder.is_dir():
            return []
        voices = [self.get(path.name) for path in self._folder.iterdir()]
        return sorted((one for one in voices if one), key=lambda one: (one.created_at, one.id), reverse=True)

    def rename(self, identity: str, name: str) -> Recording | None:
        """The recording under another name; None if there is none of that id."""
        recording = self.get(identity)
        if recording is not None:
            recording = replace(recording, name=name)
            self._write(recording)
        return recording

    def remove(self, identity: str) -> bool:
        """Delete a recording with all that backends keep beside it; False if there is none of that id."""
        if self.get(identity) is None:
            return False
        shutil.rmtree(self._folder / identity)
        return True

    def _write(self, recording: Recording) -> None:
        _replace(self._folder / recording.id / _RECORD, msgspec.json.encode(recording))


def voice_store(models_dir: Path) -> RecordingStore:
    """Voices, among those that were put into their folder by hand."""
    return RecordingStore(models_dir / "voices", "voice_")


def consent_store(models_dir: Path) -> RecordingStore:
    """Recordings of consent, which no backend reads."""
    return RecordingStore(models_dir / "voice_consents", "cons_")


def _replace(file: Path, content: bytes) -> None:
    fresh = file.with_suffix(".new")
    fresh.write_bytes(content)
    fresh.replace(file)


def _wav(samples: Samples) -> bytes:
    """PCM of 16 bits, which every backend reads."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(RATE)
        out.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    return buffer.getvalue()
