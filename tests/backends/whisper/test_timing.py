"""Word ends: punctuation at the end of a word is the pause after it, not a part of it."""

from __future__ import annotations

import numpy as np
import pytest

from backends.interface import Word
from backends.whisper.engine import Whisper
from backends.whisper.onnx.engine import OnnxNetwork
from backends.whisper.timing import TokenGroup, word_times
from tests.backends.whisper.checkpoints import Reference


def times(*words: list[str]) -> list[Word]:
    """Every token begins 0.1 s after the one before."""
    texts = [text for word in words for text in word]
    numbers = iter(range(len(texts)))
    groups = [TokenGroup("".join(word), tuple(next(numbers) for _ in word)) for word in words]
    starts = (np.arange(len(texts) + 1) / 10).astype(np.float32)
    return word_times(groups, starts, [-0.1] * len(texts), 5.0, texts)


@pytest.mark.parametrize(
    ("tokens", "end"),
    [
        ([" yes"], 5.1),
        ([" yes", "."], 5.1),
        ([" yes", ".", '"'], 5.1),
        ([" fif", "ty", "%"], 5.3),
        ([" 5", "\N{DEGREE SIGN}"], 5.2),
        ([" U", ".", "S", "."], 5.3),
        (["\ufffd", "\ufffd", "\N{IDEOGRAPHIC FULL STOP}"], 5.2),
        (["..."], 5.1),
    ],
)
def test_a_word_ends_where_its_last_sound_ends(tokens: list[str], end: float) -> None:
    (word,) = times(tokens)
    assert (word.start, word.end) == (5.0, pytest.approx(end))
    assert word.word == "".join(tokens).strip()


def test_the_next_word_begins_after_the_pause() -> None:
    first, second = times([" well", ","], [" then", "!"])
    assert (first.end, second.start) == (pytest.approx(5.1), pytest.approx(5.2))
    assert second.end == pytest.approx(5.3)


def test_a_window_is_encoded_once_though_its_language_is_unknown(
    multilingual: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    from backends.whisper.config import read_dims

    model = Whisper(multilingual.folder, OnnxNetwork(multilingual.folder, read_dims(multilingual.folder), max_batch=2))
    encoded: list[int] = []
    encode = OnnxNetwork.encode

    def counted(self: OnnxNetwork, mels: list[np.ndarray]) -> object:
        encoded.append(len(mels))
        return encode(self, mels)

    monkeypatch.setattr(OnnxNetwork, "encode", counted)
    noise = (np.random.default_rng(0).standard_normal(16_000 * 5) * 0.1).astype(np.float32)
    found = model.transcribe(noise, vad=False)
    assert encoded == [1]
    assert found.language in model.special.languages
