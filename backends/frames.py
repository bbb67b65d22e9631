"""How the values of `backends.interface` and `backends.live` cross a pipe: length-prefixed msgpack, without pickle.

Owns the messages between the gateway and a model worker and their encoding; both sides use it. A frame is a 4-byte
little-endian length and one msgpack map that names its class. Arrays travel as raw bytes; an array that is a view into
a memory-mapped file travels as path, offset and length, so that two hours of audio never cross the pipe. Knows no
process and no event loop.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np
from numpy.typing import NDArray

from backends import interface, live
from backends.interface import Capabilities, Event, Failed, ModelFiles, Placement, Request
from backends.live import Feed, LiveEvent, LiveRequest

MAX_FRAME_BYTES = 256 * 1024 * 1024  # a longer frame is a bug or a corrupted stream, never audio
_HEAD = struct.Struct("<I")
HEAD_BYTES = _HEAD.size


class FrameError(ValueError):
    """The bytes are not a frame of this protocol, or the value cannot become one."""


class JobBroken(FrameError):
    """A StartJob whose request cannot be read, say because its audio file is gone; `job` is its number."""

    def __init__(self, job: int, message: str) -> None:
        super().__init__(message)
        self.job = job


# --- Messages: gateway -> worker --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LoadModel:
    """The first message. batch_limit: at most so many jobs per step (0: as many as the backend can)."""

    backend: str
    model: ModelFiles
    placement: Placement
    batch_limit: int = 0


@dataclass(frozen=True, slots=True)
class StartJob:
    """Run a request; job: a number that the gateway chose and never used before with this worker."""

    job: int
    request: Request | LiveRequest


@dataclass(frozen=True, slots=True)
class FeedJob:
    """What a live job gets next. One for a job that is over is no error, the messages crossed."""

    job: int
    feed: Feed


@dataclass(frozen=True, slots=True)
class StartCanary:
    """Run the backend's own small request as a job."""

    job: int


@dataclass(frozen=True, slots=True)
class CancelJob:
    """The answer is no longer wanted; the worker frees the slot between steps and says JobEnded."""

    job: int


@dataclass(frozen=True, slots=True)
class LimitBatch:
    """From now on at most so many jobs per step (0: as many as the backend can)."""

    jobs: int


@dataclass(frozen=True, slots=True)
class Stop:
    """End the process. Closing the pipe says the same."""


# --- Messages: worker -> gateway --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Loaded:
    """The model is loaded and its canary passed. load_seconds, warm_seconds: what each took."""

    capabilities: Capabilities
    load_seconds: float
    warm_seconds: float


@dataclass(frozen=True, slots=True)
class DetailChanged:
    """The detail of the model's capabilities is another one now."""

    detail: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """The model cannot be loaded; the process ends."""

    failure: Failed


@dataclass(frozen=True, slots=True)
class JobStarted:
    """The backend accepted the job: it takes part in the next step."""

    job: int


@dataclass(frozen=True, slots=True)
class JobEvent:
    """An event of a running job."""

    job: int
    event: Event | LiveEvent


@dataclass(frozen=True, slots=True)
class LiveProgress:
    """How far a live job has come, sent after a turn of the loop in which that changed.

    feeds: FeedJobs that its backend has taken; seconds: seconds of audio in them; spent: seconds of work on the job,
    its equal part of every step it was in included.
    """

    job: int
    feeds: int
    seconds: float
    spent: float


