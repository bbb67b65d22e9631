"""Live speech to text, as the gateway and a backend see it: a job whose audio comes while it runs.

Owns the values of such a job: what it is started with, what it is fed, and what it tells. The rest of the contract is
`backends.interface`; like it, this module knows no HTTP and no tensor library.

A live job is one stream of audio, cut into turns by the backend's own voice activity detection or by the client's
commits. The backend decides alone where turns begin and end, so that there is one truth about their order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from backends.interface import Event, Failed, Job, Request, Samples, Segment, TokenLogprob


@dataclass(frozen=True, slots=True)
class TurnDetection:
    """Server voice activity detection of live audio: threshold 0..1, times in milliseconds."""

    threshold: float = 0.5
    prefix_padding_ms: int = 300
    silence_duration_ms: int = 500


@dataclass(frozen=True, slots=True)
class LiveRequest:
    """Live speech to text: a job whose audio is fed to it while it runs, turn after turn, until a LiveEnd.

    language, languages, prompt, keywords, logprobs: as in TranscriptionRequest; words: the segments of each whole turn
    need the times of their words; turn_detection: None = the client ends each turn with a LiveCommit;
    max_turn_seconds: a longer turn is committed without being asked.
    """

    language: str | None = None
    languages: tuple[str, ...] = ()
    prompt: str = ""
    keywords: tuple[str, ...] = ()
    logprobs: bool = False
    words: bool = False
    turn_detection: TurnDetection | None = field(default_factory=TurnDetection)
    max_turn_seconds: float = 300.0
    options: Mapping[str, Any] = field(default_factory=dict)


# --- What a live job is fed -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LiveAudio:
    """The next piece of audio. samples: float32 [time] at 16 kHz, any length."""

    samples: Samples


@dataclass(frozen=True, slots=True)
class LiveCommit:
    """The client ends the turn here. Answered by TurnCommitted, or by CommitRefused where there is too little of it."""


@dataclass(frozen=True, slots=True)
class LiveClear:
    """Forget the audio of the open turn, whose number is not used again; committed turns go on. Answered by
    LiveCleared."""


@dataclass(frozen=True, slots=True)
class LiveSettings:
    """From here on the settings of this request count; the open turn keeps its audio."""

    request: LiveRequest


@dataclass(frozen=True, slots=True)
class LiveEnd:
    """No more audio comes: an open turn is dropped, committed ones are finished, then the job is done."""


Feed = LiveAudio | LiveCommit | LiveClear | LiveSettings | LiveEnd


# --- What a live job tells --------------------------------------------------------------------------------------------
# turn: counts from 0, in the order of speech; times: seconds of audio fed since the job began.


@dataclass(frozen=True, slots=True)
class TurnStarted:
    """Turn detection heard speech; start: with its prefix padding."""

    turn: int
    start: float


@dataclass(frozen=True, slots=True)
class TurnStopped:
    """Turn detection heard the end of speech; end: with the silence that told it. A TurnCommitted follows.

    A turn that reaches max_turn_seconds is stopped so too; where the speech goes on, the next one starts there.
    """

    turn: int
    end: float


@dataclass(frozen=True, slots=True)
class TurnCommitted:
    """The audio of the turn is complete: exactly one TurnDone or TurnFailed of it follows."""

    turn: int
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class TurnDelta:
    """Words of a turn that will not change. Without turn detection they may come before anything else of the turn."""

    turn: int
    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class TurnDone:
    """The whole text of a turn, as an ordinary transcription of the same audio gives it.

    segments: times from the beginning of the turn; seconds: of audio in the turn.
    """

    turn: int
    text: str
    seconds: float
    language: str | None = None
    segments: tuple[Segment, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    notes: tuple[str, ...] = ()
    timings: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TurnFailed:
    """A committed turn that cannot be transcribed; the job goes on."""

    turn: int
    failure: Failed


@dataclass(frozen=True, slots=True)
class CommitRefused:
    """A LiveCommit with too little audio behind it. seconds: how much there is."""

    seconds: float


@dataclass(frozen=True, slots=True)
class LiveCleared:
    """The answer to LiveClear."""


LiveEvent = TurnStarted | TurnStopped | TurnCommitted | TurnDelta | TurnDone | TurnFailed | CommitRefused | LiveCleared


# --- The protocol -----------------------------------------------------------------------------------------------------


class LiveBackend(Protocol):
    """A backend whose `Capabilities.max_live` is not 0: what it has beside `backends.interface.Backend`.

    A live job takes part in a step only while it has work, beside the jobs that count for the batch limit. It is over
    once its Done or Failed was given, which is after a LiveEnd; all else that it gives is a LiveEvent.
    """

    def start(self, request: Request | LiveRequest) -> Job:
        """Raises InvalidInput for a request it cannot serve."""

    def step(self, jobs: Sequence[Job]) -> Iterable[tuple[Job, Event | LiveEvent]]:
        """One iteration for the active jobs and for those live ones that have work."""

    def feed(self, job: Job, feed: Feed) -> None:
        """Take what comes next, in order, between steps. Nothing that takes long belongs here: it is work of a step."""

    def has_work(self, job: Job) -> bool:
        """Whether a step would do or tell something. Without it the worker waits for the next feed."""

    def is_full(self, job: Job) -> bool:
        """Whether the job takes nothing more until steps have worked off what it holds; it has work then."""
