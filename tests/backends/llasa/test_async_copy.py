"""What crosses between device and host: nothing in a step, one small report every few steps, one wave per audio chunk.

No GPU is needed to see it: fake CUDA tensors know shapes and devices but have no values, so whatever reads one fails.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from backends.interface import AudioChunk, SpeechRequest
from backends.llasa import decoding, generation_state
from backends.llasa.async_copy import Fetch, upload
from backends.llasa.codec import Codec, load_codec
from backends.llasa.cuda_graphs import StaticSteps
from backends.llasa.decoding import TokenLoop
from backends.llasa.generation_state import (
    REPETITION_DISTINCT,
    REPETITION_WINDOW,
    TokenReporter,
    Utterance,
    distinct_tokens,
)
from backends.llasa.jobs import SpeechJob
from backends.llasa.model import Llasa, load_llasa
from backends.llasa.options import GenerationOptions, SamplingParams
from backends.llasa.streaming import StreamDecoder
from backends.llasa.voices import Reference, SpeakingVoice
from backends.llasa.xcodec2.layouts import CodecTensors
from backends.transformer.checkpoint import Checkpoint

GOES_ON = REPETITION_WINDOW  # kinds of tokens in a report of an answer that does not hum


@pytest.fixture(scope="module")
def model(lm_folder: Path) -> Llasa:
    return load_llasa(lm_folder, packed=False)


@pytest.fixture(scope="module")
def codec(codec_folder: Path) -> Codec:
    return load_codec(codec_folder)


class Late:
    """A Fetch whose numbers arrive some questions later than they were sent; counts who had to wait for them."""

    questions = 3
    sent = waited = 0

    def __init__(self, source: torch.Tensor) -> None:
        Late.sent += 1
        self._rows, self._left = source.tolist(), Late.questions

    @property
    def ready(self) -> bool:
        self._left -= 1
        return self._left < 0

    def rows(self) -> list[list[int]]:
        Late.waited += self._left >= 0
        return self._rows


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> type[Late]:
    """Reports every four steps, as on a GPU, and late ones."""
    monkeypatch.setattr(generation_state, "Fetch", Late)
    monkeypatch.setattr(generation_state, "_REPORT_EVERY", {})
    Late.questions, Late.sent, Late.waited = 3, 0, 0
    return Late


def speak(loop: TokenLoop, utterances: Sequence[Utterance]) -> int:
    for utterance in utterances:
        loop.admit(utterance)
    for steps in range(400):
        if all(utterance.over for utterance in utterances):
            return steps
        loop.step(utterances)
    raise AssertionError("no end")


def several(model: Llasa) -> list[Utterance]:
    texts = ("One two three four.", "Five.", "Six, seven!")
    return [
        Utterance(model.prompt_ids(text), 30 + 9 * i, SamplingParams(0.9, 50, 0.9, 1.1), i)
        for i, text in enumerate(texts)
    ]


@pytest.mark.parametrize("questions", [0, 3, 1000])
def test_late_reports_change_no_answer(
    model: Llasa, late: type[Late], questions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    late.questions = questions
    utterances = several(model)
    steps = speak(TokenLoop(model, 3, 400), utterances)
    monkeypatch.undo()
    expected = several(model)
    speak(TokenLoop(model, 3, 400), expected)
    assert [u.ids for u in utterances] == [u.ids for u in expected]
    assert [u.codes(model.vocabulary).tolist() for u in utterances] == [model.extract_codes(u.ids) for u in expected]
    assert late.sent <= steps // 4 + 3
    assert {0: late.waited == 0, 3: True, 1000: late.waited > 0}[questions]


def test_a_host_runs_ahead_by_a_few_steps_only(model: Llasa, late: type[Late]) -> None:
    late.questions = 1000
    loop = TokenLoop(model, 1, 400)
    utterance = Utterance(model.prompt_ids("Much text."), 200, SamplingParams(repetition_penalty=1.5), 3)
    loop.admit(utterance)
    ahead = []
    while not utterance.over:
        loop.step([utterance])
        ahead.append(utterance.produced - utterance.length)
    assert max(ahead) <= 8


def test_answers_beside_each_other_end_one_by_one(model: Llasa, late: type[Late]) -> None:
    short, long = (Utterance(model.prompt_ids("Hm."), limit, SamplingParams(0.9), 1) for limit in (5, 60))
    loop = TokenLoop(model, 2, 400)
    for utterance in (short, long):
        loop.admit(utterance)
    for _ in range(12):
        loop.step([short, long])
    assert short.over
    assert not long.over


# --- on a device without values ---


class Copies(TorchDispatchMode):
    """Counts copies from one device to another: (from, to, without waiting)."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[tuple[str, str, bool]] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        given = dict(zip((argument.name for argument in function._schema.arguments), args, strict=False)) | (
            kwargs or {}
        )
        source, target = (
            (given["src"], given["self"]) if function is torch.ops.aten.copy_.default else (given.get("self"), out)
        )
        if isinstance(source, torch.Tensor) and isinstance(target, torch.Tensor) and source.device != target.device:
            self.seen[source.device.type, target.device.type, given.get("non_blocking", False)] += 1
        return out


