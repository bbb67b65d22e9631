"""The Whisper tests on the onnxruntime that Windows gets: `make test-windows-runtime`.

On Windows the project resolves to onnxruntime-windowsml, which is older than onnxruntime elsewhere, and falls back to
onnxruntime-directml, whose releases ended; what their CPU side does is tried here with the onnxruntime of the same
versions. Owns that environment: everything of .venv, with one package in front of it. Standard library only.
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
LISTS = {"core": "onnxruntime-windowsml", "onnxruntime-directml": "onnxruntime-directml"}  # file -> package
# Versions of onnxruntime-windowsml end in the time of their build.
_PINNED = r"^{package}==(?P<version>\d+\.\d+\.\d+)"
_PATHS = "import sysconfig; print(sysconfig.get_path('purelib'))"
_VERSION = "import onnxruntime; print(onnxruntime.__version__)"


def windows_version(requirements: str, package: str) -> str:
    """The release of onnxruntime that a package holds in a locked list (lines such as "name==1.2.3 ; marker").

    Raises SetupError.
    """
    found = re.search(_PINNED.format(package=re.escape(package)), requirements, re.MULTILINE)
    if found is None:
        raise SetupError(f"the locked lists have no {package} for Windows; run: make lock")
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
    """Read the locked versions; prepare and test one after the other. .venv has to be set up.

    Raises SetupError, also where a test fails.
    """
    uv = find_uv()
    for name, package in LISTS.items():
        version = windows_version((REQUIREMENTS / f"{name}.txt").read_text(encoding="utf-8"), package)
        python = prepare(version, uv)
        print(f"--- Whisper on onnxruntime {version}, as on Windows with {package}", flush=True)
        run_command([python, "-P", "-m", "pytest", *TESTS, *options])
