"""What stands before a window: keywords first, with a share of the room, then the prompt and the window before."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from backends.interface import Done, InvalidInput, ModelFiles, Placement, TranscriptionRequest
from backends.registry import check_options
from backends.whisper.active_window import ActiveWindow, DecodingOptions
from backends.whisper.backend import WhisperBackend
from backends.whisper.context import PromptWriter
from backends.whisper.engine import Whisper, load_whisper
from backends.whisper.info import INFO
from backends.whisper.job import WhisperJob
from tests.backends.whisper.checkpoints import Reference
from tests.support.drive import finish


class Letters:
    """A tokenizer whose tokens are characters."""

    def encode(self, text: str) -> list[int]:
        return [ord(character) for character in text]


def writer(positions: int) -> PromptWriter:
    return PromptWriter(Letters(), SimpleNamespace(previous=1), positions)  # type: ignore[arg-type]


def before(positions: int, *, context: str = "", left_out: bool = False, **options: Any) -> str:
    window = SimpleNamespace(context=Letters().encode(context))
    item = ActiveWindow(None, window, DecodingOptions(**options), prompt_left_out=left_out)  # type: ignore[arg-type]
    tokens = writer(positions).before(item)
    assert tokens[:1] in ([], [1])
    return "".join(map(chr, tokens[1:]))


def test_keywords_come_first_and_the_end_of_what_was_said_last() -> None:
    assert before(200, keywords=("Ada", "Grace"), prompt="Hello.", context=" More.") == " Ada, Grace. Hello. More."
    assert before(200, keywords=("Ada",), prompt="Hello.", context=" More.", left_out=True) == " More."
    assert before(200) == ""


def test_a_long_prompt_does_not_push_keywords_out() -> None:
    text = before(42, keywords=("Ada",), prompt="x", context="0123456789" * 5)
    assert text == " Ada." + "567890123456789"
    assert len(text) == 20


def test_keywords_leave_room_and_the_rest_of_them_is_counted() -> None:
    given = writer(42).given(DecodingOptions(keywords=("Ada", "ADA", "Bob", "Charles", "Dan")))
    assert "".join(map(chr, given.glossary)) == " Ada, Bob."
    assert given.left_out == 2
    assert writer(4).given(DecodingOptions(keywords=("Ada",))).left_out == 1
    assert before(4, keywords=("Ada",)) == ""


@pytest.fixture(scope="module")
def backend(multilingual: Reference) -> WhisperBackend:
    folder = multilingual.folder
    whisper = WhisperBackend()
    options = check_options(INFO, {"vad": False, "language": "de"})
    whisper.load(
        ModelFiles("w", str(folder), folder, folder.parent, folder.parent, options), Placement(dtype="float32")
    )
    return whisper


def test_keywords_without_room_are_told(backend: WhisperBackend, noise: np.ndarray) -> None:
    keywords = tuple(f"word{number}" for number in range(500))
    request = TranscriptionRequest(noise, temperature=0.1, keywords=keywords, options={"max_tokens": 2})
    job = backend.start(request)
    assert isinstance(job, WhisperJob)
    assert "of the keywords were not used" in job.notes[0]  # for the headers of a stream
    done = finish(backend, [job])[0][-1]
    assert isinstance(done, Done)
    assert done.notes[: len(job.notes)] == job.notes


def test_times_of_words_are_aligned_without_the_keywords(
    backend: WhisperBackend, noise: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are read off the answer's own tokens, so that a long list of keywords does not move them."""
    model, seen = backend.whisper, []
    tokens = model.tokenizer.encode(" the fox")

    def weights(output: Any, given: list[int], heads: Any) -> np.ndarray:
        seen.append(given)
        return np.full((len(heads), len(given), model.dims.source_positions), 0.01, np.float32)

    monkeypatch.setattr(model.network, "cross_weights", weights)
    window = backend.recognizer.job(TranscriptionRequest(noise)).recording.next_windows(1)[0]
    for keywords in ((), ("Kubernetes", "Istio")):
        options = DecodingOptions(language="en", keywords=keywords, words=True)
        model.alignment(ActiveWindow(None, window, options, encoder_output=0.0), tokens)  # type: ignore[arg-type]
    assert len(seen) == 2
    assert seen[0] == seen[1]


@pytest.mark.parametrize("engine", ["onnx", "torch"])
def test_the_language_is_detected_among_those_allowed(multilingual: Reference, noise: np.ndarray, engine: str) -> None:
    model: Whisper = load_whisper(multilingual.folder, engine=engine)
    output = model.encode([noise])[0]
    best, _ = model.detect_language(output)
    others = [code for code in model.special.languages if code != best][:2]
    found, probability = model.detect_language(output, among=others)
    assert found in others
    assert probability > 0.5
    assert model.detect_language(output, among=[best, *others])[0] == best


def test_a_restriction_reaches_the_answer_and_counts_more_than_the_configured_language(
    backend: WhisperBackend, noise: np.ndarray
) -> None:
    def language(**fields: Any) -> str | None:
        request = TranscriptionRequest(noise, temperature=0.1, options={"max_tokens": 2}, **fields)
        done = finish(backend, [backend.start(request)])[0][-1]
        assert isinstance(done, Done)
        return done.language

    assert language() == "de"
    known = [code for code in backend.whisper.special.languages if code != "de"][:2]
    assert language(languages=tuple(known)) in known
    assert language(languages=(known[0],)) == known[0]
    with pytest.raises(InvalidInput) as told:
        language(languages=("en", "klingon"))
    assert told.value.param == "languages"
