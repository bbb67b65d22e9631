"""What a backend answers in the test's own process; `run` and `finish` are those of `backends.drive`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from backends.drive import finish, run
from backends.interface import AudioChunk, Done, Event, Samples

__all__ = ["done_of", "finish", "run", "samples_of"]


def samples_of(events: Sequence[Event]) -> Samples:
    """float32 [samples]: the audio of one request's events; empty without any."""
    chunks = [event.samples for event in events if isinstance(event, AudioChunk)]
    return np.concatenate(chunks) if chunks else np.zeros(0, np.float32)


def done_of(events: Sequence[Event]) -> Done:
    """The event that ended a request well."""
    last = events[-1]
    assert isinstance(last, Done), last
    return last
