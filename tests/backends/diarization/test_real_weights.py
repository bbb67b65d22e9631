"""Who speaks when in conversations of real voices, with the real networks."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from backends.diarization.backend import DiarizationBackend
from backends.diarization.clustering import SpeakerLimits
from backends.diarization.diarizer import Diarizer
from backends.diarization.encoder_parts import _as_onnx
from backends.diarization.fbank import fbank
from backends.diarization.recording import Recording, embed_clip
from backends.interface import ASR_SAMPLE_RATE, DiarizationRequest, Done, Progress, Samples, SpeakerTurns, Turn
from backends.onnx_session import open_session
from tests.backends.diarization.conftest import KNOWN
from tests.backends.diarization.conversations import Conversation, Piece, converse, error_rate
from tests.support.drive import run

pytestmark = pytest.mark.real_weights

Voices = dict[str, list[Piece]]


def turns_of(backend: DiarizationBackend, samples: Samples, **fields: object) -> SpeakerTurns:
    (events,) = run(backend, DiarizationRequest(samples, **fields))  # type: ignore[arg-type]
    (found,) = (event for event in events if isinstance(event, SpeakerTurns))
    return found


def speakers(found: SpeakerTurns) -> int:
    return len({turn.speaker for turn in found.turns})


class Processed(NamedTuple):
    """A conversation that went through the networks."""

    talk: Conversation
    recording: Recording


def process(diarizer: Diarizer, talk: Conversation) -> Processed:
    recording = diarizer.recording(talk.samples)
    while not recording.done:
        recording.advance(8)
    return Processed(talk, recording)


@pytest.fixture(scope="module")
def two(diarizer: Diarizer, voices: Voices) -> Processed:
    return process(diarizer, converse([voices["reader"], voices["woman"]], 8, seed=1))


@pytest.fixture(scope="module")
def three(diarizer: Diarizer, voices: Voices) -> Processed:
    return process(diarizer, converse([voices["reader"], voices["man"], voices["woman"]], 8, seed=0, overlap=0.3))


@pytest.mark.parametrize(("name", "count"), [("two", 2), ("three", 3)])
def test_real_voices_are_told_apart_without_their_number(
    diarizer: Diarizer, name: str, count: int, request: pytest.FixtureRequest
) -> None:
    talk, recording = request.getfixturevalue(name)
    found = diarizer.speaker_turns(recording, SpeakerLimits())
    assert speakers(found) == count
    assert error_rate(talk.turns, found.turns, talk.duration) < 0.10
    assert error_rate(talk.turns, found.turns, talk.duration, collar=0) < 0.10
    assert error_rate(talk.turns, found.exclusive, talk.duration) < 0.10
    assert found.turns[0].speaker == 0


def test_a_long_recording_has_no_more_speakers_than_a_short_one(diarizer: Diarizer, three: Processed) -> None:
    """As much to hear of each as if the conversation had been six times as long."""
    clean = np.stack([voice.embedding for voice in three.recording.voices if voice.clean >= 2.0])
    assert len(diarizer.clustering.centroids(np.concatenate([clean] * 6), SpeakerLimits())) == 3


def test_what_lies_between_two_parts_makes_no_more_speakers(diarizer: Diarizer, voices: Voices) -> None:
    time = np.arange(30 * ASR_SAMPLE_RATE) / ASR_SAMPLE_RATE
    tones = sum(
        np.sin(2 * np.pi * pitch * time) * (np.sin(2 * np.pi * rate * time) > 0)
        for pitch, rate in ((220, 0.5), (277, 0.7), (330, 1.1), (440, 2))
    )
    first, last = (converse([voices["reader"], voices["woman"]], 6, seed=seed) for seed in (22, 23))
    late = first.duration + 30
    turns = (*first.turns, *(Turn(one.start + late, one.end + late, one.speaker) for one in last.turns))
    sound = np.concatenate([first.samples, (0.03 * tones).astype(np.float32), last.samples])
    found = diarizer.speaker_turns(process(diarizer, Conversation(sound, turns)).recording, SpeakerLimits())
    assert speakers(found) == 2
    assert error_rate(turns, found.turns, len(sound) / ASR_SAMPLE_RATE) < 0.10


@pytest.mark.parametrize("count", [1, 2, 4])
def test_the_number_of_speakers_can_be_told(diarizer: Diarizer, three: Processed, count: int) -> None:
    assert speakers(diarizer.speaker_turns(three.recording, SpeakerLimits(count, count))) == count


def test_one_voice_is_one_speaker(backend: DiarizationBackend, voices: Voices) -> None:
    assert speakers(turns_of(backend, np.concatenate([piece.samples for piece in voices["reader"][:3]]))) == 1


def test_what_is_no_voice_is_nobody(backend: DiarizationBackend) -> None:
    time = np.arange(10 * ASR_SAMPLE_RATE) / ASR_SAMPLE_RATE
    noise = np.random.default_rng(0).standard_normal(len(time))
    chord = sum(np.sin(2 * np.pi * pitch * time) for pitch in (220, 277, 330)) * (np.sin(2 * np.pi * 2 * time) > 0)
    for sound in (np.zeros(len(time)), 0.05 * noise, 0.1 * chord):
        assert speakers(turns_of(backend, sound.astype(np.float32))) <= 1
    assert turns_of(backend, np.zeros(ASR_SAMPLE_RATE // 10, np.float32)) == SpeakerTurns()


def test_known_speakers_are_named_in_either_order_and_strangers_are_not(
    diarizer: Diarizer, two: Processed, voices: Voices
) -> None:
    reader, woman, man = (diarizer.embed(voices[name][-1].samples) for name in ("reader", "woman", "man"))
    nobody = diarizer.embed(np.zeros(3 * ASR_SAMPLE_RATE, np.float32))
    assert nobody is None
    for known, expected in (
        ((reader, woman), (0, 1)),
        ((woman, reader), (1, 0)),
        ((man, reader), (-1, 0)),
        ((nobody, woman), (-1, 1)),
    ):
        assert diarizer.speaker_turns(two.recording, SpeakerLimits(), known).known == expected


def test_an_embedding_is_that_of_the_whole_network(diarizer: Diarizer, weights: Path, voices: Voices) -> None:
    """Cut in two, with statistics gathered piece by piece, against the graph as it is published."""
    clip = voices["reader"][0].samples[: 3 * ASR_SAMPLE_RATE]
    mels = fbank(clip)[: len(clip) // 1280 * 8]
    mels = mels - mels.mean(0)
    whole = open_session(_as_onnx(weights / "embedding.ort").SerializeToString(), 1)
    weighted = np.ones((1, len(mels)), np.float32)
    expected = whole.run(None, {"fbank": mels[None], "weights": weighted})[0][0]
    features = diarizer.encoder.features(clip)
    gathered = None
    for part in np.array_split(features[: len(mels) // 8], 3):
        gathered = diarizer.encoder.gathered(gathered, part)
    found = diarizer.encoder.embedding(gathered)
    assert np.dot(found, expected) / np.linalg.norm(found) / np.linalg.norm(expected) > 0.999
    assert embed_clip(np.zeros(32_000, np.float32), diarizer.segmenter, diarizer.encoder) is None


def test_a_step_is_a_batch_of_windows_and_tells_how_far_it_is(
    backend: DiarizationBackend, two: Processed, voices: Voices
) -> None:
    request = DiarizationRequest(two.talk.samples, references=(voices["reader"][0].samples,))
    job = backend.start(request)
    seen: list[object] = []
    while not any(isinstance(event, Done) for event in seen):
        before = job.recording.windows_done
        seen += [event for _, event in backend.step([job])]
        assert job.recording.windows_done - before <= 8
    backend.close(job)
    assert [event.done for event in seen if isinstance(event, Progress)][-1] == job.recording.grid.windows
    (found,) = (event for event in seen if isinstance(event, SpeakerTurns))
    assert found.known == (0,)
    assert isinstance(seen[-1], Done)
    assert seen[-1].usage.audio_seconds == pytest.approx(two.talk.duration)


def test_the_files_are_cut_out_of_the_package_and_their_digests_known(weights: Path) -> None:
    names = {file.name for file in KNOWN.variants[0].files}
    assert names <= {path.name for path in weights.iterdir()}
