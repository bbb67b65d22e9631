"""Every code block and every name in the pages for people: it parses, what it calls exists, and what is cheap is run.

README's own lines are executed in test_readme.py.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from typer.testing import CliRunner

from app.cli import cli
from app.config.deployments import BUILTIN, BUILTIN_ALIASES, Deployments
from app.config.loading import load_settings
from app.metrics import Metrics
from app.routes.table import build_table
from tests.docs.test_powershell import faults
from tests.support.server import fake_settings, running
from tests.support.waiting import LIMIT

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "models" / "README.md"])
TABLE = build_table()
_BUILT = "adding-a-backend.md"  # its backend exists only where test_adding_a_backend.py builds it
_SHELL_WORDS = ("curl", "make", "speech-gateway", "python", "git")
_FOLDERS = "app|backends|docs|scripts|tests|examples"


def _id(value: object) -> str:
    return value.relative_to(ROOT).as_posix() if isinstance(value, Path) else ""


def _text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def _blocks(language: str) -> list[Any]:
    """(page, block) of every block of that language; a block that names none is shell if it begins like it."""
    found = []
    for page in PAGES:
        for tag, block in re.findall(r"^```(\w*)\n(.*?)^```", _text(page), re.MULTILINE | re.DOTALL):
            if (tag or _guess(block)) == language and page.name != _BUILT:
                found.append(pytest.param(page, block, id=f"{_id(page)}-{len(found)}"))
    return found


def _guess(block: str) -> str:
    return "sh" if block.startswith(_SHELL_WORDS) else ""


def _commands(block: str) -> list[list[str]]:
    """The words of each command, those of a pipe and of `$(...)` too."""
    text = re.sub(r"\w+=\$\(", "", block.replace("\\\n", " "))
    words = shlex.shlex(text, posix=True, punctuation_chars="|;\n")
    words.whitespace, words.whitespace_split = " \t\r", True
    commands: list[list[str]] = [[]]
    for word in words:
        if set(word) <= set("|;\n"):
            commands.append([])
        else:
            commands[-1].append(word)
    return [command for command in commands if command]


def test_every_block_says_or_shows_what_it_is() -> None:
    kinds = {
        tag or _guess(block)
        for page in PAGES
        for tag, block in re.findall(r"^```(\w*)\n(.*?)^```", _text(page), re.M | re.S)
    }
    assert kinds <= {"sh", "python", "toml", "powershell", "text"}


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(("page", "block"), _blocks("sh"))
def test_shell_parses(page: Path, block: str) -> None:
    done = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True, check=False, timeout=LIMIT)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("page", "block"), _blocks("sh"))
def test_what_shell_calls_exists(page: Path, block: str) -> None:
    commands = _commands(block)
    for command in commands:
        if command[0] == "curl":
            _check_curl(command)
        elif command[0] == "speech-gateway":
            _check_command(" ".join(command[1:]))
    assert any(command[0] in (*_SHELL_WORDS, ".venv/bin/python", ".venv/bin/speech-gateway") for command in commands)


def _check_curl(command: list[str]) -> None:
    """The address is served for that method, the deployment is known, the body is JSON."""
    (address,) = (word for word in command if word.startswith("http://127.0.0.1:8000"))
    data = command[command.index("-d") + 1] if "-d" in command else ""
    fields = dict(command[i + 1].split("=", 1) for i, word in enumerate(command) if word == "-F")
    match = TABLE.match(urlsplit(address).path)
    assert match is not None, address
    assert ("POST" if data or fields else "GET") in match.operations, address
    asked = {**fields, **(json.loads(data.replace("'$id'", "x")) if data else {})}
    model = asked.get("model") or re.search(r"/deployments/([^/]+)/", address)[1]  # type: ignore[index]
    assert model in BUILTIN or model in BUILTIN_ALIASES, model


def _check_command(line: str) -> None:
    """The command and every option in it exist."""
    words = re.findall(r"^[a-z]+|(?<=^dataset )create|(?<=^watermark )detect|(?<=^key )(?:new|list)", line)
    if words[0] in ("dataset", "finetune"):
        told = _engine_help(words[0])
    else:
        told = CliRunner().invoke(cli, [*words, "--help"], env={"COLUMNS": "200"}).output
    assert "Usage" in told or "usage" in told, line
    for option in re.findall(r"(?<!\S)(--?[a-z][a-z-]*)", line):
        assert re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", told), f"{line}: {option}"


def _engine_help(command: str) -> str:
    """What the engine's own parser says: these commands pass their options on."""
    from backends.llasa.training import dataset, finetune

    return {"dataset": dataset, "finetune": finetune}[command].parser().format_help()