class Event:
    """A CUDA event that has always come."""

    def record(self) -> None: ...

    def query(self) -> bool:
        return True

    def synchronize(self) -> None: ...


@pytest.fixture
def on_cuda(lm_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Llasa, Copies]]:
    """The language model on a fake CUDA device, and what is copied from now on."""
    if torch.version.cuda is None:
        pytest.skip("this torch is linked without CUDA, and has no fake device of it either")
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(decoding, "request_generator", lambda seed, device: None)
    monkeypatch.setattr(StaticSteps, "_captured", lambda self, forward, count: forward)
    # Fake tensors hold no numbers to compare.
    monkeypatch.setattr(TokenLoop, "_same_as_plain", lambda self, steps, variant: True)
    monkeypatch.setattr(torch.Tensor, "numpy", lambda self: np.zeros(tuple(self.shape), np.float32))
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)
    for reader in (Checkpoint, CodecTensors):
        monkeypatch.setattr(reader, "take", lambda self, name, shape: torch.zeros(shape))
    monkeypatch.setattr(Checkpoint, "finish", lambda self, ignore: None)
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = load_llasa(lm_folder, device="cuda", packed=False)
        with Copies() as copies:
            yield model, copies


def reported(monkeypatch: pytest.MonkeyPatch, ended: bool) -> None:
    """Reports say that all answers go on (or have just ended): fake tensors hold no numbers."""

    def rows(self: Fetch) -> list[list[int]]:
        assert self._host.device.type == "cpu"
        return [[3 if ended else 4, 3 if ended else 4, GOES_ON, 0]] * len(self._host)

    monkeypatch.setattr(Fetch, "rows", rows)


