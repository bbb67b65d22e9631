"""Segmentation, embedding, clustering and turns against an independent implementation of the same method."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from backends import children
from backends.diarization.clustering import SpeakerLimits
from backends.diarization.diarizer import Diarizer, open_diarizer
from backends.diarization.info import DiarizationOptions
from backends.diarization.recording import Recording, Voice
from backends.diarization.windows import clean_seconds
from backends.interface import Turn
from tests.backends.diarization.conversations import Conversation, Piece, converse, error_rate
from tests.support.waiting import LIMIT

pytestmark = [
    pytest.mark.real_weights,
    pytest.mark.skipif(
        sys.platform != "linux" or platform.machine() != "x86_64", reason="the other implementation is a Linux library"
    ),
]


class Theirs(NamedTuple):
    """active: bool [windows, frames, 3]; embeddings: float32 [windows, 3, 256], windows a second apart."""

    active: np.ndarray
    embeddings: np.ndarray
    turns: list[Turn]


@pytest.fixture(scope="module")
def talk(voices: dict[str, list[Piece]]) -> Conversation:
    return converse([voices["reader"], voices["woman"]], 4, seed=1, overlap=0.5)


@pytest.fixture(scope="module")
def theirs(talk: Conversation, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Theirs:
    folder = tmp_path_factory.mktemp("oracle")
    np.save(folder / "talk.npy", talk.samples)
    command = children.command("tests.backends.diarization.oracle", str(folder / "talk.npy"), str(folder / "found.npz"))
    subprocess.run(command, env=children.environment(), cwd=folder, check=True, timeout=LIMIT)
    with np.load(folder / "found.npz") as found:
        turns = [Turn(float(start), float(end), int(speaker)) for start, end, speaker in found["turns"]]
        return Theirs(found["active"], found["embeddings"], turns)


@pytest.fixture(scope="module")
def alike(weights: Path) -> Diarizer:
    """Ours with their settings: windows a second apart, no turn dropped, no pause bridged."""
    return open_diarizer(weights, DiarizationOptions(window_step=1.0, min_turn=0.0, max_pause=0.0), threads=1)


@pytest.fixture(scope="module")
def ours(alike: Diarizer, talk: Conversation) -> Recording:
    recording = alike.recording(talk.samples)
    while not recording.done:
        recording.advance(8)
    return recording


def test_the_segmentation_is_the_same(ours: Recording, theirs: Theirs) -> None:
    np.testing.assert_array_equal(np.stack(ours.active), theirs.active)


def test_an_embedding_is_nearly_the_same(ours: Recording, theirs: Theirs) -> None:
    """Theirs has the mean of its window taken off and a mask interpolated to frames, ours the mean of a block and a
    mask of eight frames each."""
    cosines = [
        float(one.embedding @ other / np.linalg.norm(one.embedding) / np.linalg.norm(other))
        for one in ours.voices
        if one.clean >= 2.0
        for other in (theirs.embeddings[one.window, one.place],)
    ]
    assert len(cosines) > 10
    assert np.median(cosines) > 0.98
    assert min(cosines) > 0.93


def test_clusters_and_turns_of_the_same_embeddings_are_the_same(
    alike: Diarizer, talk: Conversation, theirs: Theirs
) -> None:
    recording = alike.recording(talk.samples)
    recording.active = list(theirs.active)
    recording.voices = [
        Voice(window, place, float(clean_seconds(active)[place]), theirs.embeddings[window, place])
        for window, active in enumerate(theirs.active)
        for place in np.flatnonzero(active.any(0)).tolist()
        if np.isfinite(theirs.embeddings[window, place]).all()
    ]
    found = alike.speaker_turns(recording, SpeakerLimits())
    assert len({turn.speaker for turn in found.turns}) == len({turn.speaker for turn in theirs.turns}) == 2
    assert error_rate(theirs.turns, found.turns, talk.duration, collar=0) < 0.01


def test_the_whole_is_the_same_within_the_collar(
    alike: Diarizer, ours: Recording, talk: Conversation, theirs: Theirs
) -> None:
    found = alike.speaker_turns(ours, SpeakerLimits())
    assert error_rate(theirs.turns, found.turns, talk.duration) < 0.02
