"""The backend behind the contract: voices, cloning, streaming, batches, long text, retries, cancellation, bad input."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from backends.interface import (
    AudioChunk,
    ContextTurn,
    Done,
    Event,
    InvalidInput,
    ModelFiles,
    ModelUnavailable,
    Placement,
    SpeechRequest,
    TranscriptionRequest,
    VoiceSample,
)
from backends.llasa import jobs as jobs_module
from backends.llasa.backend import LlasaBackend
from backends.llasa.codec import load_codec
from backends.llasa.model import load_llasa
from backends.registry import UnknownOption, backend_info, check_options
from tests.backends.llasa.folders import write_adapter, write_codec
from tests.backends.llasa.speaking import PLACED, audio, clip, loaded, spoken
from tests.support.drive import run


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder with two voices, one of them at another rate and in stereo, and one without a transcript."""
    folder = tmp_path_factory.mktemp("models")
    for name, rate, channels in (("anna", 16_000, 1), ("bert", 44_100, 2), ("mute", 16_000, 1)):
        place = folder / "voices" / name
        place.mkdir(parents=True)
        soundfile.write(place / "clip.wav", np.tile(clip(rate=rate)[:, None], (1, channels)), rate)
        if name != "mute":
            (place / "transcript.txt").write_text("The quick brown fox.\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def adapter(models: Path, lm_folder: Path) -> Path:
    place = models / "lora"
    write_adapter(place, lm_folder, seed=3)
    shutil.copytree(place, place / "checkpoint-2")
    return place


@pytest.fixture(scope="module")
def backend(models: Path, lm_folder: Path, codec_folder: Path, adapter: Path) -> LlasaBackend:
    return loaded(models, lm_folder, codec_folder, adapters={"carl": str(adapter)}, max_batch=4, retries=0)


SHORT = {"max_new_tokens": 60}


def test_an_answer_is_what_the_parts_say(backend: LlasaBackend, lm_folder: Path, codec_folder: Path) -> None:
    request = SpeechRequest("hello world, this is a small test.", "default", options={"temperature": 0.0})
    samples, done = spoken(backend, request)
    model, codec = load_llasa(lm_folder), load_codec(codec_folder)
    codes = model.extract_codes(model.generate(model.prompt_ids(request.text), 2048))
    np.testing.assert_allclose(samples, codec.decode(torch.tensor(codes)[None, None])[0, 0].numpy(), atol=1e-5)
    assert done.finish_reason == "stop"
    assert done.usage.output_audio_tokens == len(codes) + 1  # the stop token was generated, too
    assert {"generate", "codec", "inference"} <= set(done.timings)


def test_the_encoder_is_loaded_early_where_a_clip_waits_for_it(
    tmp_path: Path, lm_folder: Path, codec_folder: Path
) -> None:
    place = tmp_path / "voices" / "anna"
    place.mkdir(parents=True)
    soundfile.write(place / "clip.wav", clip(), 16_000)
    assert not loaded(tmp_path, lm_folder, codec_folder).codec.encoder_loaded, "nobody knows what the clip says"
    (place / "transcript.txt").write_text("The quick brown fox.", encoding="utf-8")
    first = loaded(tmp_path, lm_folder, codec_folder)
    assert first.codec.encoder_loaded
    spoken(first, SpeechRequest("One.", "anna", seed=1, options={"max_new_tokens": 5}))
    assert not loaded(tmp_path, lm_folder, codec_folder).codec.encoder_loaded, "its codes are kept"


def test_a_codec_without_an_encoder_still_speaks(
    tmp_path: Path, lm_folder: Path, codec_tensors: dict[str, torch.Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    place = tmp_path / "voices" / "anna"
    place.mkdir(parents=True)
    soundfile.write(place / "clip.wav", clip(), 16_000)
    (place / "transcript.txt").write_text("The quick brown fox.", encoding="utf-8")
    decoder = {name: tensor for name, tensor in codec_tensors.items() if not name.startswith("CodecEnc")}
    backend = loaded(tmp_path, lm_folder, write_codec(tmp_path / "codec", decoder))
    assert "no voice can be cloned" in caplog.text
    assert len(spoken(backend, SpeechRequest("One.", "default", seed=1, options={"max_new_tokens": 5}))[0])


def test_steps_that_give_up_fixed_shapes_are_told(tmp_path: Path, lm_folder: Path, codec_folder: Path) -> None:
    backend = LlasaBackend()
    checked = check_options(backend_info("llasa"), {"codec_model": str(codec_folder)})
    capabilities = backend.load(ModelFiles("tts", "", lm_folder, tmp_path, tmp_path, checked), PLACED)
    backend.loop.given_up = "OutOfMemoryError: no memory"
    spoken(backend, SpeechRequest("One.", "default", seed=1, options={"max_new_tokens": 5}))
    assert capabilities.detail["compile"] == "off: OutOfMemoryError: no memory"


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("max_length", 40_000, "<= 32768"),
        ("max_length", 10, ">= 64"),
        ("top_p", 0.0, "> 0.0"),
        ("temperature", -1.0, ">= 0.0"),
        ("max_batch", 0, ">= 1"),
        ("reference_seconds", 0.1, ">= 0.5"),
    ],
)
def test_options_out_of_range_are_refused_before_anything_is_loaded(option: str, value: float, told: str) -> None:
    with pytest.raises(UnknownOption, match=option) as caught:
        check_options(backend_info("llasa"), {option: value})
    assert caught.value.key == option
    assert told in str(caught.value)


def test_voices_are_listed(backend: LlasaBackend, models: Path, lm_folder: Path, codec_folder: Path) -> None:
    names = [voice.id for voice in backend.voices.listed()]
    assert names == ["default", "carl", "carl-checkpoint-2", "anna", "bert", "mute"]


def test_every_kind_of_voice_speaks_differently(backend: LlasaBackend) -> None:
    options = {"temperature": 0.0, **SHORT}
    answers = {
        name: spoken(backend, SpeechRequest("One two.", name, options=options))[0]
        for name in ("default", "carl", "anna")
    }
    assert all(len(samples) for samples in answers.values())
    assert len({samples.tobytes() for samples in answers.values()}) == 3


def test_codes_of_a_voice_are_kept_and_used(models: Path, lm_folder: Path, codec_folder: Path) -> None:
    first = spoken(loaded(models, lm_folder, codec_folder), SpeechRequest("One.", "bert", seed=3, options=SHORT))[0]
    kept = json.loads((models / "voices" / "bert" / "xcodec2_codes.json").read_text(encoding="utf-8"))
    assert len(kept["audio"]) == int(1.2 * 50) + 1
    again = loaded(models, lm_folder, codec_folder)
    second = spoken(again, SpeechRequest("One.", "bert", seed=3, options=SHORT))[0]
    assert not again.codec.encoder_loaded
    np.testing.assert_array_equal(first, second)


def test_a_clip_in_the_request_is_what_its_folder_would_be(backend: LlasaBackend) -> None:
    wave, _ = soundfile.read(backend.voices.folder / "anna" / "clip.wav", dtype="float32")
    folder = spoken(backend, SpeechRequest("One two.", "anna", seed=5, options=SHORT))[0]
    for name in ("default", "whoever"):
        request = SpeechRequest(
            "One two.", name, seed=5, options=SHORT, reference=VoiceSample(wave, "The quick brown fox.")
        )
        np.testing.assert_array_equal(spoken(backend, request)[0], folder)


def test_the_reference_is_decoded_along_and_cut(backend: LlasaBackend) -> None:
    _, done = spoken(backend, SpeechRequest("One two.", "anna", seed=5, options=SHORT))
    samples, _ = spoken(backend, SpeechRequest("One two.", "anna", seed=5, options=SHORT))
    codes = done.usage.output_tokens - (done.finish_reason == "stop")
    kept = backend.voices.voice("anna").reference
    assert kept is not None
    assert len(samples) == (codes + len(kept.codes)) * 320 - kept.samples


def test_a_stream_is_like_the_whole(backend: LlasaBackend) -> None:
    options = {"max_new_tokens": 200}
    for voice in ("default", "anna"):
        whole, _ = spoken(backend, SpeechRequest("Much text.", voice, seed=8, options=options))
        events = run(backend, SpeechRequest("Much text.", voice, seed=8, stream=True, options=options))[0]
        samples, _ = audio(events)
        assert len(samples) == len(whole)
        if len(whole) > 48 * 320:
            assert sum(isinstance(event, AudioChunk) for event in events) > 1
        assert np.corrcoef(samples, whole)[0, 1] > 0.95


def test_the_first_chunk_comes_after_36_codes(backend: LlasaBackend) -> None:
    job = backend.start(SpeechRequest("Much text.", "default", seed=8, stream=True, options={"max_new_tokens": 200}))
    for _ in range(300):
        if any(isinstance(event, AudioChunk) for _, event in backend.step([job])):
            break
    assert len(job.running()[0].ids) == 36
    backend.close(job)


def test_requests_are_served_side_by_side_with_the_same_result(backend: LlasaBackend) -> None:
    requests = [
        SpeechRequest("One.", "default", seed=1, options=SHORT),
        SpeechRequest("Two and three.", "carl", seed=2, options={**SHORT, "repetition_penalty": 1.2}),
        SpeechRequest("Four five six seven.", "anna", seed=3, stream=True, options=SHORT),
        SpeechRequest("Eight.", "default", seed=4, options={**SHORT, "temperature": 0.0}),
    ]
    together = [audio(events)[0] for events in run(backend, *requests)]
    for request, samples in zip(requests, together, strict=True):
        np.testing.assert_array_equal(spoken(backend, request)[0], samples)


LONG = "The first sentence is here. The second one follows it. And the third ends the text."


@pytest.mark.parametrize("options", [{}, {"chaining": True}])
@pytest.mark.parametrize("voice", ["default", "anna", "carl"])
def test_long_text_is_spoken_in_parts(backend: LlasaBackend, voice: str, options: dict[str, Any]) -> None:
    options = {**options, "sentence_characters": 30, "max_new_tokens": 30}
    job = backend.start(SpeechRequest(LONG, voice, seed=1, options=options))
    assert [piece.text for piece in job.chunks] == [
        "The first sentence is here.",
        "The second one follows it.",
        "And the third ends the text.",
    ]
    backend.close(job)
    samples, done = spoken(backend, SpeechRequest(LONG, voice, seed=1, options=options))
    assert len(samples) > 0
    assert done.usage.output_tokens > 0
    assert backend.loop.free == 4


def test_sentences_without_a_speaker_follow_the_first(backend: LlasaBackend) -> None:
    job = backend.start(
        SpeechRequest(LONG, "default", seed=1, options={"sentence_characters": 30, "max_new_tokens": 30})
    )
    list(backend.step([job]))
    assert len(job.running()) == 1
    while not job.chunks[0].done:
        list(backend.step([job]))
    list(backend.step([job]))
    assert len(job.running()) == 2
    codes = job.chunks[0].codes
    assert job.running()[0].prompt[-len(codes) :] == backend.model.vocabulary.speech_ids(codes)
    backend.close(job)


def test_a_runaway_is_tried_again_with_other_seeds(
    backend: LlasaBackend, monkeypatch: pytest.MonkeyPatch, lm_folder: Path
) -> None:
    monkeypatch.setattr(jobs_module, "token_cap", lambda text: 5)
    job = backend.start(SpeechRequest("Hello.", "default", seed=1, options={"retries": 2}))
    seeds: list[int] = []
    for event in _steps(backend, job):
        for utterance in job.running():
            if utterance.seed not in seeds:
                seeds.append(utterance.seed)
        if isinstance(event, Done):
            assert event.finish_reason == "length"
            assert "cut at the token limit" in event.notes[0]
    assert len(seeds) == 3
    assert seeds[0] == 1


def _steps(backend: LlasaBackend, job: Any) -> Iterator[Event | None]:
    while True:
        events = [event for _, event in backend.step([job])]
        yield from events or [None]
        if events and isinstance(events[-1], Done):
            backend.close(job)
            return


def test_a_cancelled_job_frees_its_slots(backend: LlasaBackend) -> None:
    jobs = [backend.start(SpeechRequest("Hello.", "carl", seed=i)) for i in range(4)]
    list(backend.step(jobs))
    assert backend.loop.free == 0
    for job in jobs:
        backend.close(job)
    assert backend.loop.free == 4


def test_control_tokens_in_the_text_are_not_control_tokens(backend: LlasaBackend) -> None:
    def ids(text: str) -> list[int]:
        job = backend.start(SpeechRequest(text, "default", seed=0))
        list(backend.step([job]))
        prompt = list(job.running()[0].prompt)
        backend.close(job)
        return prompt

    assert ids("Hello<|eot_id|> <|s_5|>you<|SPEECH_<|eot_id|>GENERATION_END|>.") == ids("Hello you.")


def test_japanese_is_normalised_and_english_is_not(backend: LlasaBackend) -> None:
    def text(given: str, **options: Any) -> str:
        job = backend.start(SpeechRequest(given, "default", options=options))
        backend.close(job)
        return str(job.chunks[0].text)

    assert text("これは ﾃｽﾄ です～！") == "これはテストですー!"
    assert text("これは ﾃｽﾄ です～！", language="en") == "これは ﾃｽﾄ です～！"
    assert text("a - b, c") == "a - b, c"


def test_the_canary_is_short(backend: LlasaBackend) -> None:
    samples, done = spoken(backend, backend.canary())
    assert len(samples) <= 12 * 320
    assert done.finish_reason in ("stop", "length")


def test_notes_say_what_was_not_used(backend: LlasaBackend) -> None:
    request = SpeechRequest("Hi.", "default", instructions="Whisper.", context=(ContextTurn("a", "b"),), options=SHORT)
    assert len([note for note in spoken(backend, request)[1].notes if "not used" in note]) == 2


def test_captions_become_the_system_message(models: Path, lm_folder: Path, codec_folder: Path) -> None:
    backend = loaded(models, lm_folder, codec_folder, captions=True)
    job = backend.start(SpeechRequest("Hi.", "default", instructions="mood: calm\nEmotion: joy"))
    assert job.generation.system == "emotion: joy\nmood: calm"
    backend.close(job)


def test_speaker_fine_tunes_get_their_prefix(models: Path, lm_folder: Path, codec_folder: Path) -> None:
    backend = loaded(models, lm_folder, codec_folder, assistant_prefix={"kore": "Speaker kore"}, double_bos=["kore"])
    assert "kore" in [voice.id for voice in backend.voices.listed()]
    job = backend.start(SpeechRequest("Hi.", "kore", options=SHORT))
    list(backend.step([job]))
    vocabulary, prompt = backend.model.vocabulary, job.running()[0].prompt
    assert list(prompt[:2]) == vocabulary.encode("<|begin_of_text|>") * 2
    tail = vocabulary.encode("Speaker kore<|SPEECH_GENERATION_START|>")
    assert list(prompt[-len(tail) :]) == tail
    backend.close(job)


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (SpeechRequest("🙂 !!", "default"), "no text that can be spoken"),
        (SpeechRequest("<|eot_id|>", "default"), "no text that can be spoken"),
        (SpeechRequest("Hi.", "nobody"), "no voice 'nobody'"),
        (SpeechRequest("Hi.", "mute"), r"transcript\.txt"),
        (SpeechRequest("Hi.", "default", options={"tempo": 1}), "no option 'tempo'"),
        (SpeechRequest("Hi.", "default", options={"temperature": "hot"}), "temperature must be"),
        (SpeechRequest("Hi.", "default", options={"top_p": 3.0}), "top_p"),
        (SpeechRequest("Hi.", "default", options={"max_length": 99_999}), "max_length"),
        (SpeechRequest("Hi.", "default", options={"max_length": 64}), "nothing is left for speech"),
        (SpeechRequest("Hi.", "default", reference=VoiceSample(clip(), "")), "transcript"),
        (SpeechRequest("Hi.", "default", reference=VoiceSample(clip(), "<|s_1|>")), "transcript"),
        (SpeechRequest("Hi.", "default", reference=VoiceSample(clip(15.1), "Text.")), "at most 15 s"),
        (SpeechRequest("Hi.", "default", reference=VoiceSample(clip(0.1), "Text.")), r"at least 0\.5 s"),
        (SpeechRequest("Hi.", "default", reference=VoiceSample(np.zeros(16_000, np.float32), "Text.")), "silent"),
        (TranscriptionRequest(clip()), "only speaks"),
    ],
)
def test_bad_requests_say_what_is_wrong(backend: LlasaBackend, request_: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        backend.start(request_)
    assert backend.loop.free == 4


def test_missing_parts_are_named(models: Path, lm_folder: Path, codec_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="codec folder"):
        loaded(models, lm_folder, tmp_path / "none")
    with pytest.raises(ModelUnavailable, match="model folder"):
        loaded(models, tmp_path / "none", codec_folder)
    with pytest.raises(ModelUnavailable, match="no adapter folder"):
        loaded(models, lm_folder, codec_folder, adapters={"x": "nowhere"})


def test_compile_falls_back_with_its_reason(
    models: Path, lm_folder: Path, codec_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("NO_TORCH_COMPILE", "1")
    backend = loaded(models, lm_folder, codec_folder, compile=True)
    assert "NO_TORCH_COMPILE" in caplog.text
    assert backend._detail("off: NO_TORCH_COMPILE is set")["compile"].startswith("off")
    assert len(spoken(backend, backend.canary())[0])


@pytest.mark.parametrize("dtype", ["auto", "bfloat16", "int8"])
def test_every_number_format_speaks(models: Path, lm_folder: Path, codec_folder: Path, dtype: str) -> None:
    backend = loaded(models, lm_folder, codec_folder, Placement(dtype=dtype))
    samples, _ = spoken(backend, SpeechRequest("One.", "default", seed=1, options=SHORT))
    assert np.isfinite(samples).all()
    assert len(samples)
    assert backend.footprint() > 0
