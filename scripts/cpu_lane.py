"""The model families on another processor than this one: kernels, loading and one answer each, from the tiny
checkpoints.

    python scripts/cpu_lane.py avx2      a processor with AVX2 and neither AVX-512 nor VNNI (Haswell)
    python scripts/cpu_lane.py sse42     one without AVX (Nehalem)
    python scripts/cpu_lane.py arm64     a 64-bit ARM one, with a Python of its own (`arm64_python`)
    python scripts/cpu_lane.py here      this machine as it is

The real interpreter runs under qemu-user, which gives a program the processor that is asked for: what the libraries
choose there, and what they cannot do, is as on such a machine. Where this machine is already of the kind, nothing is
emulated.
Each part is a process of its own, so that one which ends by an illegal instruction is named; as many run at the same
time as there are cores, because each computes with one thread.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from backends.interface import Event, Request

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "tests" / "data"
LONGEST = 2400  # seconds of one part, under emulation on a busy machine


@dataclass(frozen=True, slots=True)
class Profile:
    """emulator, processor: of qemu-user; has, missing: features, as Linux names them, of a machine that is of the kind
    itself."""

    emulator: str
    processor: str
    has: frozenset[str] = frozenset()
    missing: frozenset[str] = frozenset()


PROFILES = {
    "avx2": Profile("qemu-x86_64", "Haswell", frozenset({"avx2"}), frozenset({"avx512f", "avx_vnni"})),
    "sse42": Profile("qemu-x86_64", "Nehalem", frozenset({"sse4_2"}), frozenset({"avx"})),
    "arm64": Profile("qemu-aarch64", "cortex-a72", frozenset({"asimd"})),
    "here": Profile("", ""),
}


class LaneUnavailable(Exception):
    """What a profile needs is not on this machine; the text says what."""


# --- the parts, in the emulated interpreter --------------------------------------------------------------------------


def kernels() -> str:
    """What is used here, and what is given up and why."""
    import torch

    from backends.transformer import kernel_checks
    from backends.transformer.cpu_int8.kernels import kernels as compiled_loops

    kernel = kernel_checks.int8_kernel()
    lines = [f"int8: {kernel.name}, levels to {kernel.levels}" if kernel else "int8: weights are widened"]
    lines += [f"packed {dtype}: {kernel_checks.packs(dtype)}" for dtype in (torch.float32, torch.bfloat16)]
    lines.append(f"compiled loops: {compiled_loops() is not None}")
    return "\n".join(lines + [f"given up: {name}: {reason}" for name, reason in kernel_checks.fallbacks().items()])


def products() -> str:
    """A product in every number format, as near to the exact one as the format allows."""
    import torch

    from backends.transformer.linear import Precision, make_linear, precision

    generator = torch.Generator().manual_seed(0)
    weight, x = torch.randn(96, 128, generator=generator), torch.randn(20, 128, generator=generator)
    exact, lines = x @ weight.T, []
    kinds = [(precision("int8"), 0.03)]
    for dtype, share in ((torch.float32, 1e-5), (torch.bfloat16, 0.02)):
        kinds += [(Precision(dtype, weights), share) for weights in ("dense", "packed")]
    for kind, share in kinds:
        error = float((make_linear(weight, kind)(x.to(kind.compute)).float() - exact).abs().max() / exact.abs().max())
        lines.append(f"{kind.compute} {kind.weights}: off by {error:.1e} of the largest value")
        if not error <= share:
            raise AssertionError(f"{lines[-1]}; {share:.0e} is allowed")
    return "\n".join(lines)


def whisper() -> str:
    """A second of sound through Whisper in both formats of the CPU."""
    from backends.interface import TranscriptionRequest

    folder = DATA / "whisper_tiny"
    return "\n".join(
        _answered("whisper", folder, dtype, {"vad": False}, TranscriptionRequest(_sound()))
        for dtype in ("float32", "int8")
    )


def diffa() -> str:
    """A question about a second of sound."""
    from backends.interface import AudioPart, ChatRequest, Message, TextPart

    options = {"whisper_model": str(DATA / "diffa" / "whisper"), "adapter_model": str(DATA / "diffa" / "adapter")}
    question = ChatRequest(
        (Message("user", (AudioPart(_sound()), TextPart("Who speaks?"))),), options={"preset": "mmsu"}
    )
    return "\n".join(
        _answered("diffa", DATA / "diffa" / "llm", dtype, options, question) for dtype in ("auto", "int8", "bfloat16")
    )


def llasa() -> str:
    """A few tokens of speech."""
    from backends.interface import SpeechRequest

    options = {"codec_model": str(DATA / "llasa" / "codec")}
    request = SpeechRequest("Hello.", "default", seed=1, options={"max_new_tokens": 12})
    dtypes = ("auto", "int8", "bfloat16")
    return "\n".join(_answered("llasa", DATA / "llasa" / "lm", dtype, options, request) for dtype in dtypes)


def csm() -> str:
    """Half a second of speech from a tiny model that is made for it."""
    from backends.interface import SpeechRequest
    from scripts.fixtures.tiny_csm import make_tiny_csm

    request = SpeechRequest("Hello.", "0", seed=1, options={"max_seconds": 0.5})
    with tempfile.TemporaryDirectory() as folder:
        place = make_tiny_csm(Path(folder) / "csm")
        dtypes = ("auto", "int8", "bfloat16")
        return "\n".join(_answered("csm", place, dtype, {"watermark": False}, request) for dtype in dtypes)


def _sound() -> Any:
    import numpy as np

    return (0.3 * np.sin(np.arange(16_000) * 0.05)).astype(np.float32)


def _answered(name: str, folder: Path, dtype: str, options: dict[str, Any], request: Request) -> str:
    """Load the backend, have one request answered to its end, and say what came of it. Raises AssertionError."""
    from backends import drive
    from backends.interface import ModelFiles, Placement
    from backends.registry import backend_info, check_options, make_backend

    backend = make_backend(name)
    with tempfile.TemporaryDirectory() as place:
        files = ModelFiles(
            "lane", str(folder), folder, Path(place), Path(place), check_options(backend_info(name), options)
        )
        capabilities = backend.load(files, Placement(dtype=dtype))
        events = list(drive.events(backend, request))
    kinds = {type(event).__name__: sum(type(other) is type(event) for other in events) for event in events}
    if type(events[-1]).__name__ != "Done":
        raise AssertionError(f"{name} in {dtype} ended with {events[-1]!r}")
    _check_sound(name, events)
    return f"{name} in {dtype} ran in {capabilities.dtype}: {kinds}"


def _check_sound(name: str, events: Sequence[Event]) -> None:
    """Sound, where there is any, is made of numbers."""
    import numpy as np

    from backends.interface import AudioChunk

    chunks = [event.samples for event in events if isinstance(event, AudioChunk)]
    if chunks and not np.isfinite(np.concatenate(chunks)).all():
        raise AssertionError(f"{name} gave sound that is not made of numbers")


# The longest first, so that no core waits at the end.
PARTS: dict[str, Callable[[], str]] = {
    "llasa": llasa,
    "csm": csm,
    "diffa": diffa,
    "whisper": whisper,
    "products": products,
    "kernels": kernels,
}


# --- the lane ---------------------------------------------------------------------------------------------------------


def emulation(profile: Profile, features: frozenset[str]) -> list[str]:
    """The command before the interpreter's: none where a machine with these features is of the kind itself.

    Raises LaneUnavailable without the emulator.
    """
    if not profile.emulator or (features and profile.has <= features and not profile.missing & features):
        return []
    if shutil.which(profile.emulator) is None:
        raise LaneUnavailable(f"{profile.emulator} is not installed (Debian: apt-get install qemu-user)")
    return [profile.emulator, "-cpu", profile.processor]


def interpreter(name: str) -> tuple[str, dict[str, str]]:
    """The Python that the parts run in, and the variables it needs. Raises LaneUnavailable."""
    if name != "arm64" or _is_arm():
        return sys.executable, {}
    from scripts import arm64_python
    from scripts.provision import SetupError

    try:
        made = arm64_python.prepare()
    except SetupError as error:
        raise LaneUnavailable(str(error)) from error
    return str(made.interpreter), dict(made.variables)


def _is_arm() -> bool:
    import platform

    return platform.machine().lower() in ("aarch64", "arm64")


def cpu_features() -> frozenset[str]:
    """The features of this machine's processor; nothing is known of them but on Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    named = (line.split(":", 1)[1] for line in lines if line.lower().startswith(("flags", "features")) and ":" in line)
    return frozenset(next(named, "").split())


