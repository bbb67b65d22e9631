"""Which neural voice speaks for a name and a language.

Owns the names, languages and licences of the voices, and the order in which OpenAI's names are given to them.
Knows no audio and loads nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from backends.data_packages import is_installed
from backends.embedded import kokoro_phonemes, voice_files
from backends.interface import Voice

JOE = "en_US-joe-medium"
JOE_LICENCE = (
    "recordings CC0; fine-tuned from the voice lessac, whose corpus (Blizzard Challenge 2013) does not allow "
    "commercial voices"
)
KOKORO_LICENCE = "Apache-2.0"
PACKAGED_STYLES = ("jf_alpha", "jf_gongitsune", "jf_nezumi", "jf_tebukuro", "jm_kumo")  # of the package's archive

# Each of OpenAI's names, by the sex of the speaker that its users expect.
FEMALE_NAMES = ("alloy", "coral", "nova", "sage", "shimmer", "marin")
MALE_NAMES = ("ash", "ballad", "cedar", "echo", "fable", "onyx", "verse")

Family = Literal["piper", "kokoro"]


@dataclass(frozen=True, slots=True)
class NeuralVoice:
    """One voice. locale: BCP 47; speaker: "f", "m" or "" (not known); permissive: its licence and data allow any use.

    file: where its style table or model lies; None: in an installed package.
    """

    id: str
    family: Family
    locale: str
    licence: str
    permissive: bool
    speaker: str = ""
    file: Path | None = None

    @property
    def language(self) -> str:
        """The primary code of its locale."""
        return self.locale.partition("-")[0]

    def listed(self) -> Voice:
        return Voice(self.id, f"{self.id} ({self.family.capitalize()})", (self.locale,), self.licence)


class VoiceCatalog:
    """The neural voices that are there, in order of preference."""

    def __init__(self, voices: Iterable[NeuralVoice]) -> None:
        self._by_id = {voice.id.lower(): voice for voice in voices}

    def __iter__(self) -> Iterator[NeuralVoice]:
        return iter(self._by_id.values())

    def named(self, name: str) -> NeuralVoice | None:
        return self._by_id.get(name.strip().lower())

    def for_language(self, code: str, name: str = "") -> NeuralVoice | None:
        """The voice for a language code ("ja", "en-us"), and for one of OpenAI's names among several of it."""
        voices = [voice for voice in self._by_id.values() if _speaks(voice, code)]
        return _of_name(voices, name.lower()) if voices else None


def installed_voices(models_dir: Path, *, permissive_only: bool) -> list[NeuralVoice]:
    """The voices of the installed packages and of the models folder."""
    found = [*_piper_voices(models_dir), *_kokoro_voices(models_dir)]
    return [voice for voice in found if voice.permissive or not permissive_only]


def is_kokoro_name(name: str) -> bool:
    """Whether `name` looks like a Kokoro voice ("af_heart") of a language that can be spoken here."""
    known = {*kokoro_phonemes.LANGUAGES, "j"}
    return len(name) > 3 and name[0] in known and name[1] in "fm" and name[2] == "_"


def _piper_voices(models_dir: Path) -> list[NeuralVoice]:
    found = []
    if is_installed(*voice_files.JOE_FILES):
        found.append(NeuralVoice(JOE, "piper", "en-US", JOE_LICENCE, permissive=False, speaker="m"))
    for model in voice_files.piper_model_files(models_dir):
        locale = model.stem.partition("-")[0].replace("_", "-")  # en_US-joe-medium: language, speaker, quality
        found.append(NeuralVoice(model.stem, "piper", locale, "see its model card", permissive=False, file=model))
    return found


def _kokoro_voices(models_dir: Path) -> list[NeuralVoice]:
    if not is_installed(*voice_files.KOKORO_FILES):
        return []
    found = [_kokoro_voice(name, None) for name in PACKAGED_STYLES]
    imported = [file for file in voice_files.kokoro_style_files(models_dir) if is_kokoro_name(file.stem)]
    return [*found, *(_kokoro_voice(file.stem, file) for file in imported if file.stem not in PACKAGED_STYLES)]


def _kokoro_voice(name: str, file: Path | None) -> NeuralVoice:
    locale = "ja-JP" if name[0] == "j" else kokoro_phonemes.LANGUAGES[name[0]][1]
    return NeuralVoice(name, "kokoro", locale, KOKORO_LICENCE, permissive=True, speaker=name[1], file=file)


def _speaks(voice: NeuralVoice, code: str) -> bool:
    """A bare language fits any of its regions; a region must be the voice's own."""
    code = code.replace("_", "-").lower()
    return code in (voice.language, voice.locale.lower())


def _of_name(voices: Sequence[NeuralVoice], name: str) -> NeuralVoice:
    """The voice of that very name, else one of the same sort by the name's place in its row, else the first."""
    for voice in voices:
        if voice.id.lower().endswith(f"_{name}") and name:
            return voice
    for speaker, row in (("f", FEMALE_NAMES), ("m", MALE_NAMES)):
        alike = [voice for voice in voices if voice.speaker == speaker]
        if name in row and alike:
            return alike[row.index(name) % len(alike)]
    return voices[0]
