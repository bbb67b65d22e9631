"""What the session core asks of the world around it: events for the client, feeds for the recognizer, answers.

Owns these values, and the shape of an error event. Knows neither sockets nor jobs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from app.config.deployments import Deployment
from app.errors import ApiError
from app.realtime.formats import AudioFormat
from backends.live import LiveClear, LiveCommit

NewId = Callable[[str], str]  # prefix -> a new id that begins with it


@dataclass(frozen=True, slots=True)
class Send:
    """An event for the client."""

    event: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Audio:
    """Bytes for the recognizer, whole samples."""

    data: bytes
    format: AudioFormat


@dataclass(frozen=True, slots=True)
class Feed:
    """For the recognizer, after the audio before it."""

    feed: LiveCommit | LiveClear


@dataclass(frozen=True, slots=True)
class Configure:
    """The session's settings for the recognizer have changed; the session has them."""


@dataclass(frozen=True, slots=True)
class Diarize:
    """Tell the speakers of a committed turn apart. deployment: that does it; audio: as it came, its end if not all of
    it is kept; seconds: of the turn."""

    turn: int
    deployment: Deployment
    audio: bytes
    format: AudioFormat
    seconds: float


@dataclass(frozen=True, slots=True)
class HistoryPart:
    """One message of the conversation, as the chat side gets it.

    role: system, user, assistant, or tool; text: what was written or said; audio: a user's speech as it came, b"" if it
    is not kept; call_id: of a function's call (role assistant, with name) or of its output (role tool).
    """

    role: str
    text: str
    audio: bytes = b""
    format: AudioFormat = field(default_factory=AudioFormat)
    call_id: str = ""
    name: str = ""
    item_id: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """One answer to be made. verbatim: speak this text, asking nobody; spoken: in speech and not only in text."""

    response_id: str
    item_id: str
    instructions: str
    history: tuple[HistoryPart, ...]
    spoken: bool
    voice: str
    speed: float
    format: AudioFormat
    max_tokens: int | None = None
    temperature: float | None = None
    tools: tuple[Mapping[str, Any], ...] = ()
    tool_choice: Any = "auto"
    verbatim: str | None = None


@dataclass(frozen=True, slots=True)
class Respond:
    """Begin to make an answer."""

    plan: Plan


@dataclass(frozen=True, slots=True)
class Stop:
    """Make no more of an answer."""

    response_id: str


@dataclass(frozen=True, slots=True)
class IdleTimer:
    """Tell the core when so many seconds have passed without another of these; None: do not."""

    seconds: float | None


Output = Send | Audio | Feed | Configure | Diarize | Respond | Stop | IdleTimer


class Outbox:
    """The outputs since they were last taken, in order."""

    def __init__(self, new_id: NewId) -> None:
        self.new_id = new_id
        self._outputs: list[Output] = []

    def put(self, output: Output) -> None:
        self._outputs.append(output)

    def send(self, kind: str, **fields: Any) -> None:
        """An event of the type `kind`."""
        self.put(Send({"type": kind, "event_id": self.new_id("event_"), **fields}))

    def error(self, error: ApiError, event_id: str | None = None) -> None:
        """An error event. event_id: of the client's event that is to blame."""
        self.send("error", error=error_document(error) | {"event_id": event_id})

    def take(self) -> list[Output]:
        taken, self._outputs = self._outputs, []
        return taken


def error_document(error: ApiError) -> dict[str, Any]:
    """{"type", "code", "message", "param"} of an error event."""
    return {"type": error.type, "code": error.code, "message": error.message, "param": error.param}


def failure_document(error: ApiError) -> dict[str, Any]:
    """The same inside another event, without what is unknown: some clients refuse null there."""
    return {name: value for name, value in error_document(error).items() if value is not None}
