"""What backends raise on purpose, and the event that such an error becomes; a part of `backends.interface`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Failed:
    """The last event of a job that did not succeed; kind is the `kind` of a BackendError."""

    kind: str
    message: str
    param: str | None = None
    code: str | None = None


class BackendError(Exception):
    """Base of what backends raise on purpose. `kind` crosses the process boundary in Failed."""

    kind: ClassVar[str] = "internal"

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message, self.param, self.code = message, param, code

    def to_event(self) -> Failed:
        return Failed(self.kind, self.message, self.param, self.code)


class InvalidInput(BackendError):
    """The request cannot be served as it is (400)."""

    kind = "invalid_input"


class ModelUnavailable(BackendError):
    """Weights or libraries are missing or broken; the message names what and the command that cures it (503)."""

    kind = "model_unavailable"


class OutOfMemory(BackendError):
    """The device has no room for this load or job (503 once the gateway has tried everything)."""

    kind = "out_of_memory"


class DeviceLost(BackendError):
    """The device is gone for this process for good, not for others: the worker ends and the gateway starts another
    (503)."""

    kind = "worker_lost"
