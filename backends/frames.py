"""How the messages of `backends.messages` cross a pipe: length-prefixed msgpack, without pickle.

Owns their encoding; gateway and worker use it. A frame is a 4-byte little-endian length and one msgpack map that names
its class: msgspec would name only the classes of its own `Struct`, and requests and events are dataclasses. Arrays
travel as raw bytes; an array that is a view into a memory-mapped file travels as path, offset and length, so that two
hours of audio never cross the pipe. Knows no process and no event loop.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast, get_args

import msgspec
import numpy as np
from numpy.typing import NDArray

from backends import interface, live
from backends.messages import Command, Message, Report

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


_MESSAGES = (*get_args(Command), *get_args(Report))


def _dataclasses(values: Iterable[Any]) -> dict[str, type]:
    return {v.__name__: v for v in values if isinstance(v, type) and dataclasses.is_dataclass(v)}


_CLASSES: dict[str, type] = _dataclasses([*vars(interface).values(), *vars(live).values(), *_MESSAGES])
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
    if not isinstance(message, _MESSAGES):
        raise FrameError(f"not a message: {type(message).__name__}")
    return cast(Message, message)


def read_frame(stream: BinaryIO) -> Message | None:
    """The next message of a blocking stream, None at its end (also in the middle of a frame)."""
    head = stream.read(HEAD_BYTES)
    if len(head) < HEAD_BYTES:
        return None
    length = body_length(head)
    body = stream.read(length)
    return decode(body) if len(body) == length else None
