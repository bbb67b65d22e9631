"""Clips without codes: imported for beside running jobs, encoded one per step, refused or failed alone, cancelled."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from backends import messages
from backends.interface import AudioChunk, Done, Failed, InvalidInput, SpeechRequest, VoiceSample
from backends.llasa import cloning
from backends.llasa.backend import LlasaBackend
from backends.llasa.xcodec2.encoder import import_semantic_model
from backends.worker import StepLoop, WorkerProgress
from tests.backends.llasa.folders import write_codec
from tests.backends.llasa.speaking import audio, clip, loaded, spoken
from tests.support.drive import finish, run

CLONE = SpeechRequest(
    "One two.", "default", seed=5, options={"max_new_tokens": 20}, reference=VoiceSample(clip(), "The fox.")
)
TALK = SpeechRequest("Much text.", "default", seed=8, stream=True, options={"max_new_tokens": 200})


@pytest.fixture
def backend(tmp_path: Path, lm_folder: Path, codec_folder: Path) -> LlasaBackend:
    return loaded(tmp_path, lm_folder, codec_folder, max_batch=4, retries=0)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """The import is not over before this is set."""
    opened = threading.Event()

    def slow() -> None:
        opened.wait()
        import_semantic_model()

    monkeypatch.setattr(cloning, "import_semantic_model", slow)
    monkeypatch.setattr(cloning, "_IMPORT_WAIT", 0.001)
    yield opened
    opened.set()


def other(request: SpeechRequest, **changed: Any) -> SpeechRequest:
    return SpeechRequest(**{**{name: getattr(request, name) for name in SpeechRequest.__slots__}, **changed})


def test_a_running_job_makes_audio_while_another_waits_for_the_import(
    backend: LlasaBackend, gate: threading.Event, tmp_path: Path, lm_folder: Path, codec_folder: Path
) -> None:
    talking, cloned = backend.start(TALK), backend.start(CLONE)
    events = [event for _ in range(60) for event in backend.step([talking, cloned])]
    assert [job for job, _ in events] == [talking] * len(events), "nothing comes of a job that waits"
    assert sum(isinstance(event, AudioChunk) for _, event in events) > 0
    assert talking.running()[0].produced >= 55, "a token in every step, after those that its prompt takes"
    assert not cloned.running()
    assert not backend.codec.encoder_loaded
    gate.set()
    rest, answer = finish(backend, [talking, cloned])
    again = loaded(tmp_path, lm_folder, codec_folder)
    np.testing.assert_array_equal(audio([*(event for _, event in events), *rest])[0], spoken(again, TALK)[0])
    np.testing.assert_array_equal(audio(answer)[0], spoken(again, CLONE)[0])
    done = answer[-1]
    assert isinstance(done, Done)
    assert done.timings["encode"] > 0


def test_a_clip_of_a_request_sounds_like_its_codes(backend: LlasaBackend) -> None:
    backend.codec.load_encoder()
    job = backend.start(CLONE)
    assert job.voice.anchored
    while job.clip is not None:
        list(backend.step([job]))
    assert job.voice.reference.codes == tuple(backend.codec.encode(clip())[0, 0].tolist())
    backend.close(job)


def test_nothing_is_imported_for_those_who_never_clone_or_are_refused(
    backend: LlasaBackend, gate: threading.Event
) -> None:
    spoken(backend, SpeechRequest("One.", "default", seed=1, options={"max_new_tokens": 5}))
    with pytest.raises(InvalidInput, match="nothing is left for speech"):
        backend.start(other(CLONE, options={"max_length": 64}))
    assert backend._cloning._library._thread is None


def test_a_job_that_waits_can_be_cancelled(backend: LlasaBackend, gate: threading.Event) -> None:
    given_up = backend.start(CLONE)
    for _ in range(3):
        assert list(backend.step([given_up])) == []
    assert not given_up.running()
    backend.close(given_up)
    assert backend.loop.free == 4
    assert isinstance(run(backend, SpeechRequest("One.", "default", options={"max_new_tokens": 5}))[0][-1], Done)
    gate.set()
    assert isinstance(run(backend, CLONE)[0][-1], Done)


def test_an_import_that_fails_fails_who_waits_for_it_and_the_next_one_tries_again(
    backend: LlasaBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "transformers", None)
        jobs = [backend.start(request) for request in (TALK, CLONE, CLONE)]
        while not (failed := [pair for pair in backend.step(jobs) if isinstance(pair[1], Failed)]):
            pass
    assert [job for job, _ in failed] == jobs[1:]
    for job, event in failed:
        assert event.kind == "model_unavailable"
        assert "cloning needs transformers" in event.message
        backend.close(job)
    assert isinstance(finish(backend, jobs[:1])[0][-1], Done)
    assert isinstance(run(backend, CLONE)[0][-1], Done)


def test_a_codec_without_an_encoder_fails_clones_only(
    tmp_path: Path, lm_folder: Path, codec_tensors: dict[str, torch.Tensor]
) -> None:
    decoder = {name: tensor for name, tensor in codec_tensors.items() if not name.startswith("CodecEnc")}
    backend = loaded(tmp_path, lm_folder, write_codec(tmp_path / "codec", decoder), max_batch=4)
    cloned, talked = run(backend, CLONE, TALK)
    assert isinstance(cloned[-1], Failed)
    assert cloned[-1].kind == "model_unavailable"
    assert isinstance(talked[-1], Done)


def test_a_clip_that_leaves_no_room_fails_its_own_job_only(backend: LlasaBackend) -> None:
    crowded = other(CLONE, options={"max_length": 110})
    refused, cloned, talked = run(backend, crowded, CLONE, TALK)
    assert len(refused) == 1
    assert isinstance(refused[0], Failed)
    assert (refused[0].kind, refused[0].param) == ("invalid_input", "input")
    assert "of 110 tokens; nothing is left for speech" in refused[0].message
    assert isinstance(cloned[-1], Done)
    np.testing.assert_array_equal(audio(talked)[0], spoken(backend, TALK)[0])


def test_one_clip_is_encoded_per_step(backend: LlasaBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = counted(backend, monkeypatch)
    jobs = [backend.start(TALK), *(backend.start(other(CLONE, seed=seed)) for seed in range(3))]
    while not backend.codec.encoder_loaded:
        list(backend.step(jobs[1:]))
    assert encoded == [], "reading the weights is a step of its own"
    for number in range(1, 4):
        list(backend.step(jobs))
        assert len(encoded) == number
    assert jobs[0].running()[0].ready, "its prompt went on meanwhile"
    for events in finish(backend, jobs):
        assert isinstance(events[-1], Done)
    assert len(encoded) == 3


def test_the_clip_of_a_folder_is_encoded_once_for_all_who_wait(
    backend: LlasaBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = counted(backend, monkeypatch)
    place = backend.voices.folder / "anna"  # put there after the start, which would have loaded the encoder
    place.mkdir(parents=True)
    soundfile.write(place / "clip.wav", clip(), 16_000, subtype="FLOAT")
    (place / "transcript.txt").write_text("The fox.", encoding="utf-8")
    named = other(CLONE, voice="anna", reference=None)
    answers = [audio(events)[0] for events in run(backend, named, named)]
    assert len(encoded) == 1
    assert (place / "xcodec2_codes.json").is_file()
    for answer in answers:
        np.testing.assert_array_equal(answer, spoken(backend, CLONE)[0])


def test_the_worker_starts_a_job_before_its_clip_and_isolates_a_clip_that_breaks(
    backend: LlasaBackend, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[messages.Message] = []
    loop = StepLoop(backend, Recorder(sent), WorkerProgress(), 4)  # type: ignore[arg-type]
    for number, request in enumerate((TALK, CLONE)):
        loop.add(number, request)
    loop.turn()
    assert sent == [messages.JobStarted(0), messages.JobStarted(1)]
    monkeypatch.setattr(backend.codec, "encode", broken)
    gate.set()
    while not loop.idle:
        loop.turn()
    last = {report.job: report.event for report in sent if isinstance(report, messages.JobEvent)}
    assert isinstance(last[0], Done)
    assert last[1] == Failed("internal", "ValueError: broken")
    np.testing.assert_array_equal(
        audio([report.event for report in sent if isinstance(report, messages.JobEvent) and not report.job])[0],
        spoken(backend, TALK)[0],
    )


class Recorder:
    """The worker's outbox as a list."""

    def __init__(self, sent: list[messages.Message]) -> None:
        self.send = sent.append


def broken(samples: np.ndarray) -> torch.Tensor:
    raise ValueError("broken")


def counted(backend: LlasaBackend, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that grows with every clip that is encoded."""
    lengths: list[int] = []
    encode = backend.codec.encode

    def encode_counted(samples: Any) -> torch.Tensor:
        lengths.append(len(samples))
        return encode(samples)

    monkeypatch.setattr(backend.codec, "encode", encode_counted)
    return lengths
