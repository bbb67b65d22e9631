"""The loaded voice models: from a piece of text to its sound, for every family behind one interface.

Owns which model, front end and style belong to a voice. A model is loaded when a voice first needs it and then shared
by all jobs and voices. Knows no requests and no names.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Protocol

import numpy as np

from backends.audio.tempo import change_tempo
from backends.data_packages import read_checked
from backends.embedded import voice_files
from backends.embedded.english_kana import EnglishKana
from backends.embedded.espeak_phonemes import EspeakPhonemizer
from backends.embedded.foreign_words import ENGLISH_SOUNDS, MixedFrontEnd
from backends.embedded.japanese_phonemes import JapaneseFrontEnd
from backends.embedded.kokoro import KokoroModel, StyleTable, read_style_archive, read_style_file, read_vocabulary
from backends.embedded.kokoro_phonemes import KokoroEspeakFrontEnd
from backends.embedded.piper import PiperModel, read_config
from backends.embedded.silence import trimmed
from backends.embedded.voice_catalog import NeuralVoice
from backends.interface import Samples

# A piece of more phonemes is cut at a space, so that one step stays short: about 15 s of speech. Kokoro takes at most
# 510.
LONGEST_PIECE = 250
_PIPER_SPEEDS = (0.5, 1.3)  # beyond, the shortest phonemes are one frame already or sound torn; the rest is stretched
_KOKORO_SPEEDS = (0.5, 2.0)
_LOUDEST = 0.97  # of full scale


class FrontEnd(Protocol):
    """Text of one language to the phonemes of one model."""

    def phonemes(self, text: str) -> str:
        """One string, words separated by spaces, marks behind their word; "" if there is nothing to say."""


class Synthesizer(Protocol):
    """One voice, ready to speak."""

    @property
    def rate(self) -> int:
        """Of its sound, Hz."""

    def phonemes(self, text: str) -> list[str]:
        """The phonemes of a piece of text, in parts that `say` takes; [] if there is nothing to say."""

    def say(self, phonemes: str, speed: float, seed: int) -> Samples:
        """Sound of one part without silence around it, float32 [time] at `rate`."""


class VoiceModels:
    """The models of one process. threads: for each of them; one runs at a time."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._phonemizer = EspeakPhonemizer()
        self._japanese: Future[JapaneseFrontEnd] | None = None
        self._kokoro: KokoroModel | None = None
        self._styles: dict[str, StyleTable] = {}
        self._ready: dict[str, Synthesizer] = {}

    def prepare_japanese(self) -> None:
        """Begin to load the readings, which takes seconds, beside everything else."""
        if self._japanese is None:
            loader = ThreadPoolExecutor(1, thread_name_prefix="readings")
            self._japanese = loader.submit(JapaneseFrontEnd, EnglishKana(self._phonemizer.ipa).of)
            loader.shutdown(wait=False)

    def synthesizer(self, voice: NeuralVoice) -> Synthesizer:
        """The voice with its model loaded. Raises ModelUnavailable."""
        if voice.id not in self._ready:
            self._ready[voice.id] = self._piper(voice) if voice.family == "piper" else self._kokoro_voice(voice)
        return self._ready[voice.id]

    @property
    def why_slower(self) -> str:
        """Why Kokoro runs as it is published; "" if it does not, or is not loaded."""
        return self._kokoro.kept_graph if self._kokoro is not None else ""

    def _piper(self, voice: NeuralVoice) -> Synthesizer:
        if voice.file is None:
            model = read_checked(voice_files.PIPER_JOE)
            settings = read_checked(voice_files.PIPER_JOE_CONFIG)
        else:
            model, settings = voice.file.read_bytes(), voice_files.piper_config_file(voice.file).read_bytes()
        config = read_config(settings, voice.id)
        own = partial(self._phonemizer.ipa, voice=config.espeak.voice)
        front_end = MixedFrontEnd(own, self._phonemizer, self._readings, ENGLISH_SOUNDS)
        return _PiperVoice(PiperModel(model, config, self._threads), front_end)

    def _kokoro_voice(self, voice: NeuralVoice) -> Synthesizer:
        style = read_style_file(voice.file) if voice.file is not None else self._packaged_style(voice.id)
        return _KokoroVoice(self._kokoro_model(), self._kokoro_front_end(voice), style)

    def _kokoro_front_end(self, voice: NeuralVoice) -> FrontEnd:
        if voice.language == "ja":
            return self._readings()
        own = KokoroEspeakFrontEnd(self._phonemizer, voice.id[0])
        return MixedFrontEnd(own.phonemes, self._phonemizer, self._readings, sounds={})

    def _readings(self) -> JapaneseFrontEnd:
        """Raises ModelUnavailable."""
        self.prepare_japanese()
        assert self._japanese is not None  # noqa: S101 (set by the line before)
        return self._japanese.result()

    def _packaged_style(self, name: str) -> StyleTable:
        self._styles = self._styles or read_style_archive(read_checked(voice_files.KOKORO_STYLES))
        return self._styles[name]

    def _kokoro_model(self) -> KokoroModel:
        if self._kokoro is None:
            vocabulary = read_vocabulary(read_checked(voice_files.KOKORO_VOCABULARY))
            model = read_checked(voice_files.KOKORO_MODEL)
            self._kokoro = KokoroModel(model, vocabulary, self._threads)
        return self._kokoro


class _PiperVoice:
    def __init__(self, model: PiperModel, front_end: FrontEnd) -> None:
        self._model, self._front_end = model, front_end
        self.rate = model.rate

    def phonemes(self, text: str) -> list[str]:
        return _parts(self._front_end.phonemes(text))

    def say(self, phonemes: str, speed: float, seed: int) -> Samples:
        ids = self._model.ids(phonemes)
        return _at_speed(lambda own: self._model.synthesize(ids, own, seed), self.rate, speed, _PIPER_SPEEDS)


class _KokoroVoice:
    def __init__(self, model: KokoroModel, front_end: FrontEnd, style: StyleTable) -> None:
        self._model, self._front_end, self._style = model, front_end, style
        self.rate = model.rate

    def phonemes(self, text: str) -> list[str]:
        return _parts(self._front_end.phonemes(text))

    def say(self, phonemes: str, speed: float, seed: int) -> Samples:
        ids = self._model.ids(phonemes)
        if not ids:
            return np.zeros(0, np.float32)
        return _at_speed(lambda own: self._model.synthesize(ids, self._style, own), self.rate, speed, _KOKORO_SPEEDS)


def _at_speed(synthesize: Callable[[float], Samples], rate: int, speed: float, native: tuple[float, float]) -> Samples:
    """The model's own speed as far as it carries, the rest by stretching the sound."""
    own = min(max(speed, native[0]), native[1])
    return _within_full_scale(change_tempo(trimmed(synthesize(own), rate), rate, speed / own))


def _within_full_scale(samples: Samples) -> Samples:
    """A piece that is too loud made softer as a whole: some of Kokoro's voices pass full scale."""
    peak = float(np.abs(samples).max(initial=0.0))
    return samples if peak <= _LOUDEST else samples * np.float32(_LOUDEST / peak)


def _parts(phonemes: str) -> list[str]:
    """`phonemes` cut at spaces into parts of at most LONGEST_PIECE; parts without any sound are left out."""
    parts = []
    while len(phonemes) > LONGEST_PIECE:
        cut = phonemes.rfind(" ", LONGEST_PIECE // 2, LONGEST_PIECE) + 1 or LONGEST_PIECE
        parts.append(phonemes[:cut])
        phonemes = phonemes[cut:]
    return [part for part in (*parts, phonemes) if any(char.isalpha() for char in part)]
