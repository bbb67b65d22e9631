"""A closed vocabulary and a synthetic speaker for it: the material of the miniature Whisper and of its tests.

Sentences come from one small grammar in English and German whose parts correspond, so that each German sentence has its
translation. espeak-ng speaks them, in-process through ctypes; its events give the start of every word.
"""

from __future__ import annotations

import ctypes
import random
from dataclasses import dataclass
from functools import lru_cache

import espeakng_loader
import numpy as np
import soxr
from numpy.typing import NDArray

Samples = NDArray[np.float32]
RATE = 16_000

NAMES = (("Anna", "Anna"), ("Peter", "Peter"), ("Maria", "Maria"), ("Thomas", "Thomas"))
VERBS = (("sees", "sieht"), ("buys", "kauft"), ("finds", "findet"), ("paints", "malt"), ("counts", "zählt"))
NUMBERS = (
    ("two", "zwei"),
    ("three", "drei"),
    ("four", "vier"),
    ("five", "fünf"),
    ("six", "sechs"),
    ("seven", "sieben"),
    ("eight", "acht"),
    ("nine", "neun"),
)
COLOURS = (("red", "rote"), ("blue", "blaue"), ("green", "grüne"), ("yellow", "gelbe"), ("white", "weiße"), ("black", "schwarze"))
NOUNS = (
    ("birds", "Vögel"),
    ("houses", "Häuser"),
    ("flowers", "Blumen"),
    ("books", "Bücher"),
    ("boats", "Boote"),
    ("stones", "Steine"),
    ("apples", "Äpfel"),
)
PLACES = (
    ("", ""),
    ("today", "heute"),
    ("on Monday", "am Montag"),
    ("in the garden", "im Garten"),
    ("at the station", "am Bahnhof"),
)
PARTS = (NAMES, VERBS, NUMBERS, COLOURS, NOUNS, PLACES)

VOICES = {
    "en": ("gmw/en-US", "gmw/en-US+f3", "gmw/en-US+m3", "gmw/en-GB-x-rp", "gmw/en", "gmw/en+f2", "gmw/en-US+m7"),
    "de": ("gmw/de", "gmw/de+f2", "gmw/de+m3"),
}


@dataclass(frozen=True, slots=True)
class Sentence:
    """One choice per part of the grammar."""

    choice: tuple[int, ...]

    def text(self, language: str = "en") -> str:
        column = 0 if language == "en" else 1
        words = [part[index][column] for part, index in zip(PARTS, self.choice, strict=True)]
        return " ".join(word for word in words if word) + "."

    @property
    def unseen(self) -> bool:
        """One sentence in eight is kept from training."""
        return sum(index * weight for index, weight in zip(self.choice, (1, 3, 5, 7, 2, 1), strict=True)) % 8 == 3


@dataclass(frozen=True, slots=True)
class Spoken:
    """samples: float32 [time] at 16 kHz, silence trimmed; word_starts: seconds, one per word."""

    samples: Samples
    word_starts: tuple[float, ...]


def draw_sentence(random_source: random.Random, *, unseen: bool) -> Sentence:
    while True:
        sentence = Sentence(tuple(random_source.randrange(len(part)) for part in PARTS))
        if sentence.unseen == unseen:
            return sentence


class _EspeakEvent(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", ctypes.c_char * 8),
    )


_WORD_EVENT = 1
_RATE_PARAMETER = 1
_UTF8 = 1


class Speaker:
    """espeak-ng in this process. Its state is global, so there is one Speaker (`speaker()`)."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        data = espeakng_loader.get_data_path().encode()
        self._rate = self._library.espeak_Initialize(1, 0, data, 0x8000)  # synchronous; do not exit on errors
        self._pieces: list[NDArray[np.int16]] = []
        self._starts: list[float] = []
        signature = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_EspeakEvent))
        self._callback = signature(self._receive)

    def _receive(self, wave: ctypes._Pointer[ctypes.c_short], count: int, events: ctypes._Pointer[_EspeakEvent]) -> int:
        if wave and count > 0:
            self._pieces.append(np.ctypeslib.as_array(wave, (count,)).copy())
        index = 0
        while events[index].type:
            if events[index].type == _WORD_EVENT:
                self._starts.append(events[index].audio_position / 1000)
            index += 1
        return 0

    def say(self, text: str, voice: str, words_per_minute: int = 160) -> Spoken:
        """Speak one sentence; peak about 0.5."""
        self._pieces, self._starts = [], []
        if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise ValueError(f"espeak-ng has no voice {voice!r}")
        self._library.espeak_SetParameter(_RATE_PARAMETER, words_per_minute, 0)
        self._library.espeak_SetSynthCallback(self._callback)  # each time: whoever else spoke in this process set theirs
        encoded = text.encode()
        self._library.espeak_Synth(encoded, len(encoded) + 1, 0, 1, 0, _UTF8, None, None)
        self._library.espeak_Synchronize()
        wave = soxr.resample(np.concatenate(self._pieces).astype(np.float32) / 32768, self._rate, RATE)
        loud = np.flatnonzero(np.abs(wave) > 0.004)
        first, last = int(loud[0]), int(loud[-1]) + 1
        starts = tuple(max(0.0, start - first / RATE) for start in self._starts)
        return Spoken((wave[first:last] * (0.5 / np.abs(wave).max())).astype(np.float32), starts)


@lru_cache(maxsize=1)
def speaker() -> Speaker:
    return Speaker()


def comfort_noise(samples: Samples, decibels: float, seed: int) -> Samples:
    """Add white noise `decibels` below the speech's level (root mean square)."""
    noise = np.random.default_rng(seed).standard_normal(len(samples)).astype(np.float32)
    level = float(np.sqrt(np.mean(samples[np.abs(samples) > 0.01] ** 2))) if np.any(np.abs(samples) > 0.01) else 0.05
    return (samples + noise * level * 10 ** (-decibels / 20)).astype(np.float32)
