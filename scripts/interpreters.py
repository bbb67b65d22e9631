"""The interpreter that an environment of this project is made with.

Owns the order of preference: the environment's own version, then Python 3.11, then 3.12. Standard library only.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

BEST_PYTHON, OTHER_PYTHON = "3.11", "3.12"


def choose_python(environment: Path, running: tuple[int, int], find: Mapping[str, str]) -> str:
    """What to pass to uv's --python: the environment's own version, else 3.11 found here, else 3.12, else one that uv
    fetches.

    find: version -> interpreter on this machine. uv would rebuild an environment made with another version.
    """
    made_with = _environment_version(environment)
    if made_with:
        return made_with
    if BEST_PYTHON in find:
        return find[BEST_PYTHON]
    version = f"{running[0]}.{running[1]}"
    if version == OTHER_PYTHON:
        return sys.executable
    return find.get(OTHER_PYTHON, BEST_PYTHON)


def _environment_version(environment: Path) -> str:
    try:
        text = (environment / "pyvenv.cfg").read_text(encoding="utf-8")
    except OSError:
        return ""
    match = re.search(r"^version(?:_info)?\s*=\s*(\d+\.\d+)", text, re.MULTILINE)
    return match[1] if match else ""


def pythons() -> dict[str, str]:
    """Interpreters on this machine by version."""
    found = {f"{sys.version_info[0]}.{sys.version_info[1]}": sys.executable}
    for version in (BEST_PYTHON, OTHER_PYTHON):
        if version not in found and answers(f"python{version}", "--version"):
            found[version] = str(shutil.which(f"python{version}"))
    return found


def answers(*command: str) -> bool:
    """The program exists, succeeds and prints something."""
    program = shutil.which(command[0])
    if program is None:
        return False
    try:
        done = subprocess.run([program, *command[1:]], capture_output=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and bool(done.stdout.strip())
