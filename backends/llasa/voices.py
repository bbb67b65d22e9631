"""Who speaks: the base model's random voice, adapters, and folders with a clip and its transcript.

A voice is a folder models/voices/NAME with an audio file and `transcript.txt` (or a .txt named like the audio). The codes
of the clip are computed once and kept beside it. Knows the codec only as a function.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from backends.interface import InvalidInput, Voice, VoiceSample
from backends.llasa.clips import read_clip, usable_reference
from backends.llasa.text import neutralised

log = logging.getLogger(__name__)

Encode = Callable[[NDArray[np.float32]], list[int]]

BASE = "default"
_AUDIO = (".wav", ".flac", ".ogg", ".mp3")
_CACHE = "xcodec2_codes.json"


@dataclass(frozen=True, slots=True)
class Reference:
    """What an answer continues: transcript, codes, and the number of 16 kHz samples the codes stand for."""

    text: str
    codes: tuple[int, ...]
    samples: int


@dataclass(frozen=True, slots=True)
class SpeakingVoice:
    """variant: of the model ("" = base); anchored: one speaker by itself, so that sentences need no common reference."""

    id: str
    variant: str = ""
    reference: Reference | None = None
    assistant_prefix: str = ""
    double_bos: bool = False

    @property
    def anchored(self) -> bool:
        return bool(self.variant or self.reference or self.assistant_prefix)


class Voices:
    """The voices of one deployment. encode: 16 kHz samples -> codes; origin: names the codec, so that caches fit it."""

    def __init__(
        self,
        folder: Path,
        adapters: Sequence[str],
        encode: Encode,
        origin: str,
        *,
        longest: float,
        prefixes: Mapping[str, str],
        double_bos: Sequence[str],
    ) -> None:
        self._folder, self._adapters, self._encode, self._origin = folder, tuple(adapters), encode, origin
        self._longest, self._prefixes, self._double_bos = longest, dict(prefixes), frozenset(double_bos)
        self._known: dict[str, Reference] = {}

    def listed(self) -> tuple[Voice, ...]:
        """The base voice first, then adapters, voices with a speaker prefix, and folders."""
        names = [BASE, *self._adapters, *self._prefixes, *self._folders()]
        return tuple(Voice(name, name) for name in dict.fromkeys(names))

    def voice(self, name: str) -> SpeakingVoice:
        """The voice of that name. Raises InvalidInput for one that does not exist or whose folder is incomplete."""
        known = {voice.id.lower(): voice.id for voice in self.listed()}
        if name.lower() not in known:
            raise InvalidInput(f"there is no voice {name!r}; there are {', '.join(sorted(known.values()))}", param="voice")
        name = known[name.lower()]
        reference = self._from_folder(name) if name in self._folders() else None
        variant = name if name in self._adapters else ""
        return SpeakingVoice(name, variant, reference, self._prefixes.get(name, ""), name in self._double_bos)

    def for_request(self, name: str, sample: VoiceSample | None) -> SpeakingVoice:
        """The voice to speak a request with. With a clip of its own, a name that is no voice means the base model."""
        if sample is None:
            return self.voice(name)
        known = any(voice.id.lower() == name.lower() for voice in self.listed())
        return self.cloned(self.voice(name) if known else SpeakingVoice(BASE), sample)

    def cloned(self, voice: SpeakingVoice, sample: VoiceSample) -> SpeakingVoice:
        """The voice with a request's clip in place of its own reference."""
        if not neutralised(sample.transcript).strip():
            raise InvalidInput(
                "the reference clip needs its transcript: send reference_text, or configure a transcription_deployment",
                param="reference_text",
            )
        clip = usable_reference(np.asarray(sample.samples, np.float32), self._longest)
        return replace(voice, reference=Reference(sample.transcript.strip(), tuple(self._encode(clip)), len(clip)))

    def to_encode(self) -> list[str]:
        """Folders that can be spoken with, once the codes of their clips are computed."""
        return [name for name in self._folders() if self._is_to_encode(self._folder / name)]

    def _is_to_encode(self, place: Path) -> bool:
        clip = _clip(place)
        try:
            return clip is not None and bool(_transcript(place, clip)) and _kept(place / _CACHE, self._origin_of(clip)) is None
        except InvalidInput:
            return False  # whoever asks for it is told why

    def _origin_of(self, clip: Path) -> str:
        return hashlib.sha256(self._origin.encode() + clip.read_bytes()).hexdigest()

    def _folders(self) -> list[str]:
        if not self._folder.is_dir():
            return []
        return sorted(path.name for path in self._folder.iterdir() if path.is_dir() and _clip(path))

    def _from_folder(self, name: str) -> Reference:
        if name not in self._known:
            self._known[name] = self._read(self._folder / name)
        return self._known[name]

    def _read(self, place: Path) -> Reference:
        clip = _clip(place)
        if clip is None:
            raise InvalidInput(f"the voice {place.name!r} has no audio file", param="voice")
        text = _transcript(place, clip)
        origin = self._origin_of(clip)
        kept = _kept(place / _CACHE, origin)
        if kept is not None:
            return Reference(text, kept[0], kept[1])
        samples = usable_reference(read_clip(clip), self._longest)
        reference = Reference(text, tuple(self._encode(samples)), len(samples))
        _keep(place / _CACHE, origin, reference)
        return reference


def _clip(place: Path) -> Path | None:
    return next((path for path in sorted(place.iterdir()) if path.suffix.lower() in _AUDIO), None)


def _transcript(place: Path, clip: Path) -> str:
    for path in (place / "transcript.txt", clip.with_suffix(".txt")):
        try:
            if path.is_file() and neutralised(text := path.read_text(encoding="utf-8-sig").strip()).strip():
                return text
        except UnicodeDecodeError as error:
            raise InvalidInput(f"the transcript of the voice {place.name!r} is not UTF-8 text", param="voice") from error
    wanted = place / "transcript.txt"
    raise InvalidInput(f"the voice {place.name!r} has no transcript: put what the clip says into {wanted}", param="voice")


def _kept(path: Path, origin: str) -> tuple[tuple[int, ...], int] | None:
    """Codes and sample count from the cache, if it is of this clip and this codec."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["origin"] == origin:
            return tuple(int(code) for code in found["audio"]), int(found["samples"])
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("the code cache %s is not readable and is made anew: %s", path, error)
    return None


def _keep(path: Path, origin: str, reference: Reference) -> None:
    content = {"origin": origin, "text": reference.text, "samples": reference.samples, "audio": list(reference.codes)}
    fresh = path.with_suffix(f".{os.getpid()}.new")
    try:
        fresh.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
        fresh.replace(path)
    except OSError as error:
        log.warning("the codes of %s are not kept: %s", path.parent.name, error)
