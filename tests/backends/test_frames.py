"""Everything that crosses the pipe comes out as it went in, and nothing else comes out."""

from __future__ import annotations

import dataclasses
import io
import struct
import typing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends import frames, interface, live, messages
from backends.interface import (
    AudioChunk,
    AudioPart,
    Capabilities,
    ChatRequest,
    Chunking,
    ContextTurn,
    DiarizationRequest,
    Done,
    Failed,
    Message,
    ModelFiles,
    Placement,
    Progress,
    Segment,
    SpeakerTurns,
    SpeechRequest,
    TextDelta,
    TextPart,
    TokenLogprob,
    TranscriptionRequest,
    Turn,
    Usage,
    Voice,
    VoiceSample,
    Word,
)


def there_and_back(message: messages.Message) -> messages.Message:
    frame = frames.encode(message)
    found = frames.read_frame(io.BytesIO(frame))
    assert found is not None
    return found


def same(a: Any, b: Any) -> bool:
    """Equality that looks into arrays and into the values that hold them."""
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and a.shape == b.shape and bool(np.array_equal(a, b))
    if dataclasses.is_dataclass(a):
        return type(a) is type(b) and all(same(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a))
    if isinstance(a, tuple | list):
        return type(a) is type(b) and len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


SOUND = np.linspace(-1, 1, 50, dtype=np.float32)
MESSAGES: list[messages.Message] = [
    messages.LoadModel(
        "whisper",
        ModelFiles(
            "w", "a/b", Path("models") / "a--b", Path("models"), Path("user"), {"x": (1, 2), "y": {"z": [1, "a"]}}
        ),
        Placement("cuda:0", "float16", "torch", 3, 1 << 40, "because"),
        2,
    ),
    messages.StartJob(
        1, TranscriptionRequest(SOUND, "de", "translate", "p", 0.3, True, True, True, Chunking(0.4, 1, 2), {"a": None})
    ),
    messages.StartJob(
        2,
        SpeechRequest(
            "text",
            "voice",
            2.0,
            "softly",
            True,
            7,
            "id",
            (ContextTurn("0", "before", SOUND), ContextTurn("1", "b", None, "id0")),
            VoiceSample(SOUND, "words"),
        ),
    ),
    messages.StartJob(3, ChatRequest((Message("user", (TextPart("a"), AudioPart(SOUND))),), 5, 0.1, 0.9, ("stop",), 3)),
    messages.StartJob(4, live.LiveRequest("de", "p", True, live.TurnDetection(0.4, 1, 2), 20.0, {"a": 1})),
    messages.FeedJob(4, live.LiveAudio(SOUND)),
    messages.FeedJob(4, live.LiveCommit()),
    messages.FeedJob(4, live.LiveClear()),
    messages.FeedJob(4, live.LiveSettings(live.LiveRequest(turn_detection=None))),
    messages.FeedJob(4, live.LiveEnd()),
    messages.StartJob(9, DiarizationRequest(SOUND, 1, 4, (SOUND,))),
    messages.StartCanary(4),
    messages.CancelJob(5),
    messages.LimitBatch(6),
    messages.Stop(),
    messages.JobEvent(9, SpeakerTurns((Turn(0.0, 1.5, 0),), (Turn(0.0, 1.5, 0),), (0, -1))),
    messages.Loaded(
        Capabilities("onnx", "cpu", "int8", voices=(Voice("a", "A", ("en",)),), detail={"nodes": {"cpu": 3}}), 1.5, 0.2
    ),
    messages.DetailChanged({"compile": "off: no memory", "adapters": ["a"]}),
    messages.LoadFailed(Failed("model_unavailable", "no", "p", "c")),
    messages.JobStarted(7),
    messages.JobStarted(7, ("the prompt repeats itself",)),
    messages.JobEvent(8, TextDelta("täxt", (TokenLogprob("t", (116,), -0.5),))),
    messages.JobEvent(8, Segment(0, 0.0, 1.0, " a", 3, (1, 2), words=(Word("a", 0.0, 0.5, 0.9),), speaker="A")),
    messages.JobEvent(8, AudioChunk(SOUND, 24_000)),
    messages.JobEvent(8, Progress(1, 2)),
    messages.JobEvent(8, Done("a", "en", "length", Usage(1, 2, 3, 4, 5.5), 9, {"encode": 0.5}, ("cut",))),
    messages.JobEvent(8, live.TurnStarted(0, 0.1)),
    messages.JobEvent(8, live.TurnStopped(0, 1.5)),
    messages.JobEvent(8, live.TurnCommitted(0, 0.1, 1.5)),
    messages.JobEvent(8, live.TurnDelta(0, "a", (TokenLogprob("t", (116,), -0.5),))),
    messages.JobEvent(8, live.TurnDone(0, "a", 1.4, "en", (Segment(0, 0.0, 1.0, " a"),), (), ("n",), {"decode": 0.5})),
    messages.JobEvent(8, live.TurnFailed(1, Failed("internal", "no"))),
    messages.JobEvent(8, live.CommitRefused(0.05)),
    messages.JobEvent(8, live.LiveCleared()),
    messages.LiveProgress(8, 3, 1.5, 0.25),
    messages.JobEnded(9),
    messages.Heartbeat(1, True, 2, 3, 4, 5),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
def test_every_message_comes_out_as_it_went_in(message: messages.Message) -> None:
    assert same(there_and_back(message), message)


def test_every_class_of_the_contract_is_covered_above() -> None:
    seen: set[str] = set()

    def walk(value: Any) -> None:
        if dataclasses.is_dataclass(value):
            seen.add(type(value).__name__)
            for f in dataclasses.fields(value):
                walk(getattr(value, f.name))
        elif isinstance(value, tuple):
            for item in value:
                walk(item)

    walk(tuple(MESSAGES))
    contract = [*vars(interface).items(), *vars(live).items()]
    crossing = {name for name, v in contract if isinstance(v, type) and dataclasses.is_dataclass(v)}
    names = {c.__name__ for c in typing.get_args(messages.Command) + typing.get_args(messages.Report)}
    assert crossing | names == seen


@settings(max_examples=50, deadline=None)
@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**60), 2**60)
        | st.floats(allow_nan=False)
        | st.text()
        | st.binary(max_size=20),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.lists(inner, max_size=4).map(tuple)
            | st.dictionaries(st.text().filter(lambda k: k != "\0"), inner, max_size=4)
        ),
        max_leaves=12,
    )
)
def test_options_of_any_shape_survive(value: Any) -> None:
    found = there_and_back(messages.StartJob(1, SpeechRequest("t", "v", options={"o": value})))
    assert isinstance(found, messages.StartJob)
    assert same(found.request.options["o"], value)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int16", "int64", "uint8", "bool"])
