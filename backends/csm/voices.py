"""Who speaks: the ten speaker numbers, and voices made of a clip with its transcript.

A voice is a folder models/voices/NAME with an audio file, `transcript.txt` (or a .txt named like the audio) and, if not
speaker 0, `speaker.txt`. Its codes are computed once and kept beside the clip. Knows no language model.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from backends.audio import voice_folder
from backends.audio.voice_folder import clip_in, folder_voices, text_of, transcript_of
from backends.csm.watermark_model.resample import resample
from backends.interface import InvalidInput, ModelUnavailable, Voice

Samples = NDArray[np.float32]
Encode = Callable[[Samples], Tensor]
SPEAKERS = 10
LONGEST_NAME = 256  # characters of a voice's name: file systems take no more
LONGEST_CLIP = 60.0  # seconds of a voice's clip; 10 to 30 are enough for a steady voice
_CODES = "codes.safetensors"
_QUIET = 0.003  # amplitude below which the ends of a clip are cut off
_MARGIN = 0.1  # seconds of it that stay


@dataclass(frozen=True, slots=True)
class Segment:
    """Something that was said: by which speaker, which text, in which codes int64 [codebooks, frames]."""

    speaker: int
    text: str
    codes: Tensor


@dataclass(frozen=True, slots=True)
class SpeakingVoice:
    """A voice to speak with: its number in the prompt, and the segment that gives it its sound (None: none)."""

    speaker: int
    sample: Segment | None = None


class Voices:
    """The voices of one deployment. encode: samples at `rate` -> codes int64 [codebooks, frames]."""

    def __init__(self, folder: Path, rate: int, encode: Encode, codec: str) -> None:
        self._folder, self._rate, self._encode, self._codec = folder, rate, encode, codec
        self._known: dict[str, SpeakingVoice] = {}

    def listed(self) -> tuple[Voice, ...]:
        """Folder voices by name, then the plain speakers "0" to "9"."""
        plain = tuple(Voice(str(number), f"Speaker {number}", ("en",)) for number in range(SPEAKERS))
        return tuple(Voice(name, name) for name in folder_voices(self._folder)) + plain

    def voice(self, name: str) -> SpeakingVoice:
        """The voice of that name. Raises InvalidInput for one that does not exist or whose folder is incomplete."""
        number = speaker_number(name)
        if number is not None:
            return SpeakingVoice(number)
        if len(name) > LONGEST_NAME:
            raise InvalidInput(f"a voice's name has at most {LONGEST_NAME} characters, not {len(name)}", param="voice")
        if name not in self._known:
            self._known[name] = self._load(name)
        return self._known[name]

    def _load(self, name: str) -> SpeakingVoice:
        folder = self._folder / name
        # The pattern first: the disk is never asked for a name that it could not have.
        clip = clip_in(folder) if re.fullmatch(r"[\w][\w .-]*", name) else None
        if clip is None:
            names = ", ".join(voice.id for voice in self.listed())
            raise InvalidInput(f"there is no voice {name!r} (known: {names})", param="voice")
        speaker = _speaker_file(folder / "speaker.txt", name)
        text = transcript_of(folder, clip)
        return SpeakingVoice(speaker, Segment(speaker, text, self._codes(folder, clip)))

    def _codes(self, folder: Path, clip: Path) -> Tensor:
        """The clip's codes, from the cache beside it if that is of this clip and this codec."""
        origin = hashlib.sha256(clip.read_bytes() + self._codec.encode()).hexdigest()
        cached = _cached(folder / _CODES, origin)
        if cached is not None:
            return cached
        codes = self._encode(trimmed(read_clip(clip, self._rate), self._rate)).to(torch.int64).cpu().contiguous()
        unfinished = (
            folder / f"{_CODES}.{os.getpid()}"
        )  # another worker may read or write the same cache at this moment
        try:
            save_file({origin: codes.to(torch.int32)}, unfinished)
            unfinished.replace(folder / _CODES)
        except OSError as error:
            unfinished.unlink(missing_ok=True)
            print(f"the codes of {clip} are not kept: {error}", flush=True)
        return codes


def speaker_number(name: str) -> int | None:
    """0..9 for "3" or "[3]"; None for anything else."""
    digit = re.fullmatch(r"\[?(\d)\]?", name.strip())
    return int(digit[1]) if digit else None


def read_clip(file: Path, rate: int) -> Samples:
    """An audio file as mono float32 at `rate` Hz. Raises InvalidInput."""
    clip = resample(*voice_folder.read_clip(file, LONGEST_CLIP), rate)
    if not len(clip) or not np.isfinite(clip).all():
        raise InvalidInput(f"the clip {file.name} of the voice holds no sound", param="voice")
    return clip


def trimmed(samples: Samples, rate: int) -> Samples:
    """Without the silence before and after; all of it if it is nothing else."""
    loud = np.flatnonzero(np.abs(samples) > _QUIET)
    if not len(loud):
        return samples
    margin = int(_MARGIN * rate)
    return samples[max(0, loud[0] - margin) : loud[-1] + margin + 1]


def _speaker_file(file: Path, name: str) -> int:
    number = speaker_number(text_of(file)) if file.is_file() else 0
    if number is None:
        raise InvalidInput(f"speaker.txt of the voice {name!r} must hold a number from 0 to 9", param="voice")
    return number


def _cached(file: Path, origin: str) -> Tensor | None:
    if not file.is_file():
        return None
    try:
        codes = load_file(file).get(origin)
    except (SafetensorError, OSError) as error:
        raise ModelUnavailable(f"{file} is damaged; delete it: {error}") from error
    return None if codes is None else codes.to(torch.int64)
