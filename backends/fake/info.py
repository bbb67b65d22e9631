"""What the gateway may know of the test double: options that make it slow, big, broken or dead on demand.

The double does any of the three tasks deterministically and is never configured by default. It is a documented backend
and not a mock, so that everything above the contract is tested through real worker processes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from backends.interface import Task
from backends.registry import BackendInfo

Place = Literal["", "load", "start", "step"]
Fault = Literal["", "invalid_input", "model_unavailable", "error"]


@dataclass(frozen=True, slots=True)
class FakeOptions:
    """Keys of a deployment with backend = "fake".

    task: what it does; delay: seconds of sleep per step; burn: seconds of CPU per step; steps: steps per job (0: as
    many as the work has pieces); load_seconds: sleep while loading; max_batch: jobs per step; memory: bytes it claims;
    allocate: really fill that much memory; growth: bytes that the first job makes it allocate for good; diarization:
    label two speakers in turn (otherwise such a request is refused); native_speed: honour the speed of a speech request
    itself; noise: print on stdout while working, from Python and below it.

    Faults, from which the warm-up is spared: fail_load, fail_start, fail_step: the error raised there; oom_at,
    crash_at, hang_at: out of memory, sudden death, or an endless wait there; oom_batch: out of memory whenever a step
    holds more jobs than this (0: never); oom_device: restrict out of memory to devices whose name starts so;
    fault_step: which step of a job is meant (1 = first); fault_times: how often a fault happens before all is well (-1:
    always), counted over restarts where counter_file names a file to keep the count in.
    """

    task: Task = "transcription"
    delay: float = 0.0
    burn: float = 0.0
    steps: int = 0
    load_seconds: float = 0.0
    max_batch: int = 4
    memory: int = 0
    allocate: bool = False
    growth: int = 0
    diarization: bool = False
    native_speed: bool = False
    noise: bool = False
    fail_load: Fault = ""
    fail_start: Fault = ""
    fail_step: Fault = ""
    oom_at: Place = ""
    crash_at: Place = ""
    hang_at: Place = ""
    oom_batch: int = 0
    oom_device: str = ""
    fault_step: int = 1
    fault_times: int = -1
    counter_file: str = ""


INFO = BackendInfo(
    name="fake",
    entry="backends.fake.backend:FakeBackend",
    tasks=("transcription", "speech", "chat"),
    engines=("fake",),
    options=FakeOptions,
    words=True,
    translation=True,
    diarization=True,
    licence="part of this project",
)
