"""Which model runs where, with which numbers, and how much memory and how many threads it gets.

Owns the placement and dtype rules, the budgets, the thread budget, and the measured footprints. The inventory
is made by a short-lived process (`python -m backends.devices --json`): this module imports no tensor library, so the
gateway may import it. Sizes are bytes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import platformdirs

from backends import children
from backends.interface import ModelUnavailable, Placement
from backends.inventory import Device as Device  # what the gateway knows of devices, it knows through this module
from backends.inventory import Inventory as Inventory
from backends.inventory import cpu_inventory, probe
from backends.registry import BackendInfo

Budget = Literal["auto"] | Mapping[str, str | int]

CPU_SHARE = 0.8  # of the memory that is free at start, when the budget is "auto"; the rest is for everyone else
GPU_SHARE = 0.9
WEIGHTS_FACTOR = 1.2  # memory per byte of weights, before the first measurement
WORKER_BYTES = 64 << 20  # a worker without weights: interpreter, numpy and what its first requests allocate
# What importing a library adds to a worker's resident memory, before the first measurement: Linux, builds for the CPU,
# torch 2.13, transformers 5.23, onnxruntime with one session; measured 2026-11-21 on 2 cores of an AMD EPYC.
LIBRARY_BYTES = {
    "torch": 480 << 20,
    "transformers": 24 << 20,
    "accelerate": 220 << 20,  # with what transformers loads beside it
    "silentcipher": 64 << 20,
    "onnxruntime": 48 << 20,
}
FADING = 0.9  # of a remembered footprint that is left after a life in which the model needed less
UNLIMITED = 1 << 62  # budget of a device that does not tell its memory
_LIBRARY_OF_ENGINE = {"onnx": "onnxruntime"}  # every other engine that needs a GPU uses torch

_UNITS = {"": 1, "b": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "kb": 10**3, "mb": 10**6, "gb": 10**9}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", re.IGNORECASE)


def parse_bytes(size: str | int) -> int:
    """A number of bytes, or text such as "14GiB", "800 MB". Raises ValueError for anything else."""
    match = _SIZE.fullmatch(str(size))
    if match is None or match[2].lower() not in _UNITS:
        raise ValueError(f"{size!r} is not a size such as 14GiB, 800MB or a number of bytes")
    return (
        int(float(match[1]) * _UNITS[match[2].lower()]) if "." in match[1] else int(match[1]) * _UNITS[match[2].lower()]
    )


@dataclass(frozen=True, slots=True)
class Decision:
    """A placement and, where the CPU was only second choice, the cause as a sentence."""

    placement: Placement
    fell_back: str = ""


class FootprintCache:
    """Measured footprints, kept in a file over restarts. Estimates are only less precise where it cannot be written."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._sizes: dict[str, int] = {}
        if path is not None and path.is_file():
            self._read(path)

    def _read(self, path: Path) -> None:
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return  # an unreadable file is an empty one
        if isinstance(stored, dict):
            self._sizes = {str(key): size for key, size in stored.items() if isinstance(size, int) and size > 0}

    def get(self, key: str) -> int | None:
        return self._sizes.get(key)

    def record(self, key: str, size: int) -> None:
        """Keep this measurement; small changes are not worth a write."""
        known = self._sizes.get(key, 0)
        self._sizes[key] = size
        if self._path is None or abs(size - known) < 0.02 * size:
            return
        draft = self._path.with_suffix(".new")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            draft.write_text(json.dumps(self._sizes, indent=1, sort_keys=True), encoding="utf-8")
            draft.replace(self._path)
        except OSError:
            return


def footprint_cache_path() -> Path:
    """Where the footprints of this user's machine are kept."""
    return Path(platformdirs.user_cache_dir("speech-gateway", appauthor=False)) / "footprints.json"


