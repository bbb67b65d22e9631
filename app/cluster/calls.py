"""What a gateway asks of the replicas of one deployment, whoever carries the calls.

`app.cluster.handles` does it over Ray Serve; tests do it without. Knows no Ray.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from app.cluster.wire import Arrays

SIGN_OF_LIFE = 2.0  # seconds after which a replica says something on a stream that is silent
SILENCE = 10.0  # seconds after which a silent stream counts as lost: a cut network tells nobody


class CallFailed(Exception):
    """A call did not reach a replica, or its answer was cut. The text says why."""


@dataclass(frozen=True, slots=True)
class Report:
    """What one replica tells of itself.

    replica: its name; node: of its machine; pid: of its process; slots: jobs that may run at once; running: jobs by the
    gateway that sent them; loaded: the frame of its model's capabilities; state: of its worker; memory_bytes: held by
    it; factor: seconds of work per second of audio, None: not known yet; version: of its settings and code;
    devices: rows of /health.
    """

    replica: str
    node: str
    pid: int
    slots: int
    running: Mapping[str, int]
    loaded: bytes
    state: str
    memory_bytes: int
    factor: float | None
    version: str = ""
    devices: Sequence[Mapping[str, Any]] = field(default_factory=tuple)


class Calls(Protocol):
    """The replicas of one deployment."""

    async def first(self, seconds: float) -> Report:
        """The report of any replica; one is started if there is none. Raises CallFailed, also after `seconds`."""

    async def exchange(self, gateway: str, queued_seconds: float) -> list[Report]:
        """Tell every replica how much work waits here, and hear of each; [] without any. Raises CallFailed."""

    def run(self, gateway: str, request_id: str, frame: bytes, arrays: Arrays) -> AsyncIterator[bytes]:
        """The frames of a job's reports, some at a time; b"" is a sign of life. Closing the stream cancels the job.

        Raises CallFailed.
        """
