"""The Whisper tests on the onnxruntime that Windows gets: `make test-windows-runtime`.

On Windows the project resolves to onnxruntime-directml, whose releases end earlier than those of onnxruntime; what its
CPU side does is tried here with the onnxruntime of the same version. Owns that environment: everything of .venv, with
one package in front of it. Standard library only.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from provision import REQUIREMENTS, ROOT, SetupError, environment_python, find_uv, run_command, uv_variables

ENVIRONMENT = ".venv-windows-runtime"
TESTS = ("tests/backends/whisper",)  # test_served.py among them goes through the gateway to a real worker
_PINNED = re.compile(r"^onnxruntime-directml==(?P<version>[^\s;]+)", re.MULTILINE)
_PATHS = "import sysconfig; print(sysconfig.get_path('purelib'))"
_VERSION = "import onnxruntime; print(onnxruntime.__version__)"


def windows_version(requirements: str) -> str:
    """The version of onnxruntime-directml in a locked list (lines such as "name==1.2 ; marker"). Raises SetupError."""
    found = _PINNED.search(requirements)
    if found is None:
        raise SetupError("requirements/core.txt has no onnxruntime-directml for Windows; run: make lock")
    return found["version"]


def _variables() -> dict[str, str]:
    return {**os.environ, **uv_variables(os.environ)}


def prepare(version: str, uv: str) -> str:
    """Bring the environment to onnxruntime `version`; its interpreter. Raises SetupError if another one would be
    imported."""
    own, shared = environment_python(ROOT / ENVIRONMENT), environment_python(ROOT / ".venv")
    if not own.exists():
        run_command([uv, "venv", "--quiet", "--python", str(shared), ENVIRONMENT], _variables())
    install = [uv, "pip", "install", "--quiet", "--no-deps", "--python", str(own), f"onnxruntime=={version}"]
    run_command(install, _variables())
    link = Path(_answer(str(own), _PATHS)) / "everything_else.pth"
    link.write_text(f"import site; site.addsitedir({_answer(str(shared), _PATHS)!r})\n", encoding="utf-8")
    if (imported := _answer(str(own), _VERSION)) != version:
        raise SetupError(
            f"{ENVIRONMENT} imports onnxruntime {imported}, not {version}; delete the folder and try again"
        )
    return str(own)


def _answer(python: str, code: str) -> str:
    done = subprocess.run([python, "-P", "-c", code], cwd=ROOT, capture_output=True, check=False)
    if done.returncode != 0:
        raise SetupError(f"{python} failed: {done.stderr.decode('utf-8', 'replace').strip()}")
    return done.stdout.decode("utf-8").strip()


def run_tests(options: Sequence[str]) -> None:
    """Read the locked version, prepare, test. .venv has to be set up. Raises SetupError where a test fails, too."""
    uv = find_uv()
    version = windows_version((REQUIREMENTS / "core.txt").read_text(encoding="utf-8"))
    python = prepare(version, uv)
    print(f"--- Whisper on onnxruntime {version}, as on Windows", flush=True)
    run_command([python, "-P", "-m", "pytest", *TESTS, *options])