@dataclass(frozen=True, slots=True)
class JobEnded:
    """The slot is free. Comes after the last event of a job, and alone after a cancel."""

    job: int


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Sent all the time by a thread of its own, so that a hung step can be told from an idle worker.

    steps: counts everything that ends (a load, a start, a step); working: the main thread is inside backend code;
    active, waiting: jobs in the step and before it; footprint_bytes: what the backend says it holds on its device;
    resident_bytes: memory of the process.
    """

    steps: int
    working: bool
    active: int
    waiting: int
    footprint_bytes: int
    resident_bytes: int


Command = LoadModel | StartJob | FeedJob | StartCanary | CancelJob | LimitBatch | Stop
Report = Loaded | DetailChanged | LoadFailed | JobStarted | JobEvent | LiveProgress | JobEnded | Heartbeat
Message = Command | Report

_COMMANDS = (LoadModel, StartJob, FeedJob, StartCanary, CancelJob, LimitBatch, Stop)
_REPORTS = (Loaded, DetailChanged, LoadFailed, JobStarted, JobEvent, LiveProgress, JobEnded, Heartbeat)


def _dataclasses(values: Iterable[Any]) -> dict[str, type]:
    return {v.__name__: v for v in values if isinstance(v, type) and dataclasses.is_dataclass(v)}


_CLASSES: dict[str, type] = _dataclasses([*vars(interface).values(), *vars(live).values(), *_COMMANDS, *_REPORTS])
_FIELDS: dict[type, tuple[str, ...]] = {c: tuple(f.name for f in dataclasses.fields(c)) for c in _CLASSES.values()}

# --- Values -> msgpack ------------------------------------------------------------------------------------------------

_TAG = "\0"  # the key that names a class; no mapping of ours has it


def _mapped_file(array: NDArray[Any]) -> tuple[str, int] | None:
    """Path and byte offset of a contiguous view into a memory-mapped file, None for any other array."""
    root: Any = array
    while isinstance(root.base, np.ndarray):
        root = root.base
    if not isinstance(root, np.memmap) or root.filename is None or not array.flags.c_contiguous:
        return None
    return str(root.filename), root.offset + array.ctypes.data - root.ctypes.data


def _pack_array(array: NDArray[Any]) -> dict[str, Any]:
    if array.dtype.hasobject or array.dtype.kind not in "fiub":
        raise FrameError(f"an array of {array.dtype} cannot cross the pipe")
    head = {_TAG: "array", "dtype": array.dtype.str, "shape": array.shape}
    mapped = _mapped_file(array) if array.size else None
    if mapped is None:
        return {**head, "bytes": np.ascontiguousarray(array).data.cast("B") if array.size else b""}
    return {**head, "path": mapped[0], "offset": mapped[1]}


def _pack(value: Any) -> Any:
    kind = type(value)
    if kind in (str, int, float, bool, bytes, type(None)):
        return value
    names = _FIELDS.get(kind)
    if names is not None:
        return {_TAG: kind.__name__, **{name: _pack(getattr(value, name)) for name in names}}
    if kind is tuple:
        return [_pack(item) for item in value]
    return _pack_other(value)


def _pack_other(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return _pack_array(value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Path):
        return {_TAG: "path", "path": str(value)}
    if isinstance(value, list):
        return {_TAG: "list", "items": [_pack(item) for item in value]}
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) and key != _TAG for key in value):
            raise FrameError("only text can be a key")
        return {key: _pack(item) for key, item in value.items()}
    raise FrameError(f"a {type(value).__name__} cannot cross the pipe")


# --- msgpack -> values ------------------------------------------------------------------------------------------------


def _unpack_array(wire: dict[str, Any]) -> NDArray[Any]:
    dtype, shape = np.dtype(wire["dtype"]), wire["shape"]
    if dtype.hasobject:
        raise FrameError(f"an array of {dtype} cannot cross the pipe")
    if "path" in wire:
        return np.memmap(wire["path"], dtype, mode="r", offset=wire["offset"], shape=tuple(shape))
    return np.frombuffer(wire["bytes"], dtype).reshape(shape)


_SPECIAL: dict[str, Callable[[dict[str, Any]], Any]] = {
    "array": _unpack_array,
    "path": lambda wire: Path(wire["path"]),
    "list": lambda wire: [_unpack(item) for item in wire["items"]],
}


def _unpack(wire: Any) -> Any:
    if isinstance(wire, list):
        return tuple(_unpack(item) for item in wire)
    if not isinstance(wire, dict):
        return wire
    tag = wire.pop(_TAG, None)
    if tag is None:
        return {key: _unpack(item) for key, item in wire.items()}
    if tag in _SPECIAL:
        return _SPECIAL[tag](wire)
    if tag not in _CLASSES:
        raise FrameError(f"unknown class {tag!r}")
    return _CLASSES[tag](**{key: _unpack(item) for key, item in wire.items()})


# --- Frames -----------------------------------------------------------------------------------------------------------

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder()


def encode(message: Message) -> bytes:
    """A whole frame. Raises FrameError for a value that cannot travel or is too long."""
    try:
        body = _encoder.encode(_pack(message))
    except OverflowError:
        raise FrameError("a whole number beyond 64 bits cannot cross the pipe") from None
    except RecursionError:
        raise FrameError("values nested so deeply cannot cross the pipe") from None
    if len(body) > MAX_FRAME_BYTES:
        raise FrameError(f"a message of {len(body)} bytes is over the limit of {MAX_FRAME_BYTES}")
    return _HEAD.pack(len(body)) + body


def body_length(head: bytes) -> int:
    """Length of the body that follows these 4 bytes. Raises FrameError where it is absurd."""
    (length,) = _HEAD.unpack(head)
    if not 0 < length <= MAX_FRAME_BYTES:
        raise FrameError(f"a frame of {length} bytes: the stream is corrupted")
    return int(length)


def decode(body: bytes) -> Message:
    """The message in a frame's body. Raises FrameError for anything else, JobBroken where a job's audio file is
    gone."""
    wire: Any = None
    try:
        wire = _decoder.decode(body)
        message = _unpack(wire)
    except OSError as error:
        raise JobBroken(int(wire.get("job", 0)), f"the audio of the request is gone: {error}") from error
    except (msgspec.DecodeError, TypeError, KeyError, ValueError) as error:
        raise FrameError(f"not a message: {error}") from error
    if not isinstance(message, (*_COMMANDS, *_REPORTS)):
        raise FrameError(f"not a message: {type(message).__name__}")
    return message


def read_frame(stream: BinaryIO) -> Message | None:
    """The next message of a blocking stream, None at its end (also in the middle of a frame)."""
    head = stream.read(HEAD_BYTES)
    if len(head) < HEAD_BYTES:
        return None
    length = body_length(head)
    body = stream.read(length)
    return decode(body) if len(body) == length else None
