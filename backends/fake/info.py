"""What the gateway may know of the test double: options that make it slow, big, broken or dead on demand.

The double does any of the tasks deterministically and is never configured by default. It is a documented backend
and not a mock, so that everything above the contract is tested through real worker processes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta

from backends.interface import Task
from backends.registry import BackendInfo

Place = Literal["", "load", "start", "step"]
Fault = Literal["", "invalid_input", "model_unavailable", "error"]


@dataclass(frozen=True, slots=True)
class FakeOptions:
    """Keys of a deployment with backend = "fake". The warm-up is spared from the faults."""

    task: Annotated[Task, Meta(description="What it does.")] = "transcription"
    delay: Annotated[float, Meta(description="Sleep per step, seconds.")] = 0.0
    burn: Annotated[float, Meta(description="Processor time per step, seconds.")] = 0.0
    steps: Annotated[int, Meta(description="Steps per job; 0: as many as the work has pieces.")] = 0
    load_seconds: Annotated[float, Meta(description="Sleep while loading, seconds.")] = 0.0
    max_batch: Annotated[int, Meta(description="Most jobs per step.")] = 4
    memory: Annotated[int, Meta(description="Memory that it claims, bytes.")] = 0
    allocate: Annotated[bool, Meta(description="Really fill that much memory.")] = False
    growth: Annotated[int, Meta(description="Memory that the first job makes it allocate for good, bytes.")] = 0
    diarization: Annotated[
        bool, Meta(description="Label two speakers in turn; otherwise such a request is refused.")
    ] = False
    native_speed: Annotated[bool, Meta(description="Honour the speed of a speech request itself.")] = False
    noise: Annotated[bool, Meta(description="Print on stdout while working, from Python and below it.")] = False
    fail_load: Annotated[Fault, Meta(description="Error raised by a load.")] = ""
    fail_start: Annotated[Fault, Meta(description="Error raised at the start of a job.")] = ""
    fail_step: Annotated[Fault, Meta(description="Error raised by a step.")] = ""
    oom_at: Annotated[Place, Meta(description="Where it runs out of memory.")] = ""
    crash_at: Annotated[Place, Meta(description="Where it dies suddenly.")] = ""
    hang_at: Annotated[Place, Meta(description="Where it waits for ever.")] = ""
    oom_batch: Annotated[
        int, Meta(description="Run out of memory whenever a step holds more jobs than this; 0: never.")
    ] = 0
    oom_device: Annotated[str, Meta(description="Run out of memory only on devices whose name starts so.")] = ""
    max_live: Annotated[int, Meta(description="Most live jobs; 0: it hears none.")] = 16
    fail_turn: Annotated[int, Meta(description="Turn of a live job that cannot be transcribed; 1 = first.")] = 0
    fault_step: Annotated[int, Meta(description="Which step of a job the faults mean; 1 = first.")] = 1
    fault_times: Annotated[int, Meta(description="How often a fault happens before all is well; -1: always.")] = -1
    counter_file: Annotated[str, Meta(description="File that keeps the count of faults over restarts.")] = ""


INFO = BackendInfo(
    name="fake",
    entry="backends.fake.backend:FakeBackend",
    tasks=("transcription", "speech", "chat", "diarization"),
    engines=("fake",),
    options=FakeOptions,
    words=True,
    translation=True,
    diarization=True,
    live=True,
    single_threaded=True,
    request_fields=(
        "steps",
        "block_length",
        "cfg_scale",
        "cache",
        "threshold",
        "factor",
        "early_stop",
        "preset",
    ),  # DIFFA's
    licence="part of this project",
)
