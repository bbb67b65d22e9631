"""Which package brings the module `onnxruntime` on Windows, and how a fallback takes its place.

Three packages install the same module into the same folder, so an environment may hold one of them only. The locked
lists name onnxruntime-windowsml; where it cannot be installed or does not load, onnxruntime-directml 1.24.4 is put in
its place, and stays until the lists change. Owns that choice and its record. Standard library only; on other systems
there is nothing to choose.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

CHOICES = ("auto", "windowsml", "directml")
FALLBACK = "directml"  # of CHOICES, and `onnxruntime-` before it is its list's name
PACKAGES = ("onnxruntime", "onnxruntime-directml", "onnxruntime-windowsml")
_LOADS = "import onnxruntime, sys; sys.exit('DmlExecutionProvider' not in onnxruntime.get_available_providers())"
_SHORT_LIST = "core-without-onnxruntime.txt"


def to_try(requested: str, recorded: str) -> tuple[str, ...]:
    """Choices in the order they are tried; requested: of CHOICES, "auto" for what worked before or the default.

    On another system than Windows there is one, and no choice.
    """
    if platform.system() != "Windows":
        return ("",)
    if requested != "auto":
        return (requested,)
    return (FALLBACK,) if recorded == FALLBACK else ("windowsml", FALLBACK)


def lists(choice: str, files: Sequence[Path], environment: Path) -> list[Path]:
    """The locked lists with the chosen package: for the fallback, the default is taken out of its list."""
    core = next((file for file in files if file.stem in ("core", "directml")), None)
    if choice != FALLBACK or core is None:
        return list(files)
    short = environment / _SHORT_LIST
    short.write_text(_without_onnxruntime(core.read_text(encoding="utf-8")), encoding="utf-8")
    instead = core.with_name(f"onnxruntime-{FALLBACK}.txt")
    return [short, *(file for file in files if file != core), instead]


def _without_onnxruntime(text: str) -> str:
    """A locked list without the requirements that Windows takes the module from; a requirement's hashes follow it."""
    return re.sub(r"^onnxruntime-windowsml==.*\n(?:[ \t]+.*\n?)*", "", text, flags=re.MULTILINE)


def installed(environment: Path) -> set[str]:
    """Which of PACKAGES an environment holds, by the folders of their records."""
    names = {f"{name.replace('-', '_')}-": name for name in PACKAGES}
    found = (folder.name for folder in _site_packages(environment).glob("onnxruntime*.dist-info"))
    return {name for folder in found for start, name in names.items() if folder.startswith(start)}


def _site_packages(environment: Path) -> Path:
    return environment / "Lib" / "site-packages" if os.name == "nt" else next(environment.glob("lib/python3*"), Path())


def to_remove(choice: str, present: Iterable[str]) -> list[str]:
    """Packages to take out before the chosen one is installed. All of them, where there is another than it: removing
    one takes files of the same name from the others."""
    chosen = {f"onnxruntime-{choice}"}
    return sorted(present) if choice and set(present) - chosen else []


def loads(python: str) -> bool:
    """Whether the interpreter's onnxruntime can be imported and holds DirectML."""
    try:
        return (
            subprocess.run([python, "-P", "-c", _LOADS], capture_output=True, timeout=120, check=False).returncode == 0
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
