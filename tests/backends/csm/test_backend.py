"""CSM through the backend contract: streaming, seeds, batches, context, voices, caps, ends and errors."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import save_file

from backends.csm.backend import CsmBackend
from backends.csm.mimi.layouts import moshi_config
from backends.interface import (
    AudioChunk,
    BackendError,
    ChatRequest,
    ContextTurn,
    Done,
    InvalidInput,
    ModelFiles,
    ModelUnavailable,
    Placement,
    SpeechRequest,
    VoiceSample,
)
from backends.registry import backend_info, check_options
from scripts.fixtures.tiny_csm import CODEC
from tests.backends.csm.paths import KEY, MARK
from tests.support.drive import done_of, run, samples_of

SHORT = {"max_seconds": 1.0}
HELLO = SpeechRequest("Hello there.", "0", seed=5, stream=True, options=SHORT)


def loaded(folder: Path, base: Path, **options: Any) -> CsmBackend:
    backend = CsmBackend()
    options = check_options(backend_info("csm"), {"watermark": False, **options})
    backend.capabilities = backend.load(  # type: ignore[attr-defined]
        ModelFiles("csm", str(folder), folder, base / "models", base / "user", options), Placement()
    )
    return backend


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """models/voices/anna and a broken voice."""
    base = tmp_path_factory.mktemp("place")
    anna = base / "models" / "voices" / "anna"
    anna.mkdir(parents=True)
    time = np.arange(44_100) / 44_100
    tone = 0.3 * np.sin(2 * np.pi * 300 * time)
    soundfile.write(anna / "clip.wav", np.stack([tone, tone * 0.5], 1), 44_100)
    (anna / "transcript.txt").write_text("This is Anna.", encoding="utf-8")
    (anna / "speaker.txt").write_text("4", encoding="utf-8")
    mute = base / "models" / "voices" / "mute"
    mute.mkdir()
    soundfile.write(mute / "clip.wav", tone, 44_100)
    return base


@pytest.fixture(scope="module")
def backend(tiny: Path, place: Path) -> CsmBackend:
    return loaded(tiny, place)


def speak(backend: CsmBackend, *requests: SpeechRequest) -> list[tuple[np.ndarray, Done, int]]:
    """All requests at once: samples, last event and number of chunks of each."""
    answers = run(backend, *requests)
    chunks = [[event for event in events if isinstance(event, AudioChunk)] for events in answers]
    assert {chunk.rate for part in chunks for chunk in part} == {24_000}
    return [(samples_of(events), done_of(events), len(part)) for events, part in zip(answers, chunks, strict=True)]


def samples(backend: CsmBackend, request: SpeechRequest) -> np.ndarray:
    return speak(backend, request)[0][0]


def test_speaks_in_pieces_and_reports(backend: CsmBackend) -> None:
    audio, done, chunks = speak(backend, HELLO)[0]
    assert chunks > 2
    assert 1920 < len(audio) <= 24_000
    assert 0.01 < audio.std() < 0.5
    assert np.abs(audio).max() <= 1.0
    assert done.seed == 5
    assert done.usage.output_audio_tokens == done.usage.output_tokens == 12
    assert done.usage.input_tokens == 2 + len("[0]Hello there.")
    assert done.finish_reason == "length"
    assert {"frames", "sound", "total"} <= set(done.timings)


def test_the_first_sound_comes_after_two_frames(backend: CsmBackend) -> None:
    job = backend.start(HELLO)
    first = [list(backend.step([job])) for _ in range(2)]
    backend.close(job)
    assert [len(events) for events in first] == [0, 1]


def test_streamed_samples_equal_whole_ones(backend: CsmBackend) -> None:
    assert np.array_equal(samples(backend, HELLO), samples(backend, replace(HELLO, stream=False)))


def test_eight_requests_give_what_each_gives_alone(backend: CsmBackend) -> None:
    """Four slots, two rounds; texts, seeds and settings differ."""
    requests = [
        SpeechRequest(
            f"Text {'x' * i}.", str(i), seed=i, options={"max_seconds": 0.4 + 0.2 * i, "temperature": 0.3 * i}
        )
        for i in range(4)
    ]
    together = speak(backend, *requests)
    for request, (audio, _, _) in zip(requests, together, strict=True):
        assert np.array_equal(samples(backend, request), audio)


def test_seeds(backend: CsmBackend) -> None:
    assert not np.array_equal(samples(backend, HELLO), samples(backend, replace(HELLO, seed=6)))
    unseeded = speak(backend, replace(HELLO, seed=None))[0]
    again = replace(HELLO, seed=unseeded[1].seed)
    assert np.array_equal(samples(backend, again), unseeded[0])


def test_a_cancelled_job_frees_its_slot(backend: CsmBackend) -> None:
    for _ in range(6):
        job = backend.start(HELLO)
        list(backend.step([job]))
        backend.close(job)
    assert backend.batch.cache.free == 4


def test_voices_and_cloning(backend: CsmBackend, place: Path) -> None:
    anna = samples(backend, replace(HELLO, voice="anna"))
    assert np.array_equal(samples(backend, replace(HELLO, voice="anna")), anna)
    assert not np.array_equal(anna, samples(backend, replace(HELLO, voice="4")))
    assert (place / "models" / "voices" / "anna" / "codes.safetensors").is_file()
    clip, rate = soundfile.read(place / "models" / "voices" / "anna" / "clip.wav", dtype="float32")
    sample = VoiceSample(clip[: rate // 2, 0], "Something else.")
    assert not np.array_equal(samples(backend, replace(HELLO, reference=sample)), samples(backend, HELLO))
    listed = [voice.id for voice in backend.capabilities.voices]  # type: ignore[attr-defined]
    assert listed[:2] == ["anna", "mute"]
    assert listed[2:] == [str(number) for number in range(10)]


def test_folders_of_voices_that_cannot_be_read_say_why(backend: CsmBackend, place: Path) -> None:
    """Text in another encoding, a clip without samples, and one that is no audio at all."""
    wrong = {
        "ansi": ("transcript.txt", np.ones(2400, np.float32), b"caf\xe9"),
        "empty": ("holds no sound", np.zeros(0, np.float32), b"Nothing."),
        "broken": ("cannot be read", None, b"Nothing."),
    }
    for name, (message, clip, transcript) in wrong.items():
        folder = place / "models" / "voices" / name
        folder.mkdir()
        (folder / "transcript.txt").write_bytes(transcript)
        (folder / "clip.wav").write_bytes(b"no audio")
        if clip is not None:
            soundfile.write(folder / "clip.wav", clip, 24_000)
        with pytest.raises(InvalidInput, match=message) as caught:
            backend.start(replace(HELLO, voice=name))
        assert caught.value.param == "voice"
        shutil.rmtree(folder)


def test_cached_codes_are_used_and_damage_is_named(tiny: Path, place: Path) -> None:
    first = samples(loaded(tiny, place), replace(HELLO, voice="anna"))
    other = loaded(tiny, place)
    other.codec.encode = None  # type: ignore[assignment,method-assign]
    assert np.array_equal(samples(other, replace(HELLO, voice="anna")), first)
    cached = place / "models" / "voices" / "anna" / "codes.safetensors"
    kept = cached.read_bytes()
    cached.write_bytes(b"damaged")
    try:
        with pytest.raises(ModelUnavailable, match=r"codes\.safetensors is damaged"):
            loaded(tiny, place).start(replace(HELLO, voice="anna"))
    finally:
        cached.write_bytes(kept)


def test_an_earlier_answer_is_remembered_as_codes(backend: CsmBackend) -> None:
    """Context by answer id equals the context of exactly those codes, and is never encoded again."""
    speak(backend, replace(HELLO, answer_id="first"))
    encode, backend.codec.encode = backend.codec.encode, None  # type: ignore[assignment,method-assign]
    try:
        turn = ContextTurn("0", "", answer_id="first")
        follow = samples(backend, replace(HELLO, text="And now?", voice="1", context=(turn,)))
        assert not np.array_equal(follow, samples(backend, replace(HELLO, text="And now?", voice="1")))
    finally:
        backend.codec.encode = encode  # type: ignore[method-assign]
    (segment,) = backend.history.segments("first")
    assert (segment.speaker, segment.text, segment.codes.shape) == (0, "Hello there.", (8, 12))


def test_two_speakers_with_audio_context(backend: CsmBackend) -> None:
    generator = np.random.default_rng(0)
    turns = tuple(
        ContextTurn(speaker, f"Turn of {speaker}.", 0.2 * generator.standard_normal(9_600).astype(np.float32))
        for speaker in ("0", "anna")
    )
    with_context = samples(backend, replace(HELLO, context=turns))
    assert not np.array_equal(with_context, samples(backend, HELLO))
    assert not np.array_equal(with_context, samples(backend, replace(HELLO, context=turns[:1])))


def test_long_text_is_spoken_sentence_by_sentence(backend: CsmBackend) -> None:
    long = " ".join(
        f"This is sentence number {i}, and it is long enough that no other one is joined to it." for i in range(3)
    )
    audio, done, _ = speak(backend, replace(HELLO, text=long, answer_id="long"))[0]
    assert done.usage.output_tokens == 3 * 12
    assert [segment.text[24] for segment in backend.history.segments("long")] == ["0", "1", "2"]
    assert len(audio) > 1.5 * 24_000


def test_wrong_requests(backend: CsmBackend) -> None:
    noise = np.zeros(2400, np.float32)
    wrong = {
        "input": [replace(HELLO, text="🙂"), replace(HELLO, text="a" * 4097)],
        "voice": [
            replace(HELLO, voice="nobody"),
            replace(HELLO, voice="mute"),
            replace(HELLO, voice="../anna"),
            replace(HELLO, voice="a" * 250),
            replace(HELLO, voice="\u00e9" * 200),
            replace(HELLO, voice="a" * 5000),
        ],
        "reference_text": [replace(HELLO, reference=VoiceSample(noise, " "))],
        "options": [
            replace(HELLO, options=options)
            for options in (
                {"top_p": 1},
                {"temperature": -1},
                {"top_k": 1.5},
                {"max_seconds": "long"},
                {"temperature": True},
            )
        ],
        "context": [
            replace(HELLO, context=(turn,))
            for turn in (
                ContextTurn("0", "Text only."),
                ContextTurn("0", "", noise),
                ContextTurn("zed", "Who?", noise),
                ContextTurn("0", "", answer_id="never"),
                ContextTurn("0", "Too long.", np.ones(200 * 24_000, np.float32) * 0.1),
            )
        ],
    }
    for param, requests in wrong.items():
        for request in requests:
            with pytest.raises(InvalidInput) as caught:
                backend.start(request)
            assert caught.value.param == param
    with pytest.raises(InvalidInput, match="only speaks"):
        backend.start(ChatRequest(()))
    assert backend.batch.cache.free == 4


def speaking_codes(backend: CsmBackend, frames: Sequence[Sequence[int]]) -> tuple[np.ndarray, Done, int]:
    """A run in which the model says exactly these frames."""
    spoken = iter(frames)
    backend.batch._depth = lambda hidden, *_: torch.tensor([next(spoken)])  # type: ignore[assignment]
    return speak(backend, replace(HELLO, options={"max_seconds": 5.0}))[0]


def test_ends_of_speech(tiny: Path, place: Path) -> None:
    """The all-zero frame over all codebooks ends it (nearly zero does not), repetition ends it, nothing is a short
    silence."""
    backend = loaded(tiny, place)
    varied = [[i % 30, 3, 5, 1, 2, 9, 8, 7] for i in range(6)]
    audio, done, _ = speaking_codes(backend, [*varied, [0] * 7 + [4], *varied, [0] * 8])
    assert done.usage.output_tokens == 13
    assert done.finish_reason == "stop"
    audio, done, _ = speaking_codes(backend, [*varied, *[[1] * 8] * 50])
    assert done.usage.output_tokens == 6 + 8
    audio, done, _ = speaking_codes(backend, [[0] * 8])
    assert len(audio) == 2400
    assert not audio.any()
    assert "said nothing" in done.notes[0]


def test_silence_ends_the_speech_and_is_cut(tiny: Path, place: Path) -> None:
    backend = loaded(tiny, place)
    varied = [[i % 30, 3, 5, 1, 2, 9, 8, 7] for i in range(6)]
    stream_class = type(backend.codec.open_stream())
    decode, calls = stream_class.decode, [0]

    def quiet_after_six(self: Any, codes: torch.Tensor) -> torch.Tensor:
        calls[0] += codes.shape[2]
        return decode(self, codes) * (1.0 if calls[0] <= 6 else 0.0)

    backend.codec.open_stream = lambda *_: _Quiet(stream_class, quiet_after_six)(backend)  # type: ignore[method-assign]
    audio, done, _ = speaking_codes(backend, [[(i * 7) % 30, *varied[i % 6][1:]] for i in range(60)])
    assert 6 * 1920 < len(audio) <= 6 * 1920 + 0.25 * 24_000
    assert done.usage.output_tokens < 40


class _Quiet:
    """A codec stream that falls silent."""

    def __init__(self, kind: type, decode: Any) -> None:
        self._kind, self._decode = kind, decode

    def __call__(self, backend: CsmBackend) -> Any:
        stream = self._kind(backend.codec, backend.codec._streaming, 1)
        decode = self._decode

        class Stream:
            def decode(self, codes: torch.Tensor) -> torch.Tensor:
                wave: torch.Tensor = decode(stream, codes)
                return wave

        return Stream()


def test_a_step_that_fails_can_be_repeated(backend: CsmBackend) -> None:
    expected = samples(backend, HELLO)
    job = backend.start(HELLO)
    depth, got, failures = backend.batch._depth, [], [2, 5]

    def failing(*arguments: Any) -> torch.Tensor:
        failures[:] = [count - 1 for count in failures]
        if 0 in failures:
            raise RuntimeError("for a test")
        return depth(*arguments)

    backend.batch._depth = failing  # type: ignore[assignment]
    done = False
    while not done:
        try:
            for _, event in backend.step([job]):
                done = done or isinstance(event, Done)
                if isinstance(event, AudioChunk):
                    got.append(event.samples)
        except RuntimeError:
            continue
    backend.close(job)
    backend.batch._depth = depth
    assert np.array_equal(np.concatenate(got), expected)


def test_both_layouts_speak_alike(tiny_original: Path, place: Path, backend: CsmBackend) -> None:
    assert np.allclose(samples(loaded(tiny_original, place), HELLO), samples(backend, HELLO), atol=1e-5)


@pytest.mark.parametrize("stream", [True, False])
def test_speech_is_marked(tiny: Path, place: Path, stream: bool) -> None:
    key = bytes(KEY).hex()
    marking = loaded(tiny, place, watermark=True, watermark_model=str(MARK), watermark_key=key, watermark_sdr=12.0)
    assert "silentcipher" in marking.capabilities.detail["watermark"]  # type: ignore[attr-defined]
    audio = samples(marking, replace(HELLO, stream=stream))
    plain = samples(loaded(tiny, place), HELLO)
    assert audio.shape == plain.shape
    assert not np.allclose(audio, plain, atol=1e-3)
    assert np.isfinite(audio).all()
    found = marking._parts.watermark.detect(audio, 24_000)  # type: ignore[union-attr]
    assert (found.status, found.message) == ("found", KEY)


def test_refuses_to_start_unmarked(tiny: Path, place: Path) -> None:
    with pytest.raises(ModelUnavailable, match="watermark = false"):
        loaded(tiny, place, watermark=True)


def write_codec(folder: Path, changed: dict[str, int]) -> Path:
    """A random codec beside its configuration, of other sizes than the model's own."""
    from moshi.models.loaders import get_mimi

    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CODEC | changed), encoding="utf-8")
    save_file(get_mimi(None, moshi_config(CODEC | changed), num_codebooks=4).state_dict(), folder / "mimi.safetensors")
    return folder


def test_missing_parts_are_named(tiny: Path, place: Path, tmp_path: Path) -> None:
    for options, message in (
        ({"codec_model": "nobody/mimi"}, "speech-gateway pull nobody/mimi"),
        ({"codec_model": str(write_codec(tmp_path / "a", {"codebook_size": 64}))}, "64 codes, the model knows 35"),
        (
            {"codec_model": str(write_codec(tmp_path / "b", {"num_quantizers": 4}))},
            "4 codebooks, the model speaks in 8",
        ),
        ({"tokenizer": str(tmp_path / "t.json")}, "tokenizer"),
        ({"watermark": True, "watermark_model": str(MARK), "watermark_key": "no"}, "ten hex digits"),
    ):
        with pytest.raises(BackendError, match=message):
            loaded(tiny, place, **options)


def test_the_canary_is_quick(backend: CsmBackend) -> None:
    request = backend.canary()
    assert isinstance(request, SpeechRequest)
    assert len(samples(backend, request)) <= 24_000 + 6000
    assert backend.footprint() > 4_000_000
