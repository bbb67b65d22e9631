"""What cannot be asked of a model is refused by name, not by an index error from within or by a silent other answer."""

from __future__ import annotations

import numpy as np
import pytest

from backends.interface import InvalidInput
from backends.whisper.engine import load_whisper
from tests.backends.whisper.checkpoints import Reference

SILENCE = np.zeros(3200, np.float32)


@pytest.mark.parametrize("engine", ["onnx", "torch"])
def test_tokens_without_a_row_or_position_are_refused(multilingual: Reference, engine: str) -> None:
    model = load_whisper(multilingual.folder, engine=engine)
    for tokens, told in (
        ([-1], "between 0 and"),
        ([model.dims.vocabulary], "between 0 and"),
        ([1] * 65, "64 positions"),
    ):
        with pytest.raises(InvalidInput, match=told):
            model.logits(SILENCE, tokens)
    assert model.logits(SILENCE, [1] * 64).shape == (64, model.dims.vocabulary)


def test_several_channels_are_refused(multilingual: Reference) -> None:
    with pytest.raises(InvalidInput, match="one channel"):
        load_whisper(multilingual.folder).greedy_tokens(np.zeros((2, 3200), np.float32), max_new_tokens=1)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e20])
def test_what_is_no_sound_is_refused(multilingual: Reference, value: float) -> None:
    """It would become token 0, again and again."""
    samples = SILENCE.copy()
    samples[7] = value
    model = load_whisper(multilingual.folder)
    with pytest.raises(InvalidInput, match="no samples"):
        model.greedy_tokens(samples, max_new_tokens=1)
    with pytest.raises(InvalidInput, match="no samples"):
        model.transcribe(samples, vad=False)


@pytest.mark.parametrize("temperature", [[], -0.5, float("nan"), float("inf"), (0.0, -1.0)])
def test_temperatures_that_are_none_are_refused(multilingual: Reference, temperature: float | list[float]) -> None:
    with pytest.raises(InvalidInput, match="temperature"):
        load_whisper(multilingual.folder).transcribe(SILENCE, temperature=temperature)


def test_temperatures_may_be_numpys_numbers(multilingual: Reference) -> None:
    model = load_whisper(multilingual.folder)
    assert model.transcribe(SILENCE, temperature=np.float32(0.5)).text == ""  # type: ignore[arg-type]


def test_an_unknown_task_is_refused_in_silence_too(multilingual: Reference) -> None:
    with pytest.raises(InvalidInput, match="cannot summarise"):
        load_whisper(multilingual.folder).transcribe(SILENCE, task="summarise")  # type: ignore[arg-type]
