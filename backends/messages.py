"""What the gateway and a model worker say to each other.

Owns the messages; `backends.frames` encodes them. Knows no pipe and no process.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from backends.interface import Capabilities, Event, Failed, ModelFiles, Placement, Request
from backends.live import Feed, LiveEvent, LiveRequest

# --- Gateway -> worker -----------------------------------------------------------------------------------------------


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


# --- Worker -> gateway -----------------------------------------------------------------------------------------------


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
    """The backend accepted the job: it takes part in the next step. notes: of the job, as far as they stand."""

    job: int
    notes: tuple[str, ...] = ()


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