@pytest.mark.parametrize("shape", [(0,), (3,), (2, 0), (2, 3)])
def test_arrays_of_any_kind_survive(dtype: str, shape: tuple[int, ...]) -> None:
    array = np.ones(shape, dtype)
    found = there_and_back(messages.JobEvent(1, AudioChunk(array, 1)))  # type: ignore[arg-type]
    assert same(found.event.samples, array)  # type: ignore[union-attr]


def test_a_strided_array_survives() -> None:
    found = there_and_back(messages.JobEvent(1, AudioChunk(SOUND[::3], 1)))
    assert same(found.event.samples, SOUND[::3])  # type: ignore[union-attr]


def test_a_mapped_file_travels_as_its_path(tmp_path: Path) -> None:
    np.arange(1_000_000, dtype=np.float32).tofile(tmp_path / "audio")
    mapped = np.memmap(tmp_path / "audio", np.float32, mode="r")
    for view in (mapped, mapped[1000:5000], np.asarray(mapped)[7:], mapped[100:900][50:60]):
        frame = frames.encode(messages.StartJob(1, TranscriptionRequest(view)))
        assert len(frame) < 600
        found = frames.read_frame(io.BytesIO(frame))
        assert isinstance(found, messages.StartJob)
        assert isinstance(found.request, TranscriptionRequest)
        assert np.array_equal(found.request.samples, view)
        assert not found.request.samples.flags.writeable


def test_a_mapped_file_that_is_gone_names_its_job(tmp_path: Path) -> None:
    SOUND.tofile(tmp_path / "audio")
    frame = frames.encode(
        messages.StartJob(11, TranscriptionRequest(np.memmap(tmp_path / "audio", np.float32, mode="r")))
    )
    (tmp_path / "audio").unlink()
    with pytest.raises(frames.JobBroken) as broken:
        frames.read_frame(io.BytesIO(frame))
    assert broken.value.job == 11


def nested(depth: int) -> list[Any]:
    return [nested(depth - 1)] if depth else []


ODD = [object(), {1: 2}, {"\0": 1}, {"x": np.array([object()])}, {1, 2}, Exception(), 2**64, -(2**63) - 1, nested(400)]


@pytest.mark.parametrize("value", ODD, ids=lambda value: str(value)[:20])
def test_what_cannot_travel_is_refused(value: Any) -> None:
    with pytest.raises(frames.FrameError):
        frames.encode(messages.StartJob(1, SpeechRequest("t", "v", options={"o": value})))


def test_numpy_numbers_become_plain_ones() -> None:
    found = there_and_back(messages.JobEvent(1, Progress(np.int64(3), 4)))  # type: ignore[arg-type]
    assert found == messages.JobEvent(1, Progress(3, 4))


@pytest.mark.parametrize("length", [0, frames.MAX_FRAME_BYTES + 1, 2**32 - 1])
def test_absurd_lengths_are_refused_before_anything_is_read(length: int) -> None:
    with pytest.raises(frames.FrameError, match="corrupted"):
        frames.read_frame(io.BytesIO(struct.pack("<I", length) + b"rest"))


def test_a_message_over_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "MAX_FRAME_BYTES", 1000)
    with pytest.raises(frames.FrameError, match="over the limit"):
        frames.encode(messages.StartJob(1, TranscriptionRequest(np.zeros(1000, np.float32))))


@pytest.mark.parametrize("cut", [0, 2, 4, 10])
def test_a_stream_that_ends_in_a_frame_is_over(cut: int) -> None:
    assert frames.read_frame(io.BytesIO(frames.encode(messages.JobStarted(1))[:cut])) is None


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=80))
def test_noise_is_never_a_message(noise: bytes) -> None:
    with pytest.raises(frames.FrameError):
        frames.decode(noise)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 255), st.sampled_from(MESSAGES))
def test_a_changed_byte_gives_a_message_or_a_frame_error(place: int, byte: int, message: messages.Message) -> None:
    body = bytearray(frames.encode(message)[4:])
    body[place % len(body)] = byte
    try:
        frames.decode(bytes(body))
    except frames.FrameError:
        return
