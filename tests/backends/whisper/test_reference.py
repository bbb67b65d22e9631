"""A whole transcription against the reference implementation: segments, seek positions, measures, and what word times
are made of."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from backends.whisper.active_window import ActiveWindow, DecodingOptions
from backends.whisper.engine import Whisper, load_whisper
from backends.whisper.timing import split_words
from tests.backends.whisper.reference import OpenaiWhisper
from tests.backends.whisper.spoken import Recording, record

MINIATURE = Path(__file__).parents[2] / "data" / "whisper_tiny"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("reference") / "whisper"
    shutil.copytree(MINIATURE, target)
    return target


@pytest.fixture(scope="module")
def ours(folder: Path) -> Whisper:
    return load_whisper(folder)


@pytest.fixture(scope="module")
def reference(ours: Whisper, folder: Path) -> OpenaiWhisper:
    return OpenaiWhisper(ours, folder)


@pytest.fixture(scope="module")
def dense() -> Recording:
    """Speech of several windows, so that prompts are carried and segments are cut."""
    return record(24, seed=5)


def test_the_same_segments_at_the_same_places(ours: Whisper, reference: OpenaiWhisper, dense: Recording) -> None:
    expected = reference.transcribe(dense.samples, "en")
    found = ours.transcribe(dense.samples, "en", vad=False).segments
    assert len({segment["seek"] for segment in expected}) >= 2
    assert [(one.seek, list(one.tokens), one.text) for one in found] == [
        (one["seek"], one["tokens"], one["text"]) for one in expected
    ]
    for mine, other in zip(found, expected, strict=True):
        for name in ("start", "end", "avg_logprob", "no_speech_prob", "compression_ratio"):
            assert getattr(mine, name) == pytest.approx(other[name], abs=2e-3), name


def test_word_times_start_from_the_same_matrix(ours: Whisper, reference: OpenaiWhisper) -> None:
    clip = record(3, seed=450)
    transcript = ours.transcribe(clip.samples, "en", vad=False)
    text = [token for segment in transcript.segments for token in segment.tokens if token < ours.special.end]
    recording = ours.recording(clip.samples, vad_options=None)
    item = ActiveWindow(recording, recording.next_windows(1)[0], DecodingOptions("en"), ours.encode([clip.samples])[0])
    expected = reference.alignment(clip.samples, "en", text)
    found = ours.alignment(item, text)
    assert found.shape == (len(text), len(clip.samples) // 320)
    assert np.abs(found - expected[:-1]).max() < 1e-3 * np.abs(expected).max()


@pytest.mark.parametrize("text", [" Anna kauft fünf grüne Bücher. Heute", " nine-thirty, 'today' (Monday)!", "日本語"])
def test_words_are_split_alike(ours: Whisper, reference: OpenaiWhisper, text: str) -> None:
    """Before punctuation is merged, which each does in its own way; here only merged words are looked at."""
    tokens = ours.tokenizer.encode(text)
    language = "ja" if text == "日本語" else "en"
    words, _ = reference.tokenizer(language).split_to_word_tokens([*tokens, ours.special.end])
    found = [group.text for group in split_words(tokens, ours.tokenizer, language)]
    assert "".join(found) == text
    edges = np.cumsum([len(word) for word in words[:-1]])
    assert set(np.cumsum([len(word) for word in found])) <= set(edges)