@pytest.mark.parametrize("page", PAGES, ids=_id)
def test_commands_in_running_text_exist(page: Path) -> None:
    for line in re.findall(r"`(?:\.venv/bin/)?speech-gateway(?:\.exe)? ([a-z][^`]*)`", _text(page)):
        _check_command(line)


@pytest.mark.parametrize(("page", "block"), _blocks("powershell"))
def test_powershell_parses_and_its_scripts_exist(page: Path, block: str) -> None:
    assert faults(block.encode()) == []
    for script in re.findall(r"\.\\(\w+\.ps1)", block):
        assert (ROOT / script).exists()


@pytest.mark.parametrize(("page", "block"), _blocks("toml"))
def test_a_configuration_is_accepted(page: Path, block: str, tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text(block, encoding="utf-8")
    Deployments.from_settings(load_settings(file))


@pytest.mark.parametrize(("page", "block"), _blocks("python"))
def test_python_compiles(page: Path, block: str) -> None:
    compile(block, page.name, "exec")


def test_the_python_of_the_whisper_page_runs() -> None:
    (block,) = (param.values[1] for param in _blocks("python") if param.values[0].name == "whisper.md")
    folder = (ROOT / "tests/data/whisper_tiny").as_posix()
    known = {"samples": np.zeros(16_000, np.float32), "tokens": [1, 2, 3]}
    exec(compile(block.replace("models/openai--whisper-small", folder), "whisper.md", "exec"), known)  # noqa: S102 (our own page)


@pytest.mark.parametrize("page", PAGES, ids=_id)
def test_files_that_are_named_exist(page: Path) -> None:
    named = set(re.findall(rf"(?<![\w/.-])((?:{_FOLDERS})/[\w./-]*\w)", _text(page)))
    named -= set(re.findall(r"^```python\n# (\S+)$", _text(page), re.MULTILINE))  # files that the page shows
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=_id)
def test_variables_that_are_named_are_accepted(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in set(re.findall(r"(SPEECH_GATEWAY_[A-Z_]+)=([\w./:-]+)", _text(page))):
        monkeypatch.setenv(name, value)
        load_settings()
        monkeypatch.delenv(name)


def test_the_operations_of_the_api_page_are_served_and_complete() -> None:
    page = _text(ROOT / "docs" / "api.md")
    named = set(re.findall(r"`(GET|POST) /?([\w/{}]+)`", page)) | set(
        re.findall(r"(?<=, )`(GET|POST) /?([\w/{}]+)`", page)
    )
    assert len(named) > 10
    for method, path in named:
        filled = path.replace("{id}", "whisper-1").replace("{name}", "whisper-1")
        matches = [TABLE.match(prefix + filled) for prefix in ("/v1/", "/openai/", "/openai/v1/", "/")]
        assert any(match is not None and method in match.operations for match in matches), f"{method} {path}"


def test_the_headers_of_the_api_page_are_those_that_pages_may_read() -> None:
    page = _text(ROOT / "docs" / "api.md")
    table = page[page.index("## Headers of our own") :]
    named = {
        "x-gateway-" + name.removeprefix("x-gateway-").removeprefix("-")
        for row in re.findall(r"^\| (`x-gateway-[^|]*) \|", table, re.MULTILINE)
        for name in re.findall(r"`([\w-]+)`", row)
    }
    origin = "https://page.example"
    with running(fake_settings(server={"cors_origins": [origin]})) as server:
        answer = httpx.get(f"{server.url}/health/live", headers={"origin": origin})
    exposed = answer.headers["access-control-expose-headers"].split(", ")
    assert named == {name for name in exposed if name.startswith("x-gateway-")}


def test_the_metrics_of_the_operations_page_are_all_there_are() -> None:
    named = set(re.findall(r"^\| `(gateway_\w+)`", _text(ROOT / "docs" / "operations.md"), re.MULTILINE))
    kept = set(re.findall(r"^# TYPE (gateway_\w+) ", Metrics().render().decode(), re.MULTILINE))
    assert named == {name for name in kept if not name.endswith("_created")}


def test_the_models_page_knows_every_deployment_and_licence() -> None:
    rows = re.findall(r"^\| `([\w-]+)` \| (\w+) \|", _text(ROOT / "docs" / "models.md"), re.MULTILINE)
    assert dict(rows) == {name: table["backend"] for name, table in BUILTIN.items()}
