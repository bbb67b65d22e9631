"""DIFFA behind the backend contract, driven as the worker drives it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from backends.diffa.backend import DiffaBackend, DiffaJob
from backends.interface import (
    AudioPart,
    ChatRequest,
    Done,
    InvalidInput,
    Message,
    ModelFiles,
    ModelUnavailable,
    OutOfMemory,
    Placement,
    Progress,
    SpeechRequest,
    TextDelta,
    TextPart,
)
from tests.backends.diffa.folders import DATA, generations
from tests.support.drive import run

QUESTION = "What is the speaker's mood?"


def load(placement: Placement | None = None, **options: Any) -> DiffaBackend:
    backend = DiffaBackend()
    options = {"whisper_model": str(DATA / "whisper"), "adapter_model": str(DATA / "adapter")} | options
    files = ModelFiles("ask", "tiny", DATA / "llm", DATA, DATA, options)
    backend.capabilities = backend.load(files, placement or Placement(dtype="float32"))
    return backend


@pytest.fixture(scope="module")
def backend() -> DiffaBackend:
    return load()


def ask(samples: np.ndarray | None, question: str = QUESTION, **fields: Any) -> ChatRequest:
    parts = (TextPart(question),) if samples is None else (TextPart(question), AudioPart(samples))
    return ChatRequest((Message("user", parts),), **fields)


def answer(backend: DiffaBackend, request: ChatRequest) -> Done:
    return run(backend, request)[0][-1]


def test_what_it_tells_of_itself(backend):
    told = backend.capabilities
    assert (told.engine, told.device, told.dtype, told.max_batch) == ("torch", "cpu", "float32", 4)
    assert told.detail["decoding"]["cache"] == "prefix"
    assert told.detail["layers_offloaded"] == 0
    assert backend.footprint() > 3_000_000


def test_the_canary_runs(backend):
    done = answer(backend, backend.canary())
    assert done.usage.output_tokens <= 4
    assert done.usage.input_audio_tokens == 76


def test_a_preset_answers_as_the_reference(backend, samples):
    done = answer(backend, ask(samples, options={"preset": "mmau"}))
    assert done.text == generations()["a/s16_b16_g16"]["text_utf8_lossy"].strip()
    assert done.finish_reason == "length"


@pytest.mark.parametrize("key", generations())
def test_every_mode_can_be_asked_for(backend, samples, model, key):
    wanted = generations()[key]
    names = ("steps", "block_length", "max_new_tokens", "cfg_scale", "cache", "threshold", "factor")
    options = {"preset": "reference"} | {name: wanted[name] for name in names if wanted.get(name) is not None}
    assert answer(backend, ask(samples, options=options)).text == model.decode_text(wanted["token_ids"])


def test_events_are_progress_per_step_and_a_delta_per_block(backend, samples):
    [events] = run(backend, ask(samples, max_tokens=64))
    steps = [event for event in events if isinstance(event, Progress)]
    deltas = [event.text for event in events if isinstance(event, TextDelta)]
    done = events[-1]
    assert [step.done for step in steps] == list(range(1, len(steps) + 1))
    assert steps[-1].total == len(steps)
    assert len(deltas) == 2
    assert "".join(deltas) == done.text
    assert done.usage.input_tokens == 97 + 98
    assert done.usage.input_audio_tokens == 98
    assert done.usage.output_tokens == 64
    assert done.usage.audio_seconds == pytest.approx(len(samples) / 16_000)
    assert set(done.timings) == {"audio", "denoise"}


def test_jobs_of_different_kinds_are_denoised_together_and_answer_as_alone(backend, samples):
    requests = [
        ask(samples, max_tokens=64),
        ask(samples[:8000], "Who?", options={"preset": "mmau", "cfg_scale": 0.5}),
        ask(None, "Hello?", options={"cache": "dual", "block_length": 8, "max_new_tokens": 24}),
        ask(np.tile(samples, 3), "Sure?", temperature=0.8, seed=7, max_tokens=32),
    ]
    together = [events[-1] for events in run(backend, *requests)]
    alone = [answer(backend, request) for request in requests]
    assert [done.text for done in together] == [done.text for done in alone]
    assert len({done.text for done in alone}) == 4


def test_a_later_job_joins_at_the_next_step_and_a_short_one_does_not_wait(backend, samples):
    long, order = backend.start(ask(samples, max_tokens=128)), []
    list(backend.step([long]))
    short = backend.start(ask(samples, options={"preset": "mmsu"}))
    active: list[DiffaJob] = [long, short]
    steps = 0
    while active:
        steps += 1
        for job, event in backend.step(list(active)):
            if isinstance(event, Done):
                order.append((job is short, steps))
                active.remove(job)
                backend.close(job)
    assert order[0] == (True, 4)
    assert order[1][1] > 4


def test_a_closed_job_frees_its_cache(backend, samples):
    before = backend.footprint()
    job = backend.start(ask(samples))
    list(backend.step([job]))
    assert backend.footprint() > before
    backend.close(job)
    assert backend.footprint() == before


def test_a_stop_text_ends_the_answer_early(backend, samples):
    [everything] = run(backend, ask(samples, max_tokens=64))
    whole = everything[-1].text
    stop = whole[20:24]
    [events] = run(backend, ask(samples, max_tokens=64, stop=(stop,)))
    done = events[-1]
    assert done.text == whole[: whole.index(stop)].rstrip()
    assert done.finish_reason == "stop"
    assert events[-2].text == done.text  # the first block has it all, and the second one is not denoised
    assert len(events) < len(everything) / 1.5


def test_an_end_token_ends_the_answer(backend, samples, monkeypatch):
    plain = generations()["a/prefix_s32_b8_g32_fixed"]["token_ids"]
    monkeypatch.setattr(backend.model.tokenizer, "eot", plain[4 * 2 + 1])
    options = {"steps": 32, "block_length": 8, "max_new_tokens": 32, "threshold": None}
    [events] = run(backend, ask(samples, options=options))
    done = events[-1]
    assert done.finish_reason == "stop"
    assert done.usage.output_tokens == plain.index(plain[9]) + 1
    assert sum(isinstance(event, Progress) for event in events) == 16


def test_seed_and_temperature(backend, samples):
    hot = {"temperature": 1.0, "max_tokens": 32}
    first, second, third = (answer(backend, ask(samples, seed=seed, **hot)) for seed in (5, 5, 6))
    assert first.text == second.text != third.text
    assert first.seed == 5
    assert isinstance(answer(backend, ask(samples, **hot)).seed, int)


def test_a_conversation_with_several_clips(backend, samples):
    system = Message("system", (TextPart("Be brief."),))
    first = Message(
        "user", (TextPart("A:"), AudioPart(samples), TextPart("B:"), AudioPart(samples[:8000]), TextPart("Which?"))
    )
    rotary = (system, first, Message("assistant", (TextPart("A."),)), Message("user", (TextPart("Why?"),)))
    done = answer(backend, ChatRequest(rotary, max_tokens=32))
    assert done.usage.input_audio_tokens == 98 + 64 + 6
    swapped = Message(
        "user", (TextPart("A:"), AudioPart(samples[:8000]), TextPart("B:"), AudioPart(samples), TextPart("Which?"))
    )
    assert answer(backend, ChatRequest((system, swapped, *rotary[2:]), max_tokens=32)).text != done.text


def test_notes_tell_what_was_changed(backend, samples):
    done = answer(backend, ask(samples[:800], max_tokens=5, options={"block_length": 4}))
    assert any("rounded up to 8" in note for note in done.notes)
    assert any("80 ms" in note for note in done.notes)
    long = answer(backend, ask(np.tile(samples, 12)[: 31 * 16_000], options={"preset": "mmsu"}))
    assert long.notes == ("audio of 31.0 s was heard as 2 pieces of at most 30 s",)
    assert long.usage.input_audio_tokens == 439 + 76


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (SpeechRequest("Hello", "alloy"), "chat completions"),
        (ChatRequest((Message("user", (TextPart("  "),)),)), "neither audio nor text"),
        (ChatRequest((Message("system", (TextPart("Hi"),)),)), "neither audio nor text"),
        (ChatRequest((Message("tool", (TextPart("Hi"),)),)), "role 'tool'"),
        (ask(np.zeros(0, np.float32)), "no samples"),
        (ask(None, options={"steps": 30}), "multiple of the number of blocks"),
        (ask(None, options={"speed": 2}), "decoding fields"),
        (ask(None, max_tokens=2000), "1024 positions"),
        (ask(np.zeros(16_000 * 3600, np.float32)), "1024 positions"),
        (ask(None, top_p=0.5), "top_p"),
        (ask(None, temperature=3.0), "temperature"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_requests_are_told(backend, request_, message):
    with pytest.raises(InvalidInput, match=message):
        backend.start(request_)
    assert not backend._active


def test_the_deployments_own_decoding_and_prompt(samples):
    own = load(system_prompt="", cache="dual", block_length=8, max_new_tokens=16, threshold=0.0, max_batch=2)
    assert own.capabilities.max_batch == 2
    done = answer(own, ask(samples))
    assert done.usage.output_tokens == 16
    assert done.usage.input_tokens < 97 + 98
    preset = load(preset="mmsu")
    assert answer(preset, ask(samples)).usage.output_tokens == 4


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_other_number_formats_answer(samples, dtype):
    backend = load(Placement(dtype=dtype))
    assert backend.capabilities.dtype == dtype
    assert answer(backend, ask(samples, max_tokens=32)).usage.output_tokens == 32


def test_weights_that_are_not_there():
    with pytest.raises(ModelUnavailable, match="pull"):
        load(whisper_model="openai/whisper-nowhere")
    with pytest.raises(OutOfMemory):
        load(Placement(dtype="float32", memory_bytes=100_000))
    with pytest.raises(ModelUnavailable, match="acoustic_connector"):
        load(adapter_model=str(DATA / "whisper"))
