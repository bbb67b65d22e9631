"""The arithmetic of the benchmark of the embedded engines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from scripts.bench_embedded import CHARACTERS, LONG_TEXT, Clip, _sentences, measure, read_clips, table


def test_errors_are_counted_per_engine_and_kind_over_all_clips() -> None:
    sound = np.zeros(16_000, np.float32)
    clips = [Clip("a", "en", sound, "open the door"), Clip("a", "en", sound, "yes"), Clip("b", "ja", sound, "今日は")]
    engines = {"deaf": lambda samples, language: "", "good": lambda samples, language: "Open the door."}
    rows = measure(engines, clips, rounds=2)
    assert {kind: (row["units"], row["error_rate"]) for kind, row in rows["deaf"].items()} == {"a": (8, 1), "b": (6, 1)}
    assert rows["good"]["a"]["error_rate"] == pytest.approx(3 / 4)
    assert "| good | a | 8 | 75.0 % |" in table(rows)


def test_clips_are_those_with_a_text(tmp_path: Path) -> None:
    for name in ("one", "two"):
        soundfile.write(tmp_path / f"{name}.wav", np.zeros((8000, 2), np.float32), 8000)
    (tmp_path / "two.txt").write_text("second\n", encoding="utf-8")
    (clip,) = read_clips(tmp_path)
    assert (clip.said, clip.seconds) == ("second", 1.0)


def test_texts_are_cut_into_sentences() -> None:
    assert _sentences("One two. Three.") == ["One two.", "Three."]
    assert _sentences("はい。いいえ。") == ["はい。", "いいえ。"]


def test_the_long_text_is_long_enough() -> None:
    assert len(LONG_TEXT) >= CHARACTERS
