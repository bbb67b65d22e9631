"""The command as it is installed."""

from __future__ import annotations

import importlib
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from app import VERSION
from app.cli import cli
from tests.support.waiting import LIMIT

ROOT = Path(__file__).resolve().parents[2]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8", timeout=LIMIT)


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
    told = run(sys.executable, "-P", "-m", "app", *arguments)
    assert told.returncode == 0, told.stderr
    assert shows in told.stdout


def test_help_of_every_command_fits_a_line() -> None:
    told = run(sys.executable, "-P", "-m", "app.cli", "--help").stdout
    assert "watermark" in told
    assert "..." not in told.partition("Commands:")[2]


def test_a_broken_configuration_ends_serve_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[limits]\nbody_bytes = 'many'\n", encoding="utf-8")
    told = run(sys.executable, "-P", "-m", "app.cli", "serve", "--config", str(file))
    assert told.returncode == 2
    assert "line 2: [limits] body_bytes" in told.stderr
    assert "Traceback" not in told.stderr


def test_the_command_line_loads_no_tensor_library() -> None:
    heavy = ("torch", "onnxruntime", "av", "soundfile", "transformers")
    code = f"import sys, app.cli; print([m for m in {heavy} if m in sys.modules])"
    assert run(sys.executable, "-c", code).stdout.strip() == "[]"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
def test_output_that_cannot_be_written_is_told_without_a_traceback() -> None:
    with Path("/dev/full").open("wb") as full:
        told = subprocess.run(
            [sys.executable, "-P", "-m", "app.cli", "models"],
            cwd=ROOT,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=LIMIT,
        )
    assert told.returncode == 1
    assert told.stderr == "speech-gateway: No space left on device\n"


def test_a_narrow_terminal_does_not_lose_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    told = run(sys.executable, "-P", "-m", "app.cli", "models").stdout
    assert "GPL-3.0" in told


def test_every_option_says_what_it_does() -> None:
    silent = [
        f"{command.name} {parameter.opts}"
        for command in _commands(typer.main.get_command(cli))
        for parameter in command.params
        if not getattr(parameter, "help", None)
    ]
    assert not silent


def _commands(command: Any) -> Iterator[Any]:
    yield command
    for part in getattr(command, "commands", {}).values():
        yield from _commands(part)


@pytest.mark.parametrize("module", ["dataset", "finetune"])
def test_every_option_of_the_training_programs_says_what_it_does(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    monkeypatch.setenv("COLUMNS", "500")
    told = importlib.import_module(f"backends.llasa.training.{module}").parser().format_help()
    options = re.split(r"\n(?=  -)", told.partition("options:")[2])[1:]
    assert len(options) > 10
    assert [one for one in options if not re.search(r"\S\s{2,}\S", one.strip())] == []
