"""The command as it is installed."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from app import VERSION

ROOT = Path(__file__).resolve().parents[2]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8", timeout=60)


def test_the_console_entry_is_installed() -> None:
    program = shutil.which("speech-gateway", path=sysconfig.get_path("scripts"))
    assert program is not None
    assert run(program, "--version").stdout == f"speech-gateway {VERSION}\n"


@pytest.mark.parametrize(
    ("arguments", "shows"),
    [
        (["--help"], "Usage: speech-gateway serve"),
        (["serve", "--help"], "Usage: speech-gateway serve"),
        (["models", "--help"], "Usage: speech-gateway models"),
    ],
)
def test_the_module_serves_unless_a_command_is_named(arguments: list[str], shows: str) -> None:
    told = run(sys.executable, "-m", "app", *arguments)
    assert told.returncode == 0, told.stderr
    assert shows in told.stdout


def test_help_of_every_command_fits_a_line() -> None:
    told = run(sys.executable, "-m", "app.cli", "--help").stdout
    assert "watermark" in told
    assert "..." not in told.partition("Commands:")[2]


def test_a_broken_configuration_ends_serve_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[limits]\nbody_bytes = 'many'\n", encoding="utf-8")
    told = run(sys.executable, "-m", "app.cli", "serve", "--config", str(file))
    assert told.returncode == 2
    assert "line 2: [limits] body_bytes" in told.stderr
    assert "Traceback" not in told.stderr


def test_the_command_line_loads_no_tensor_library() -> None:
    code = (
        "import sys, app.cli; print([m for m in ('torch', 'onnxruntime', 'av', 'soundfile', 'transformers') if m in sys.modules])"
    )
    assert run(sys.executable, "-c", code).stdout.strip() == "[]"
