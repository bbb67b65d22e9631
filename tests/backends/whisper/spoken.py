"""Recordings of the miniature's vocabulary, spoken at test time, with what was said and when."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np

from backends.whisper.engine import Whisper
from scripts.fixtures.tiny_speech import VOICES, comfort_noise, draw_sentence, say_alone

RATE = 16_000


@dataclass(frozen=True)
class Recording:
    """times: start and end of every sentence; word_starts: of every word of the recording, in order."""

    samples: np.ndarray
    sentences: tuple[str, ...]
    translations: tuple[str, ...]
    times: tuple[tuple[float, float], ...]
    word_starts: tuple[float, ...]

    @property
    def text(self) -> str:
        return " ".join(self.sentences)


def record(
    count: int, *, seed: int, language: str = "en", gap: tuple[float, float] = (0.3, 1.2), noise: float | None = None
) -> Recording:
    """`count` sentences the training has not seen, by changing voices, with pauses of gap[0] to gap[1] seconds.

    noise: decibels of comfort noise below the speech, None for digital silence.
    """
    source = random.Random(seed)
    pauses, drawn, lines = [], [], []
    for _ in range(count):
        pauses.append(np.zeros(int(RATE * source.uniform(*gap)), np.float32))
        drawn.append(draw_sentence(source, unseen=True))
        voice = source.choice(VOICES[language])
        lines.append((drawn[-1].text(language), voice, source.randint(140, 190)))
    parts: list[np.ndarray] = []
    times, words = [], []
    at = 0
    for pause, spoken in zip(pauses, say_alone(lines), strict=True):
        parts += [pause, spoken.samples]
        at += len(pause)
        words += [at / RATE + start for start in spoken.word_starts]
        times.append((at / RATE, (at + len(spoken.samples)) / RATE))
        at += len(spoken.samples)
    samples = np.concatenate([*parts, np.zeros(int(RATE * 0.4), np.float32)])
    if noise is not None:
        samples = comfort_noise(samples, noise, seed)
    sentences = tuple(text for text, _, _ in lines)
    translations = tuple(sentence.text("en") for sentence in drawn)
    return Recording(samples, sentences, translations, tuple(times), tuple(words))


def greedy_tokens(model: Whisper) -> list[list[int]]:
    """Of three English sentences, by which models of the miniature are told the same."""
    return [model.greedy_tokens(record(1, seed=seed).samples, "en") for seed in range(3)]


def word_errors(said: str, recognized: str) -> int:
    """Edits between two texts, in words."""
    left, right = said.split(), recognized.split()
    row = list(range(len(right) + 1))
    for count, word in enumerate(left, 1):
        before, row[0] = row[:], count
        for place, other in enumerate(right, 1):
            row[place] = min(before[place] + 1, row[place - 1] + 1, before[place - 1] + (word != other))
    return row[-1]


def error_rate(said: str, recognized: str) -> float:
    return word_errors(said, recognized) / len(said.split())