def run_lane(name: str, parts: Sequence[str]) -> int:
    """Run the parts, as many at a time as there are cores; the number of those that failed. Raises LaneUnavailable."""
    emulator = emulation(PROFILES[name], cpu_features())
    python, variables = interpreter(name)
    command = [*emulator, python, str(Path(__file__).resolve()), "--part"]
    environment = {
        **os.environ,
        **variables,
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), variables.get("PYTHONPATH")))),
        "OMP_NUM_THREADS": "1",
        "NO_TORCH_COMPILE": "1",
        "HF_HUB_OFFLINE": "1",
    }
    print(f"{name}: {' '.join(command[:-2])}", flush=True)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return sum(
            not passed for passed in pool.map(lambda part: _run_part([*command, part], part, environment), parts)
        )


def _run_part(command: list[str], part: str, environment: dict[str, str]) -> bool:
    began = time.perf_counter()
    output = b""
    try:
        done = subprocess.run(
            command,
            env=environment,
            cwd=ROOT,
            timeout=LONGEST,
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        outcome, output = "ok" if done.returncode == 0 else f"FAILED, exit status {done.returncode}", done.stdout
    except subprocess.TimeoutExpired as error:
        outcome, output = f"FAILED, it took more than {LONGEST} s", error.stdout or b""
    text = output.decode("utf-8", "replace")
    print(f"{text}--- {part}: {outcome} ({time.perf_counter() - began:.0f} s)", flush=True)
    return outcome == "ok"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("profile", nargs="?", choices=PROFILES, default="avx2")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="these parts")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.part:
        print(PARTS[chosen.part](), flush=True)
        return 0
    try:
        return 1 if run_lane(chosen.profile, chosen.only) else 0
    except LaneUnavailable as error:
        print(f"{chosen.profile}: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    raise SystemExit(main())
