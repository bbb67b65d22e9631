"""How a request goes to a replica and its events come back: frames of `backends.frames`, with the arrays apart.

Arrays travel beside the frame, because how they are sent depends on their size. Owns what goes into one message, and
how an ApiError of the replica's own pool becomes an event again. Knows no Ray.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.errors import ApiError, Draining, InvalidRequest, ModelUnavailable, OutOfMemory, WorkerLost
from backends import frames, messages
from backends.interface import Failed, Request

Arrays = tuple[NDArray[Any], ...]

_PLACE = np.empty(0, np.float32)  # stands in the frame for an array that travels beside it
_KINDS: tuple[tuple[type[ApiError], str], ...] = (
    (InvalidRequest, "invalid_input"),
    (ModelUnavailable, "model_unavailable"),
    (OutOfMemory, "out_of_memory"),
    (Draining, "worker_lost"),  # the replica ends: another one can take the job
    (WorkerLost, "worker_lost"),
)


def pack(request: Request | None) -> tuple[bytes, Arrays]:
    """The frame of a request and its arrays; None is the canary. Raises FrameError."""
    if request is None:
        return frames.encode(messages.StartCanary(0)), ()
    arrays: list[NDArray[Any]] = []

    def take_out(array: NDArray[Any]) -> NDArray[Any]:
        arrays.append(array.view(np.ndarray))  # a map of a file that other machines do not have
        return _PLACE

    return frames.encode(messages.StartJob(0, _with_arrays(request, take_out))), tuple(arrays)


def unpack(frame: bytes, arrays: Sequence[NDArray[Any]]) -> Request | None:
    """What `pack` was given. Raises FrameError."""
    (message,) = messages_in(frame)
    if isinstance(message, messages.StartCanary):
        return None
    if not isinstance(message, messages.StartJob):
        raise frames.FrameError(f"not a request: {type(message).__name__}")
    left = iter(arrays)
    request: Request = _with_arrays(message.request, lambda _: next(left))
    return request


def _with_arrays(value: Any, change: Any) -> Any:
    """The value with every array changed, in the order of the fields."""
    if isinstance(value, np.ndarray):
        return change(value)
    if isinstance(value, tuple):
        return tuple(_with_arrays(item, change) for item in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return dataclasses.replace(value, **{name: _with_arrays(getattr(value, name), change) for name in names})
    return value


def messages_in(data: bytes) -> Iterator[messages.Message]:
    """The messages of some frames behind one another. Raises FrameError."""
    at = 0
    while at < len(data):
        body = at + frames.HEAD_BYTES
        end = body + frames.body_length(data[at:body])
        yield frames.decode(data[body:end])
        at = end


def failure_of(error: ApiError) -> Failed:
    """The event from which `app.errors.from_failure` makes that error again."""
    kind = next((kind for error_type, kind in _KINDS if isinstance(error, error_type)), "internal")
    return Failed(kind, error.message, error.param, error.code)
