"""The environment with the onnxruntime of Windows: the version comes from the resolution, and no other one is
tested."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from scripts.bootstrap import windows_runtime

RESOLUTION = """\
onnx==1.19.0
onnxruntime==1.32.0 ; sys_platform != 'win32'
onnxruntime-windowsml==1.30.0.202609102321 ; sys_platform == 'win32'
"""
PACKAGE = "onnxruntime-windowsml"


def test_the_version_is_the_one_that_windows_resolves_to() -> None:
    assert windows_runtime.windows_version(RESOLUTION, PACKAGE) == "1.30.0"
    assert windows_runtime.windows_version(RESOLUTION.replace(" ; sys_platform == 'win32'", ""), PACKAGE) == "1.30.0"
    for name, package in windows_runtime.LISTS.items():
        text = (windows_runtime.REQUIREMENTS / f"{name}.txt").read_text(encoding="utf-8")
        assert f"{package}=={windows_runtime.windows_version(text, package)}" in text


def test_a_resolution_without_it_is_an_error() -> None:
    with pytest.raises(windows_runtime.SetupError, match=f"no {PACKAGE}"):
        windows_runtime.windows_version("onnxruntime==1.32.0\n", PACKAGE)


def test_the_environment_is_refused_where_another_version_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []
    imported = ["1.32.0"]
    monkeypatch.setattr(windows_runtime, "ROOT", tmp_path)
    monkeypatch.setattr(windows_runtime, "run_command", lambda command, *_: commands.append(list(command)))
    monkeypatch.setattr(
        windows_runtime,
        "_answer",
        lambda python, code: imported[0] if "onnxruntime" in code else str(tmp_path / "packages"),
    )
    (tmp_path / "packages").mkdir()
    with pytest.raises(windows_runtime.SetupError, match=r"imports onnxruntime 1\.32\.0, not 1\.24\.4"):
        windows_runtime.prepare("1.24.4", "uv")
    imported[0] = "1.24.4"
    assert windows_runtime.ENVIRONMENT in windows_runtime.prepare("1.24.4", "uv")
    assert commands[0][:2] == ["uv", "venv"]
    assert commands[-1][-1] == "onnxruntime==1.24.4"
    assert "addsitedir" in (tmp_path / "packages" / "everything_else.pth").read_text(encoding="utf-8")


def test_a_failed_interpreter_is_an_error(tmp_path: Path) -> None:

    with pytest.raises(windows_runtime.SetupError, match="no_such_module"):
        windows_runtime._answer(sys.executable, "import no_such_module")
