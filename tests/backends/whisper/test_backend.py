"""The backend contract: events, shared steps, cancellation, refusals; with a network of known answers."""

from __future__ import annotations

import shutil
import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from backends.interface import (
    Done,
    InvalidInput,
    ModelFiles,
    ModelUnavailable,
    OutOfMemory,
    Placement,
    Segment,
    SpeechRequest,
    TextDelta,
    TranscriptionRequest,
)
from backends.registry import backend_info, check_options, make_backend
from backends.whisper.backend import WhisperBackend
from backends.whisper.config import read_dims
from backends.whisper.info import INFO, WhisperOptions
from backends.whisper.network import EncoderOutput, Floats, Tokens
from backends.whisper.onnx import engine as onnx_engine
from backends.whisper.onnx import int8_probe
from backends.whisper.recognizer import Recognizer
from backends.whisper.tokenizer import WhisperTokenizer
from tests.backends.whisper.checkpoints import Reference
from tests.support.drive import finish, run

SECOND = 16_000


@pytest.fixture(scope="module")
def miniature(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Whisper of all languages; a copy, for graphs are built beside the weights."""
    target = tmp_path_factory.mktemp("languages") / "whisper"
    shutil.copytree(Path(__file__).parents[2] / "data" / "whisper_tiny", target)
    return target


def files(reference: Reference, **options: Any) -> ModelFiles:
    folder = reference.folder
    return ModelFiles("whisper-1", str(folder), folder, folder.parent, folder.parent, check_options(INFO, options))


class ScriptedNetwork:
    """Says what the loudest sample of a window stands for: text number n lasts n seconds. Counts its work."""

    engine, device, dtype, max_batch = "scripted", "cpu", "float32", 4
    short_windows = False

    def __init__(self, reference: Reference) -> None:
        self.dims = read_dims(reference.folder)
        self.ids = reference.ids
        self.tokenizer = WhisperTokenizer(reference.folder)
        self.encoded = 0
        self.batches: list[int] = []
        self.fail_next: list[Exception] = []

    def replicas(self, windows: int, *, short: bool = False) -> Sequence[ScriptedNetwork]:
        return [self]

    def encode(self, mels: Sequence[Floats]) -> list[EncoderOutput]:
        self.encoded += len(mels)
        return [float(mel.max()) for mel in mels]

    def decode(self, encoder_outputs: Sequence[EncoderOutput], padding: Sequence[int] = ()) -> ScriptedDecoding:
        if self.fail_next:
            raise self.fail_next.pop()
        self.batches.append(len(encoder_outputs))
        return ScriptedDecoding(self, len(encoder_outputs))

    def cross_weights(
        self, encoder_output: EncoderOutput, tokens: Sequence[int], heads: Sequence[tuple[int, int]]
    ) -> Floats:
        weights = np.full((len(heads), len(tokens), self.dims.source_positions), 1e-4, np.float32)
        for row in range(len(tokens)):
            weights[:, row, row * 10 : row * 10 + 10] = 0.05
        return weights

    def footprint(self) -> int:
        return 123

    def detail(self) -> dict[str, Any]:
        return {}


class ScriptedDecoding:
    """Every row says: 0.00, " the fox", 1.00, 1.00, " jumps", 2.00, end."""

    def __init__(self, network: ScriptedNetwork, rows: int) -> None:
        ids, encode = network.ids, network.tokenizer.encode
        self.script = [ids["<|0.00|>"], *encode(" the fox"), ids["<|1.00|>"], ids["<|1.00|>"], *encode(" jumps")]
        self.script += [ids["<|2.00|>"], ids["<|endoftext|>"]]
        self.ids, self.vocabulary, self.rows, self.at = ids, network.dims.vocabulary, rows, -1

    def feed(self, tokens: Tokens, keep: int = 0) -> Floats:
        self.at += 1
        logits = np.zeros((self.rows, tokens.shape[1] - keep, self.vocabulary), np.float32)
        logits[:, 0, self.ids["<|de|>"]] = 5.0
        logits[:, -1, self.script[min(self.at, len(self.script) - 1)]] = 20.0
        return logits

    def select(self, rows: Sequence[int]) -> None:
        self.rows = len(rows)


@pytest.fixture
def scripted(multilingual: Reference) -> tuple[WhisperBackend, ScriptedNetwork]:
    backend = WhisperBackend()
    backend.load(files(multilingual, vad=False), Placement(dtype="float32"))
    network = ScriptedNetwork(multilingual)
    backend.whisper.network = network
    backend.whisper.rules = backend.whisper.rules.__class__(
        **{
            name: getattr(backend.whisper.rules, name)
            for name in backend.whisper.rules.__slots__
            if name != "suppressed"
        },
        suppressed=(),
    )
    return backend, network


def noise(seconds: float) -> np.ndarray:
    return (np.random.default_rng(0).standard_normal(int(seconds * SECOND)) * 0.1).astype(np.float32)


Scripted = tuple[WhisperBackend, ScriptedNetwork]


def test_segments_come_with_their_text_and_then_the_whole(scripted: Scripted) -> None:
    backend, _ = scripted
    job = backend.start(TranscriptionRequest(noise(3), language="en"))
    events = finish(backend, [job])[0]
    assert [type(event) for event in events] == [TextDelta, Segment, TextDelta, Segment, Done]
    segments = [event for event in events if isinstance(event, Segment)]
    assert [(s.id, s.start, s.end, s.text) for s in segments] == [(0, 0.0, 1.0, " the fox"), (1, 1.0, 2.0, " jumps")]
    done = events[-1]
    assert isinstance(done, Done)
    assert done.text == "".join(event.text for event in events if isinstance(event, TextDelta)) == " the fox jumps"
    assert done.language == "en"
    assert done.usage.audio_seconds == 3.0
    assert done.usage.output_tokens == sum(len(segment.tokens) for segment in segments)


def test_times_and_seek_count_from_the_beginning_of_the_recording(scripted: Scripted) -> None:
    backend, _ = scripted
    events = run(backend, TranscriptionRequest(noise(70), language="en"))[0]
    segments = [event for event in events if isinstance(event, Segment)]
    assert [s.seek for s in segments] == [0, 0, 3000, 3000, 6000, 6000]
    assert [s.start for s in segments] == [0, 1, 30, 31, 60, 61]
    assert [s.id for s in segments] == list(range(6))


def test_requests_share_a_step(scripted: Scripted) -> None:
    backend, network = scripted
    jobs = [backend.start(TranscriptionRequest(noise(2), language="en")) for _ in range(3)]
    finish(backend, jobs)
    assert network.batches == [3]


def test_the_language_is_found_once_per_request(scripted: Scripted) -> None:
    backend, network = scripted
    events = run(backend, TranscriptionRequest(noise(45)))[0]
    done = events[-1]
    assert isinstance(done, Done)
    assert done.language == "de"
    assert network.encoded == 2
    assert network.batches == [1, 1, 1]  # one look for the language, two windows


def test_words_and_logprobs_are_real_when_asked_for(scripted: Scripted) -> None:
    backend, _ = scripted
    events = run(backend, TranscriptionRequest(noise(3), language="en", words=True, logprobs=True))[0]
    segments = [event for event in events if isinstance(event, Segment)]
    assert [word.word for segment in segments for word in segment.words] == ["the", "fox", "jumps"]
    times = [time for segment in segments for word in segment.words for time in (word.start, word.end)]
    assert times == sorted(times)
    assert times[0] >= 0
    assert times[-1] <= 2.0
    for segment in segments:
        assert b"".join(bytes(token.bytes) for token in segment.logprobs).decode() == segment.text
        assert all(-0.1 < token.logprob <= 0 for token in segment.logprobs)
        assert -0.1 < segment.avg_logprob <= 0
    assert [delta.logprobs for delta in events if isinstance(delta, TextDelta)] == [s.logprobs for s in segments]
    plain = run(backend, TranscriptionRequest(noise(3), language="en"))[0]
    assert not any(event.words or event.logprobs for event in plain if isinstance(event, Segment))


def test_a_cancelled_request_does_no_further_work(scripted: Scripted) -> None:
    backend, network = scripted
    job = backend.start(TranscriptionRequest(noise(600), language="en"))
    list(backend.step([job]))
    backend.close(job)
    assert network.encoded == 1


def test_a_failed_step_can_be_repeated(scripted: Scripted) -> None:
    backend, network = scripted
    job = backend.start(TranscriptionRequest(noise(35), language="en"))
    network.fail_next = [OutOfMemory("full")]
    with pytest.raises(OutOfMemory):
        list(backend.step([job]))
    done = finish(backend, [job])[0][-1]
    assert isinstance(done, Done)
    assert done.text == " the fox jumps the fox jumps"


def test_hours_of_audio_are_read_window_by_window(scripted: Scripted, tmp_path: Path) -> None:
    """A memory map of an hour: no step reads more than a window of it."""
    path = tmp_path / "hour.f32"
    samples = np.memmap(path, dtype=np.float32, mode="w+", shape=(3600 * SECOND,))
    read: list[int] = []

    class Watched(np.ndarray):
        def __getitem__(self, key: Any) -> Any:
            part = super().__getitem__(key)
            read.append(len(part))
            return part

    backend, _ = scripted
    job = backend.start(TranscriptionRequest(samples.view(Watched), language="en"))
    for _ in range(3):
        list(backend.step([job]))
    assert read
    assert max(read) <= 30 * SECOND


def test_large_weights_on_directml_come_with_a_warning(scripted: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    """large-v3 has 3.1 GB in float16, small 1 GB in float32."""
    backend, network = scripted
    for device, size, warned in (
        ("directml:0", 3_100_000_000, True),
        ("directml:0", 970_000_000, False),
        ("cpu", 3_100_000_000, False),
    ):
        monkeypatch.setattr(network, "footprint", lambda size=size: size)
        detail = backend._detail(Placement(device=device))
        assert ("choose a smaller model" in str(detail.get("warning"))) == warned


@pytest.mark.parametrize("steps", [0, 1])
def test_a_closed_job_holds_no_recording(
    scripted: Scripted, multilingual: Reference, tmp_path: Path, steps: int
) -> None:
    """The worker may refer to a job until the next one comes; its file would take space and, on Windows, could not
    go."""
    backend, _ = scripted
    (tmp_path / "a.f32").write_bytes(noise(70).tobytes())
    samples = np.memmap(tmp_path / "a.f32", np.float32, mode="r")
    seen = weakref.ref(samples)
    job = backend.start(TranscriptionRequest(samples, language="en"))
    del samples
    for _ in range(steps):
        list(backend.step([job]))
    assert seen() is not None
    backend.close(job)
    assert seen() is None


def test_silence_has_no_text_and_needs_no_model(multilingual: Reference) -> None:
    backend = WhisperBackend()
    backend.load(files(multilingual), Placement(dtype="float32"))
    network = backend.whisper.network = ScriptedNetwork(multilingual)
    time = np.arange(3 * SECOND) / SECOND
    for samples in (np.zeros(3 * SECOND), noise(3), 0.5 * np.sin(2 * np.pi * 440 * time), np.zeros(0)):
        done = run(backend, TranscriptionRequest(samples.astype(np.float32)))[0]
        assert [type(event) for event in done] == [Done]
        assert isinstance(done[0], Done)
        assert done[0].text == ""
    assert network.encoded == 0


# --- Refusals ---------------------------------------------------------------------------------------------------------


def test_what_cannot_be_served_is_refused(scripted: Scripted) -> None:
    backend, _ = scripted
    with pytest.raises(InvalidInput, match="'tlh'") as caught:
        backend.start(TranscriptionRequest(noise(1), language="tlh"))
    assert caught.value.param == "language"
    with pytest.raises(InvalidInput, match="speakers"):
        backend.start(TranscriptionRequest(noise(1), diarize=True))
    with pytest.raises(InvalidInput, match="nothing else"):
        backend.start(SpeechRequest("hello", "alloy"))


def test_an_english_only_model_does_not_translate(reference: Reference) -> None:
    backend = WhisperBackend()
    capabilities = backend.load(files(reference), Placement(dtype="float32"))
    if capabilities.translation:
        assert backend.start(TranscriptionRequest(noise(1), task="translate")).decoding_options.task == "translate"
    else:
        assert capabilities.languages == ("en",)
        with pytest.raises(InvalidInput, match="English-only"):
            backend.start(TranscriptionRequest(noise(1), task="translate"))


def test_weights_that_are_not_there_name_the_command(multilingual: Reference) -> None:
    model = ModelFiles("whisper-1", "openai/whisper-small", None, Path("models"), Path("user"), {})
    with pytest.raises(ModelUnavailable, match="speech-gateway pull whisper-1"):
        WhisperBackend().load(model, Placement())


def test_options_are_checked(multilingual: Reference) -> None:
    with pytest.raises(ModelUnavailable, match="temperatures"):
        WhisperBackend().load(files(multilingual, temperatures=()), Placement())
    with pytest.raises(InvalidInput, match="martian"):
        WhisperBackend().load(files(multilingual, language="martian"), Placement())


@pytest.mark.parametrize("language", ["nb", "NB", "nb-NO", "iw", "nob", "Norwegian", "auto", "und"])
def test_every_way_to_write_a_language_is_taken_from_a_deployment(miniature: Path, language: str) -> None:
    options = check_options(INFO, {"language": language})
    backend = WhisperBackend()
    backend.load(ModelFiles("w", "w", miniature, Path("models"), Path("user"), options), Placement())
    job = backend.start(TranscriptionRequest(noise(1)))
    assert job.decoding_options.language == {"auto": None, "und": None, "iw": "he"}.get(language, "no")


@pytest.mark.parametrize(("engine", "dtype"), [("auto", "int8"), ("onnx", "int8"), ("torch", "float32")])
def test_what_is_left_open_is_chosen_and_told(
    multilingual: Reference, engine: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The product that measures best on a quiet machine; beside other work another may, whose graph has more nodes.
    choice = int8_probe.Choice("rows-8", "blocks-8", (), {"int8": 0.001, "float32": 0.002})
    for module in (int8_probe, onnx_engine):
        monkeypatch.setattr(module, "int8_choice", lambda: choice)
    backend = make_backend("whisper")
    capabilities = backend.load(files(multilingual), Placement(engine=engine, threads=1))
    assert (capabilities.engine, capabilities.dtype) == ("onnx" if engine == "auto" else engine, dtype)
    assert capabilities.words
    assert capabilities.logprobs
    assert backend.footprint() > 100_000
    if capabilities.engine == "onnx":
        assert capabilities.detail["nodes"]["decoder"] == {"CPUExecutionProvider": pytest.approx(50, abs=40)}


def test_the_canary_passes_the_gate_and_ends(multilingual: Reference) -> None:
    backend = WhisperBackend()
    backend.load(files(multilingual), Placement())
    events = run(backend, backend.canary())[0]
    assert isinstance(events[-1], Done)


def test_the_registry_finds_it() -> None:
    info = backend_info("whisper")
    assert info.default_model == "openai/whisper-small"
    assert info.entry.endswith("WhisperBackend")
    assert "cpu" in info.engine_device_preference["onnx"]


@pytest.mark.parametrize(
    ("multilingual", "logprobs", "note"),
    [
        (
            False,
            [(2.0, -0.88)],
            "this model knows English only and is unsure of this text (mean log-probability -0.88)",
        ),
        (False, [(1.0, -1.5), (9.0, -0.3)], ""),  # one bad second of ten
        (True, [(2.0, -0.88)], ""),
        (True, [(1.0, -0.8), (3.0, -1.6)], "the model is unsure of this text (mean log-probability -1.40)"),
        (True, [], ""),
    ],
)
def test_a_text_that_is_likely_to_be_wrong_is_answered_with_a_note(
    multilingual: bool, logprobs: list[tuple[float, float]], note: str
) -> None:
    whisper: Any = SimpleNamespace(special=SimpleNamespace(multilingual=multilingual))
    job: Any = SimpleNamespace(logprobs=logprobs)
    notes = Recognizer(whisper, WhisperOptions()).doubts(job)
    assert [one[: len(note)] for one in notes] == ([note] if note else [])


def test_the_note_stands_in_the_last_event(scripted: Scripted) -> None:
    backend, _ = scripted
    backend.recognizer.options = replace(backend.recognizer.options, logprob_threshold=0.1)  # no text is that likely
    last = finish(backend, [backend.start(TranscriptionRequest(noise(3), language="en"))])[0][-1]
    assert isinstance(last, Done)
    assert [one[:33] for one in last.notes] == ["the model is unsure of this text "]