@pytest.mark.parametrize("graphs", [False, True])
def test_no_step_waits_for_the_device(
    on_cuda: tuple[Llasa, Copies], graphs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, copies = on_cuda
    reported(monkeypatch, ended=False)
    loop = TokenLoop(model, 3, 400)
    if graphs:
        assert loop.fix_shapes(compiled=False) == ""
    utterances = [
        Utterance(model.prompt_ids(t), 100, SamplingParams(0.9, 50, 0.9, 1.1), 1, prefix=9)
        for t in ("One.", "Two, three.")
    ]
    for utterance in utterances:
        loop.admit(utterance)
    loop.step(utterances)
    loop.step(utterances)
    copies.seen.clear()
    for _ in range(20):
        loop.step(utterances)
    assert all(utterance.produced > 20 for utterance in utterances)
    assert copies.seen.pop(("cuda", "cpu", True)) == 5, "one report for all, every four steps"
    assert not [kind for kind in copies.seen if not kind[2]], "copies that wait"
    assert set(copies.seen) <= {("cpu", "cuda", True)}


def test_admission_and_prompts_do_not_wait_either(
    on_cuda: tuple[Llasa, Copies], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, copies = on_cuda
    reported(monkeypatch, ended=False)
    loop = TokenLoop(model, 3, 800)
    copies.seen.clear()
    utterance = Utterance([5] * 600, 100, SamplingParams(0.9), 1)
    loop.admit(utterance)
    while not utterance.ready:
        loop.step([utterance])
    assert set(copies.seen) <= {("cpu", "cuda", True), ("cuda", "cpu", True)}


def test_codes_become_audio_in_one_transfer_a_chunk(
    on_cuda: tuple[Llasa, Copies], codec_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, copies = on_cuda
    codec = load_codec(codec_folder, "cuda")
    utterance = Utterance([5], 200, SamplingParams(0.9), 1)
    utterance.tokens = torch.zeros(200, dtype=torch.int64, device="cuda")
    utterance.length = utterance.code_count = utterance.produced = 36
    copies.seen.clear()
    decoder = StreamDecoder(codec, Reference("Hi.", tuple(range(20)), 6000))
    chunks = 0
    for length in (36, 60, 86, 136):
        utterance.length = utterance.code_count = length
        chunks += decoder.next(utterance.codes(model.vocabulary), last=length == 136) is not None
    assert chunks == 3
    assert copies.seen == {("cpu", "cuda", True): 1, ("cuda", "cpu", False): chunks}


# --- on the CPU, with numbers ---


class Reads(TorchFunctionMode):
    """Counts what brings a tensor's values into Python."""

    NAMES = (
        "item",
        "tolist",
        "cpu",
        "numpy",
        "__bool__",
        "__int__",
        "__index__",
        "__float__",
        "nonzero",
        "__array__",
        "__iter__",
    )

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(function, "__name__", "")
        if name in self.NAMES:
            self.seen[name] += 1
        return function(*args, **(kwargs or {}))


def test_nothing_but_reports_and_waves_is_read(model: Llasa, codec: Codec, late: type[Late]) -> None:
    request = SpeechRequest("Much text.", "default", stream=True)
    generation = GenerationOptions(temperature=0.9, repetition_penalty=1.5, top_p=0.9, max_new_tokens=200)
    job, loop = SpeechJob(request, SpeakingVoice("default"), generation, [request.text], 3), TokenLoop(model, 2, 400)
    (chunk,) = job.startable()
    chunk.utterance = job.begin(chunk, model, codec.dims.hop)
    loop.admit(chunk.utterance)
    chunks = 0
    with Reads() as reads:
        while chunks < 2 and not chunk.done:
            loop.step(job.running())
            job.harvest(model, loop.release)
            chunks += sum(isinstance(event, AudioChunk) for event in job.events(model, codec))
    assert chunks == 2
    assert reads.seen == {"tolist": late.sent, "cpu": chunks, "numpy": chunks}


def test_a_repetition_is_told_from_speech() -> None:
    assert int(distinct_tokens(torch.tensor([1, 2] * 100))) == 2 < REPETITION_DISTINCT
    assert int(distinct_tokens(torch.tensor([1, 2] * 50))) >= REPETITION_DISTINCT, "too early to tell"
    assert int(distinct_tokens(torch.arange(300))) == REPETITION_WINDOW


@pytest.mark.parametrize("every", [1, 4, 7])
def test_a_repetition_is_cut_at_the_same_token_whenever_it_is_reported(model: Llasa, every: int) -> None:
    first = model.vocabulary.speech_start
    tokens = [first + i % 50 for i in range(100)] + [first + 3, model.vocabulary.start] * 150
    utterance = Utterance([5], len(tokens), SamplingParams(), 0)
    utterance.tokens = torch.tensor(tokens)
    reporter = TokenReporter(model.vocabulary, torch.device("cpu"))
    reporter._every = every
    while not utterance.stuck:
        utterance.produced += 1
        reporter.poll([utterance], waiting=False)
    utterance.cut_repetition()
    assert utterance.length == 256, "the first multiple of 16 with 150 tokens of hum (and little else) before it"
    assert utterance.codes(model.vocabulary).tolist() == model.extract_codes(tokens[:256])


def test_uploaded_numbers_are_as_given() -> None:
    assert upload([3, 1, 2], torch.device("cpu")).tolist() == [3, 1, 2]
    assert upload((), torch.device("cpu")).dtype == torch.int64
