"""Windows decoded side by side by threads of their own: the same answers as one after the other."""

from __future__ import annotations

import itertools
import threading

import numpy as np
import pytest

from backends.whisper.active_window import ActiveWindow, DecodingOptions
from backends.whisper.config import read_dims
from backends.whisper.decoding import WindowResult
from backends.whisper.engine import Whisper
from backends.whisper.onnx.engine import OnnxNetwork
from tests.backends.whisper.checkpoints import Reference
from tests.support.waiting import LIMIT


def loaded(reference: Reference, threads: int, dtype: str = "float32", *, static: bool = False) -> Whisper:
    network = OnnxNetwork(reference.folder, read_dims(reference.folder), dtype=dtype, threads=threads, static=static)
    return Whisper(reference.folder, network)


def work(model: Whisper, count: int, language: str | None) -> list[ActiveWindow]:
    """Windows of different recordings, decoded together."""
    seconds = model.dims.window_samples
    sounds = [(np.random.default_rng(seed).standard_normal(seconds) * 0.1).astype(np.float32) for seed in range(count)]
    recordings = [model.recording(sound, vad_options=None) for sound in sounds]
    windows = [
        ActiveWindow(one, one.next_windows(1)[0], DecodingOptions(language=language, max_tokens=12))
        for one in recordings
    ]
    model.work(windows)
    return windows


def results(model: Whisper, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str | None, list[int], list[float]]]:
    """Language, tokens and their log-probabilities of five windows, in their order."""
    found: dict[int, WindowResult] = {}
    monkeypatch.setattr(model, "logit_filters", lambda timestamps: [])  # under the rules these weights end at once
    monkeypatch.setattr(model.windows, "hand_back", lambda item, result: found.update({id(item): result}))
    return [
        (item.decoding_options.language, found[id(item)].tokens, found[id(item)].logprobs)
        for item in work(model, 5, None)
    ]


def test_replicas_are_there_for_several_windows_on_several_threads(multilingual: Reference) -> None:
    network = loaded(multilingual, 4).network
    assert list(network.replicas(1)) == [network]
    assert list(network.replicas(2)) == [network]  # two windows on four threads: together
    assert len(network.replicas(3)) == 3
    assert len(network.replicas(9)) == 4
    assert network not in network.replicas(9)


def test_a_short_window_of_a_small_model_takes_one_thread(
    multilingual: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = loaded(multilingual, 4).network
    assert list(network.replicas(1)) == [network]
    (alone,) = network.replicas(1, short=True)
    assert alone is not network
    assert len(network.replicas(3, short=True)) == 3
    monkeypatch.setattr("backends.whisper.onnx.engine._SMALL", 1)
    assert list(network.replicas(1, short=True)) == [network]


def test_one_thread_and_fixed_shapes_have_no_replicas(multilingual: Reference) -> None:
    for network in (loaded(multilingual, 1).network, loaded(multilingual, 4, static=True).network):
        assert list(network.replicas(8)) == [network]


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_replicas_say_what_one_replica_says(
    multilingual: Reference, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone, shared = (results(loaded(multilingual, threads, dtype), monkeypatch) for threads in (1, 2))
    assert len({str(one) for one in alone}) > 1, "the windows must differ, or an exchange would not show"
    for (language, tokens, logprobs), (same_language, same_tokens, same_logprobs) in zip(alone, shared, strict=True):
        assert language == same_language is not None
        assert tokens == same_tokens
        assert logprobs == pytest.approx(same_logprobs, abs=1e-4)


def test_replicas_work_at_the_same_time(multilingual: Reference, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of two lanes waits, in the middle of its work, until the other one is there."""
    model, meeting = loaded(multilingual, 2), threading.Barrier(2, timeout=LIMIT)
    encode = Whisper.encode

    def slow(self: Whisper, *given: object) -> object:
        meeting.wait()
        return encode(self, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(Whisper, "encode", slow)
    assert len(work(model, 4, "en")) == 4


def test_a_replica_that_fails_fails_the_step_before_anything_is_accepted(
    multilingual: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = loaded(multilingual, 2)
    settled: list[object] = []
    monkeypatch.setattr(model.windows, "hand_back", lambda item, result: settled.append(item))
    detect, calls = Whisper.detect_language, itertools.count()

    def fails_once(self: Whisper, *given: object) -> object:
        if next(calls) == 1:
            raise MemoryError("full")
        return detect(self, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(Whisper, "detect_language", fails_once)
    with pytest.raises(MemoryError):
        work(model, 2, None)
    assert not settled
