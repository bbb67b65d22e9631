"""Environments of client programs: each with packages of its own, made once and kept in a cache folder.

The folder is SPEECH_GATEWAY_CLIENTS, else one in the folder for temporary files, so that a second run is quick. Knows
nothing of what the programs do.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from scripts.provision import environment_python, find_uv

CACHE = Path(os.environ.get("SPEECH_GATEWAY_CLIENTS", Path(tempfile.gettempdir()) / "speech-gateway-clients"))
LONGEST = 540  # seconds of an installation or a program; ends a hang


@dataclass(frozen=True)
class Environment:
    """packages: what pip or npm installs; python: the least version, or None for node."""

    name: str
    packages: tuple[str, ...]
    python: tuple[int, int] | None = (3, 11)

    @property
    def folder(self) -> Path:
        digest = hashlib.sha256(repr((self.packages, sys.version_info[:2])).encode()).hexdigest()[:12]
        return CACHE / f"{self.name}-{digest}"


def command(environment: Environment, program: Path) -> list[str]:
    """The command that runs `program`, the packages installed if they were not. Skips without the interpreter."""
    return _node(environment, program) if environment.python is None else _python(environment, program)


def check(command: list[str], extra: Mapping[str, str] | None = None) -> None:
    """Run a client program, with `extra` in its environment, and see that its last word is OK."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "OPENAI_", "AZURE_"))}
    done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST, env=clean | dict(extra or {}))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert done.stdout.strip().endswith("OK"), done.stdout[-2000:]


def _python(environment: Environment, program: Path) -> list[str]:
    folder, python = environment.folder, environment_python(environment.folder)
    if not (folder / "complete").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        _run([find_uv(), "venv", "--quiet", "--python", _interpreter(environment), str(folder)])
        _run([find_uv(), "pip", "install", "--quiet", "--python", str(python), *environment.packages])
        (folder / "complete").touch()
    return [str(python), str(program)]


def _node(environment: Environment, program: Path) -> list[str]:
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        pytest.skip("node and npm are not installed")
    folder = environment.folder
    if not (folder / "complete").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        _run([npm, "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(folder), *environment.packages])
        (folder / "complete").touch()
    copy = folder / program.name  # node looks for packages beside the program
    shutil.copyfile(program, copy)
    return [node, str(copy)]


def _interpreter(environment: Environment) -> str:
    assert environment.python is not None
    if sys.version_info[:2] >= environment.python:
        return sys.executable
    wanted = ".".join(map(str, environment.python))
    search = [find_uv(), "python", "find", "--no-python-downloads", wanted]
    found = subprocess.run(search, capture_output=True, text=True, timeout=LONGEST)
    if found.returncode != 0:
        pytest.skip(f"{environment.name} needs Python {wanted}")
    return found.stdout.strip()


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST)
    assert done.returncode == 0, done.stderr[-3000:]
