"""The voices of a deployment: the base model's random voice, adapters, and folders with a clip and its transcript.

A voice is a folder models/voices/NAME with an audio file and `transcript.txt` (or a .txt named like the audio). The
codes of the clip are computed once and kept beside it. Knows the codec only as a function.
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

from backends.audio.voice_folder import clip_in, folder_voices, transcript_of
from backends.interface import InvalidInput, Voice, VoiceSample
from backends.llasa.reference_audio import read_clip, usable_reference
from backends.llasa.text import neutralised

log = logging.getLogger(__name__)

Encode = Callable[[NDArray[np.float32]], list[int]]

BASE = "default"
_CACHE = "xcodec2_codes.json"


@dataclass(frozen=True, slots=True)
class Reference:
    """What an answer continues: transcript, codes, and the number of 16 kHz samples the codes stand for."""

    text: str
    codes: tuple[int, ...]
    samples: int


@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    """A reference that has no codes yet: float32 [time] at 16 kHz. folder: where its codes are kept, under `origin`
    (None: nowhere)."""

    text: str
    samples: NDArray[np.float32]
    folder: Path | None = None
    origin: str = ""


@dataclass(frozen=True, slots=True)
class SpeakingVoice:
    """variant: of the model ("" = base); clip: to be encoded into the reference before anything can be spoken;
    anchored: has one speaker by itself, so that sentences need no common reference."""

    id: str
    variant: str = ""
    reference: Reference | None = None
    assistant_prefix: str = ""
    double_bos: bool = False
    clip: Clip | None = None

    @property
    def anchored(self) -> bool:
        return bool(self.variant or self.reference or self.clip or self.assistant_prefix)


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
        self.folder, self._adapters, self._encode, self._origin = folder, tuple(adapters), encode, origin
        self._longest, self._prefixes, self._double_bos = longest, dict(prefixes), frozenset(double_bos)
        self._known: dict[Path, Reference] = {}

    def listed(self) -> tuple[Voice, ...]:
        """The base voice first, then adapters, voices with a speaker prefix, and folders."""
        names = [BASE, *self._adapters, *self._prefixes, *self._folders()]
        return tuple(Voice(name, name) for name in dict.fromkeys(names))

    def voice(self, name: str) -> SpeakingVoice:
        """The voice of that name. Raises InvalidInput for one that does not exist or whose folder is incomplete."""
        known = {voice.id.lower(): voice.id for voice in self.listed()}
        if name.lower() not in known:
            raise InvalidInput(
                f"there is no voice {name!r}; there are {', '.join(sorted(known.values()))}", param="voice"
            )
        name = known[name.lower()]
        variant = name if name in self._adapters else ""
        voice = SpeakingVoice(name, variant, None, self._prefixes.get(name, ""), name in self._double_bos)
        return self._of_folder(voice, self.folder / name) if name in self._folders() else voice

    def for_request(self, name: str, sample: VoiceSample | None) -> SpeakingVoice:
        """The voice to speak a request with. With a clip of its own, a name that is no voice means the base model."""
        if sample is None:
            return self.voice(name)
        known = any(voice.id.lower() == name.lower() for voice in self.listed())
        return self.cloned(self.voice(name) if known else SpeakingVoice(BASE), sample)

    def cloned(self, voice: SpeakingVoice, sample: VoiceSample) -> SpeakingVoice:
        """The voice with a request's clip in folder of its own reference."""
        if not neutralised(sample.transcript).strip():
            raise InvalidInput(
                "the reference clip needs its transcript: send reference_text, or configure a transcription_deployment",
                param="reference_text",
            )
        samples = usable_reference(np.asarray(sample.samples, np.float32), self._longest)
        return replace(voice, reference=None, clip=Clip(sample.transcript.strip(), samples))

    def encoded(self, voice: SpeakingVoice) -> SpeakingVoice:
        """The voice with the codes of its clip, if it has one. Raises what the codec raises."""
        if voice.clip is None:
            return voice
        return replace(voice, reference=self._reference(voice.clip), clip=None)

    def to_encode(self) -> list[str]:
        """Names of the folder voices whose clips have no codes yet."""
        return [name for name in self._folders() if self._is_to_encode(self.folder / name)]

    def _is_to_encode(self, folder: Path) -> bool:
        clip = clip_in(folder)
        try:
            return (
                clip is not None
                and bool(transcript_of(folder, clip, neutralised))
                and _cached_codes(folder / _CACHE, self._origin_of(clip)) is None
            )
        except InvalidInput:
            return False  # a request for this voice says why

    def _origin_of(self, clip: Path) -> str:
        return hashlib.sha256(self._origin.encode() + clip.read_bytes()).hexdigest()

    def _folders(self) -> list[str]:
        return folder_voices(self.folder)

    def _reference(self, clip: Clip) -> Reference:
        if clip.folder in self._known:
            return self._known[clip.folder]  # encoded for another job that waited for the same clip
        reference = Reference(clip.text, tuple(self._encode(clip.samples)), len(clip.samples))
        if clip.folder is not None:
            _cache_codes(clip.folder / _CACHE, clip.origin, reference)
            self._known[clip.folder] = reference
        return reference

    def _of_folder(self, voice: SpeakingVoice, folder: Path) -> SpeakingVoice:
        """The voice with the folder's reference, or with its clip as long as that has no codes."""
        reference = self._known.get(folder) or self._read(folder)
        if isinstance(reference, Clip):
            return replace(voice, clip=reference)
        self._known[folder] = reference
        return replace(voice, reference=reference)

    def _read(self, folder: Path) -> Reference | Clip:
        clip = clip_in(folder)
        if clip is None:
            raise InvalidInput(f"the voice {folder.name!r} has no audio file", param="voice")
        text = transcript_of(folder, clip, neutralised)
        origin = self._origin_of(clip)
        cached = _cached_codes(folder / _CACHE, origin)
        if cached is not None:
            return Reference(text, *cached)
        return Clip(text, usable_reference(read_clip(clip), self._longest), folder, origin)


def _cached_codes(path: Path, origin: str) -> tuple[tuple[int, ...], int] | None:
    """Codes and sample count from the cache, if it is of this clip and this codec."""
    try:
        cached = json.loads(path.read_text(encoding="utf-8"))
        if cached["origin"] == origin:
            return tuple(int(code) for code in cached["audio"]), int(cached["samples"])
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("the code cache %s is not readable and is made anew: %s", path, error)
    return None


def _cache_codes(path: Path, origin: str, reference: Reference) -> None:
    content = {"origin": origin, "text": reference.text, "samples": reference.samples, "audio": list(reference.codes)}
    fresh = path.with_suffix(f".{os.getpid()}.new")
    try:
        fresh.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
        fresh.replace(path)
    except OSError as error:
        log.warning("the codes of %s are not kept: %s", path.parent.name, error)