class DeviceManager:
    """Decides; holds no process and no lock. Used from one thread."""

    def __init__(
        self, budget: Budget = "auto", *, footprint_cache: Path | None = None, inventory: Inventory | None = None
    ) -> None:
        self._own = inventory or cpu_inventory()
        self._others: dict[str, Inventory] = {}
        self._budgets = {} if budget == "auto" else {device: parse_bytes(size) for device, size in budget.items()}
        self._footprint_cache = FootprintCache(footprint_cache)
        self._threads: dict[str, int] = {}

    def learn(self, inventory: Inventory, python: str = "") -> None:
        """Take the result of a probe; python: whose, "" = the gateway's own interpreter."""
        if python:
            self._others[python] = inventory
        else:
            self._own = inventory

    @property
    def inventory(self) -> Inventory:
        """Everything that any interpreter can use, each device once."""
        devices = {device.id: device for known in (*self._others.values(), self._own) for device in known.devices}
        cpu = devices.pop("cpu")
        return dataclasses.replace(self._own, devices=(*devices.values(), cpu))

    # --- Where --------------------------------------------------------------------------------------------------------

    def place(
        self,
        info: BackendInfo,
        *,
        engine: str = "auto",
        device: str = "auto",
        dtype: str = "auto",
        python: str = "",
        has_libraries: Callable[[str], bool] = lambda engine: True,
    ) -> Decision:
        """The best device and engine. Raises ModelUnavailable for a preference that this machine cannot meet."""
        inventory = self._others.get(python, self._own)
        engines = [e for e in info.engines if has_libraries(e)] if engine == "auto" else [engine]
        if engine != "auto" and engine not in info.engines:
            raise ModelUnavailable(f"backend {info.name} has no engine {engine!r} (it has: {', '.join(info.engines)})")
        for kind, candidate in _candidates(info, inventory, device):
            for name in engines or info.engines:
                preference = info.engine_device_preference.get(name, info.device_preference)
                if kind in (*preference, *info.named_devices) and _can_use(name, candidate):
                    return self._decide(info, inventory, name, candidate, dtype, asked=device)
        there = ", ".join(f"{d.id} ({d.name})" for d in inventory.devices)
        why = dict(inventory.notes).get(device.partition(":")[0])
        raise ModelUnavailable(
            f"backend {info.name} cannot run on {device!r} here; this machine has {there}{f' ({why})' if why else ''}"
        )

    def _decide(
        self, info: BackendInfo, inventory: Inventory, engine: str, device: Device, dtype: str, asked: str
    ) -> Decision:
        device_preference = info.engine_device_preference.get(engine, info.device_preference)
        cause = ""
        if asked != "auto":
            reason = f"{device.id} ({device.name}): as configured"
        elif device.kind != "cpu":
            reason = f"{device.id} ({device.name}): the best device here for {info.name}"
        elif (missed := [kind for kind in info.device_preference if kind != "cpu"]) and info.device_preference[
            0
        ] != "cpu":
            cause = "; ".join(_why_not(inventory, kind) for kind in missed)
            reason = f"cpu, because there is no better device: {cause}"
        else:
            reason = (
                f"cpu: {info.name} wants no other device"
                if device_preference == ("cpu",)
                else f"cpu: the best device for {info.name}"
            )
        return Decision(Placement(device.id, resolve_dtype(dtype, device), engine, reason=reason), cause)

    # --- How much -----------------------------------------------------------------------------------------------------

    def device(self, device_id: str) -> Device | None:
        return next((device for device in self.inventory.devices if device.id == device_id), None)

    def budget(self, device_id: str) -> int:
        """Bytes that all models together may hold on a device."""
        kind = device_id.partition(":")[0]
        for name in (device_id, kind):
            if name in self._budgets:
                return self._budgets[name]
        device = self.device(device_id)
        if device is None or not device.memory_total:
            return UNLIMITED
        share = CPU_SHARE if kind == "cpu" else GPU_SHARE
        return int(share * device.memory_free)

    @staticmethod
    def key(info: BackendInfo, model: str, placement: Placement, options: Mapping[str, Any]) -> str:
        """What a measured footprint is remembered under."""
        digest = hashlib.sha256(repr(sorted(options.items())).encode()).hexdigest()[:8]
        return f"{info.name} {model or '-'} {digest} {placement.engine} {placement.dtype} {placement.device}"

    def expect(self, key: str, weights_bytes: int, libraries: Sequence[str] = ()) -> int:
        """What a load will hold: the most it held if it ever ran, else estimated from its weights and libraries."""
        known = self._footprint_cache.get(key)
        if known is not None:
            return known
        return (
            WORKER_BYTES + sum(LIBRARY_BYTES.get(name, 0) for name in libraries) + int(WEIGHTS_FACTOR * weights_bytes)
        )

    def known(self, key: str) -> int:
        """The most it held in its last life, 0 if it never ran."""
        return self._footprint_cache.get(key) or 0

    def record(self, key: str, size: int) -> None:
        """A living worker holds this: less than what is known already is no news."""
        if size > self.known(key):
            self._footprint_cache.record(key, size)

    def record_life(self, key: str, most: int) -> None:
        """A worker has ended that held so much at most: one unusual job is not remembered for ever."""
        self._footprint_cache.record(key, max(most, int(FADING * self.known(key))))

    # --- Threads ------------------------------------------------------------------------------------------------------

    def claim_threads(self, name: str, *, alone: bool, single: bool) -> int:
        """CPU threads for a worker: never more in all than there are cores, and never fewer than one each.

        alone: no other model will ever run on the CPU, so it gets everything; otherwise each load gets half of what is
        free. single: its engine uses one thread anyway. Workers with one thread only share cores; it is several
        threads that wait for each other that collapse when there are more of them than cores.
        """
        free = self._own.cores - sum(self._threads.values())
        threads = 1 if single else free if alone else -(-free // 2)
        self._threads[name] = max(1, min(threads, self._own.cores))
        return self._threads[name]

    def limit_cores(self, cores: int) -> None:
        """Compute with so many cores at most: the others of this machine belong to somebody else."""
        self._own = dataclasses.replace(self._own, cores=min(cores, self._own.cores))

    def release_threads(self, name: str) -> None:
        self._threads.pop(name, None)


def _candidates(info: BackendInfo, inventory: Inventory, asked: str) -> list[tuple[str, Device]]:
    """Devices in the order that the backend prefers, or the one that is asked for ("cuda" means the first of its
    kind)."""
    if asked != "auto":
        return [(d.kind, d) for d in inventory.devices if asked in (d.id, d.kind)][:1]
    kinds = list(
        dict.fromkeys(
            [
                *info.device_preference,
                *(kind for device_preference in info.engine_device_preference.values() for kind in device_preference),
            ]
        )
    )
    return [(kind, d) for kind in kinds for d in inventory.devices if d.kind == kind]


def _can_use(engine: str, device: Device) -> bool:
    return device.kind == "cpu" or _LIBRARY_OF_ENGINE.get(engine, "torch") in device.libraries


def _why_not(inventory: Inventory, kind: str) -> str:
    notes = dict(inventory.notes)
    if any(device.kind == kind for device in inventory.devices):
        return f"{kind} is there, but no installed engine of this backend can use it"
    return f"no {kind} ({notes[kind]})" if kind in notes else f"no {kind}"


def resolve_dtype(dtype: str, device: Device) -> str:
    """bfloat16 where it is native, else float16 on CUDA; float32 on DirectML, where float16 is unstable on some parts;
    "auto" on the CPU, where the backend measures."""
    if dtype != "auto" or device.kind == "cpu":
        return dtype
    if device.kind == "directml":
        return "float32"
    for dtype in ("bfloat16", "float16"):
        if dtype in device.dtypes:
            return dtype
    return "float32"


def run_probe(python: str = "", timeout_seconds: float = 120.0) -> Inventory:
    """Ask a short-lived process with this interpreter ("" = ours). Blocks. Raises OSError, ValueError,
    TimeoutExpired."""
    done = children.run(probe_command(python), probe_environment(), seconds=timeout_seconds)
    return parse_inventory(done.stdout)


def probe_command(python: str = "") -> list[str]:
    """The command line of the probe with this interpreter ("" = ours)."""
    return children.command("backends.devices", "--json", python=python)


def probe_environment() -> dict[str, str]:
    """The environment of the probe: the threads that importing a tensor library starts are not needed."""
    return children.environment(threads=1)


def parse_inventory(text: bytes) -> Inventory:
    """The probe's answer is the last line it prints. Raises ValueError."""
    lines = text.decode("utf-8", "replace").strip().splitlines()
    if not lines:
        raise ValueError("the device probe printed nothing")
    try:
        stored = json.loads(lines[-1])
        devices = tuple(
            Device(**{**d, "dtypes": tuple(d["dtypes"]), "libraries": tuple(d["libraries"])}) for d in stored["devices"]
        )
        return Inventory(devices, int(stored["cores"]), tuple((kind, note) for kind, note in stored["notes"]))
    except (KeyError, TypeError) as error:
        raise ValueError(f"the device probe's answer is not understood: {error}") from error


def main(arguments: Sequence[str]) -> int:
    """Print the inventory, as JSON with --json."""
    inventory = probe()
    if "--json" in arguments:
        print(json.dumps(dataclasses.asdict(inventory)))
        return 0
    for device in inventory.devices:
        print(
            f"{device.id:12} {device.name}, {device.memory_total / 2**30:.1f} GiB, {', '.join(device.dtypes)} "
            f"{device.driver}"
        )
    for kind, note in inventory.notes:
        print(f"no {kind}: {note}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
