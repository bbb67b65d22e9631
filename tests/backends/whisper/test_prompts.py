"""What a client's prompt may do: repetitions are cut out of it, and it hides nothing that was said."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from backends.interface import Done, ModelFiles, Placement, TranscriptionRequest
from backends.registry import check_options
from backends.whisper.backend import WhisperBackend
from backends.whisper.decoding import WindowResult, WindowTask
from backends.whisper.info import INFO
from backends.whisper.network import Network
from backends.whisper.prompts import is_echo, is_fuller, is_made_up
from backends.whisper.repetition import without_repeats
from tests.backends.whisper.checkpoints import Reference
from tests.support.drive import finish


@pytest.mark.parametrize(
    ("tokens", "kept"),
    [
        ([1, 2] * 12, [1, 2]),
        ([1, 2] * 3, [1, 2]),
        ([7] * 5, [7]),
        ([9, 1, 2, 3, 1, 2, 3, 1, 2, 3, 8], [9, 1, 2, 3, 8]),
        ([1, 2, 3, 4, 1, 2, 3, 4, 5], [1, 2, 3, 4, 5]),
        ([1, 2, 1, 2, 3], [1, 2, 1, 2, 3]),
        ([5, 5, 6], [5, 5, 6]),
        ([1, 2, 3], [1, 2, 3]),
        ([], []),
    ],
)
def test_what_comes_several_times_in_a_row_is_used_once(tokens: list[int], kept: list[int]) -> None:
    assert without_repeats(tokens) == kept


def test_an_echo_is_nothing_or_made_of_the_prompts_words() -> None:
    assert is_echo("", "Okay.")
    assert is_echo(" okay, OKAY ", "Okay.")
    assert not is_echo("Okay then", "Okay.")
    assert not is_echo("Okay", "")


def test_much_more_text_counts_only_where_the_prompt_hid_it() -> None:
    assert is_fuller("we meet again", "okay")
    assert is_fuller("we", "")
    assert not is_fuller("cooper netties", "Kubernetes")
    assert not is_fuller("", "")


def test_keywords_alone_are_no_answer_where_nothing_else_is_recognised() -> None:
    assert is_made_up("Kubernetes, Istio.", "", "Istio Kubernetes")
    assert not is_made_up("Kubernetes", "cooper netties", "Kubernetes")
    assert not is_made_up("Kubernetes fails", "", "Kubernetes")
    assert not is_made_up("Okay", "", "")


@pytest.fixture
def backend(multilingual: Reference) -> WhisperBackend:
    """Hears "fox" after a prompt, "the fox jumps" without one."""
    folder = multilingual.folder
    options = check_options(INFO, {"vad": False})
    whisper = WhisperBackend()
    whisper.load(
        ModelFiles("w", str(folder), folder, folder.parent, folder.parent, options), Placement(dtype="float32")
    )
    model = whisper.whisper

    def decode(network: Network, tasks: Sequence[WindowTask]) -> list[WindowResult]:
        texts = [" fox" if model.special.previous in task.prompt else " the fox jumps" for task in tasks]
        tokens = [model.tokenizer.encode(text) for text in texts]
        return [WindowResult(one, [-0.1] * len(one)) for one in tokens]

    model.windows.decode_batch = decode  # type: ignore[method-assign]
    return whisper


@pytest.mark.parametrize(
    ("prompt", "text", "notes"),
    [
        ("", " the fox jumps", ()),
        ("fox", " the fox jumps", ("with the prompt",)),
        ("dog", " fox", ()),
        ("dog dog dog dog", " fox", ("the prompt repeats itself",)),
        ("fox fox fox fox", " the fox jumps", ("the prompt repeats itself", "with the prompt")),
    ],
)
def test_an_answer_of_the_prompts_words_is_decoded_again_without_it(
    backend: WhisperBackend, prompt: str, text: str, notes: tuple[str, ...]
) -> None:
    samples = np.random.default_rng(0).standard_normal(48_000).astype(np.float32) * np.float32(0.1)
    events = finish(backend, [backend.start(TranscriptionRequest(samples, language="en", prompt=prompt))])[0]
    done = events[-1]
    assert isinstance(done, Done)
    assert done.text == text
    assert len(done.notes) == len(notes)
    assert all(note.startswith(begun) for note, begun in zip(done.notes, notes, strict=True))


@pytest.mark.parametrize(
    ("keywords", "without", "text", "hidden"),
    [
        (("fox",), " the fox jumps", " the fox jumps", True),
        (("fox",), "", "", True),
        (("fox",), " fog", " fox", False),
        (("dog",), " the fox jumps", " fox", False),
    ],
)
def test_keywords_hide_nothing_and_make_no_text_of_silence(
    backend: WhisperBackend, keywords: tuple[str, ...], without: str, text: str, hidden: bool
) -> None:
    """Hears "fox" with the keywords."""
    model = backend.whisper

    def decode(network: Network, tasks: Sequence[WindowTask]) -> list[WindowResult]:
        texts = [" fox" if model.special.previous in task.prompt else without for task in tasks]
        tokens = [model.tokenizer.encode(text) for text in texts]
        return [WindowResult(one, [-0.1] * len(one)) for one in tokens]

    model.windows.decode_batch = decode  # type: ignore[method-assign]
    samples = np.random.default_rng(0).standard_normal(48_000).astype(np.float32) * np.float32(0.1)
    events = finish(backend, [backend.start(TranscriptionRequest(samples, language="en", keywords=keywords))])[0]
    done = events[-1]
    assert isinstance(done, Done)
    assert done.text == text
    assert any(note.startswith("with the prompt") for note in done.notes) is hidden
