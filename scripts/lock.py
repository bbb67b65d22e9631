"""Writes requirements/: what `make serve` installs, every version fixed and every file known by its hash.

    python scripts/lock.py              resolve pyproject.toml again and write the files (`make lock`)
    python scripts/lock.py --upgrade    take the newest releases that pyproject.toml allows

One file for what everybody gets, one for what each extra, each name of weight packages and each fallback adds, for all
platforms and versions of Python that the project supports. Owns these files. Which of them a machine installs is
decided in `provision.py`. Standard library only.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from provision import REQUIREMENTS, ROOT, SetupError, find_uv

# File -> options of `uv export`. What is in `core` is left out of the others but `directml`, whose old torch needs
# other versions.
FILES: dict[str, tuple[str, ...]] = {
    "core": (),
    "embedded": ("--extra", "embedded"),
    "cluster": ("--extra", "cluster"),
    "microphone": ("--extra", "microphone"),
    "ui": ("--extra", "ui"),
    "torch": ("--extra", "torch"),
    "dev": ("--extra", "torch", "--group", "dev", "--group", "oracle"),
    "directml": ("--extra", "directml"),
    "windows-ml": ("--extra", "windows-ml"),
}
# torch and the libraries for NVIDIA's cards that it brings on Linux lie in a file of their own, so that another build
# of torch can take their place.
TORCH_BUILD = "torch-build"
_OF_TORCH_BUILD = re.compile(r"(torch|triton|cuda-[\w-]+|nvidia-[\w-]+)==")
_EXPORT = ("--format", "requirements-txt", "--no-emit-project", "--no-default-groups", "--no-header", "--no-annotate")
_BUILD = "build"  # what builds the project itself
_BUILD_REQUIRES = "hatchling>=1.27\neditables>=0.5\n"

Stanzas = dict[str, str]  # requirement with its marker -> its lines


def weight_packages(pyproject: Mapping[str, object]) -> Mapping[str, Sequence[str]]:
    """Requirements by name of the packages that carry weights, which no installation depends on."""
    tool: Mapping[str, Mapping[str, Mapping[str, Sequence[str]]]] = pyproject["tool"]  # type: ignore[assignment]
    return tool["speech-gateway"]["weights"]


def fallbacks(pyproject: Mapping[str, object]) -> Mapping[str, Sequence[str]]:
    """Requirements by name of what takes the place of a package that does not work on a machine."""
    tool: Mapping[str, Mapping[str, Mapping[str, Sequence[str]]]] = pyproject["tool"]  # type: ignore[assignment]
    return tool["speech-gateway"]["fallback"]


def fingerprint(pyproject: Mapping[str, object]) -> str:
    """SHA-256 of everything in pyproject.toml that decides versions."""
    project: Mapping[str, object] = pyproject["project"]  # type: ignore[assignment]
    tool: Mapping[str, object] = pyproject["tool"]  # type: ignore[assignment]
    deciding = {
        "project": {key: project.get(key) for key in ("requires-python", "dependencies", "optional-dependencies")},
        "groups": pyproject.get("dependency-groups"),
        "build": pyproject.get("build-system"),
        "uv": tool.get("uv"),
        "weights": weight_packages(pyproject),
        "fallback": fallbacks(pyproject),
    }
    return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()


def stanzas(text: str) -> Stanzas:
    """One entry per requirement: its first line with the hashes that follow."""
    blocks = re.findall(r"^[^\s#-].*(?:\n\s+.*)*", text, re.MULTILINE)
    return {block.partition(" \\\n")[0]: block for block in blocks}


def split(exported: Mapping[str, Stanzas]) -> dict[str, Stanzas]:
    """Leave each requirement in one file of those that are installed together: core, the torch build, or its extra."""
    core, torch = exported["core"], exported["torch"]
    build = {key: block for key, block in torch.items() if _OF_TORCH_BUILD.match(key)}
    files = {TORCH_BUILD: build}
    for name, all_of_it in exported.items():
        shared: set[str] = set() if name in ("core", "directml") else {*core, *build}
        if name == "dev":
            shared |= torch.keys()
        files[name] = {key: block for key, block in all_of_it.items() if key not in shared}
    return files


def _run(command: Sequence[str], given: str = "") -> str:
    """Standard output of a uv command that sees the public index alone: a wheel from a folder of this machine has
    another hash. Raises SetupError."""
    hidden = ("UV_FIND_LINKS", "UV_INDEX", "UV_EXTRA_INDEX_URL", "UV_TORCH_BACKEND")
    environ = {key: value for key, value in os.environ.items() if key not in hidden}
    done = subprocess.run(command, cwd=ROOT, env=environ, input=given.encode(), stdout=subprocess.PIPE, check=False)
    if done.returncode:
        raise SetupError(f"this command failed with status {done.returncode}: {' '.join(command)}")
    return done.stdout.decode("utf-8")


def lock(uv: str, upgrade: bool) -> None:
    """Resolve the project and write all files."""
    _run([uv, "lock", *(("--upgrade",) if upgrade else ())])
    exported = {name: stanzas(_run([uv, "export", "--locked", *_EXPORT, *of])) for name, of in FILES.items()}
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    files = {**split(exported), _BUILD: _compiled(uv, _BUILD_REQUIRES), **_beside(uv, pyproject, exported["core"])}
    key = fingerprint(pyproject)
    REQUIREMENTS.mkdir(exist_ok=True)
    for name, blocks in files.items():
        head = f"# Written by `make lock` from pyproject.toml ({key}).\n"
        (REQUIREMENTS / f"{name}.txt").write_text(head + "\n".join([*blocks.values(), ""]), encoding="utf-8")
        print(f"requirements/{name}.txt: {len(blocks)} packages", flush=True)


def _compiled(uv: str, requirements: str, *options: str) -> Stanzas:
    """What a list of requirements resolves to, apart from the project."""
    command = [uv, "pip", "compile", "--universal", "--generate-hashes", "--no-header", "--no-annotate", *options, "-"]
    return stanzas(_run(command, requirements))


def _beside(uv: str, pyproject: Mapping[str, object], core: Stanzas) -> dict[str, Stanzas]:
    """The lists of the packages that carry weights and of the fallbacks, with what they need beyond core, in core's
    versions.

    Packages that cannot be resolved, as their maker took them away, keep their list.
    """
    files = {}
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "core.txt"
        constraints.write_text("\n".join(core), encoding="utf-8")
        for name, packages in {**weight_packages(pyproject), **fallbacks(pyproject)}.items():
            try:
                found = _compiled(uv, "\n".join(packages), "--constraints", str(constraints))
                files[name] = {key: block for key, block in found.items() if _package(key) not in map(_package, core)}
            except SetupError as error:
                print(f"requirements/{name}.txt stays: {error}", flush=True)
                files[name] = stanzas((REQUIREMENTS / f"{name}.txt").read_text(encoding="utf-8"))
    return files


def _package(requirement: str) -> str:
    return requirement.partition("==")[0]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="lock.py", description="Write requirements/ from pyproject.toml.")
    parser.add_argument("--upgrade", action="store_true", help="take the newest releases that are allowed")
    arguments = parser.parse_args(argv)
    try:
        lock(find_uv(), arguments.upgrade)
    except SetupError as error:
        print(f"lock: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
