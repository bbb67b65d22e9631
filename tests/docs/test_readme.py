"""README's own lines, executed one after the other as a reader does, and its tables.

What holds for every page is in test_pages.py and test_snippets.py.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import wave
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from app.cli import cli
from app.config.deployments import BUILTIN_ALIASES
from backends.audio.error_rate import error_rate
from backends.data_packages import is_installed
from backends.model_sets import MODEL_SETS, VOICE_FILES, problems
from tests.support.server import server_process
from tests.support.waiting import LIMIT, wait_until

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = ("README.md", "models/README.md", "docs/commands.md", "docs/windows.md")
ADDRESS = "127.0.0.1:8000"
MISSING_WEIGHTS = problems(MODEL_SETS["whisper-base"], ROOT / "models" / "whisper-base")
NEEDS_WEIGHTS = pytest.mark.skipif(bool(MISSING_WEIGHTS), reason="".join(MISSING_WEIGHTS[:1]) or "the weights are here")
NEEDS_CURL = pytest.mark.skipif(not (shutil.which("curl") and shutil.which("bash")), reason="needs curl and bash")


def snippets(language: str, text: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real server with its real workers, on a port of its own."""
    with server_process(tmp_path_factory.mktemp("log") / "server.log", "--offline") as url:
        wait_until(lambda: httpx.get(f"{url}/health/ready").status_code == 200)
        yield url.removeprefix("http://")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the snippets run, one after the other, as a reader does."""
    return tmp_path_factory.mktemp("reader")


def curl(snippet: str, address: str, folder: Path) -> str:
    done = subprocess.run(
        ["bash", "-ec", snippet.replace(ADDRESS, address)], cwd=folder, capture_output=True, text=True, timeout=LIMIT
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def curl_lines() -> list[str]:
    return [snippet for snippet in snippets("sh") if "curl" in snippet]


@NEEDS_CURL
@NEEDS_WEIGHTS
def test_the_curl_lines_speak_and_transcribe(address: str, folder: Path) -> None:
    speak, transcribe, *_ = curl_lines()
    assert curl(speak, address, folder) == ""
    with wave.open(str(folder / "speech.wav")) as sound:
        assert sound.getnframes() / sound.getframerate() > 1.5
    document = json.loads(curl(transcribe, address, folder))
    recognized = {word["word"].lower().strip(".") for word in document["words"]}
    assert len(recognized & {"please", "open", "the", "front", "door", "before", "you", "leave"}) >= 7


@NEEDS_CURL
@NEEDS_WEIGHTS
@pytest.mark.skipif(
    not is_installed(*VOICE_FILES.values()) or importlib.util.find_spec("pyopenjtalk") is None,
    reason="the Japanese voice is not installed (weight packages voice-japanese)",
)
def test_japanese_is_spoken_and_recognized_under_openais_name(address: str, folder: Path) -> None:
    *_, speak, whisper = curl_lines()
    assert curl(speak, address, folder) == ""
    said = "明日の朝、駅の前で会いましょう。"
    assert said in speak
    asked = whisper.replace("curl -sS", "curl -sS -D headers.txt")
    assert error_rate(said, curl(asked, address, folder), "ja") <= 0.2
    headers = (folder / "headers.txt").read_text(encoding="utf-8")
    if not (ROOT / "models" / "openai--whisper-small").exists():
        assert "x-gateway-fallback: embedded-asr" in headers


@NEEDS_WEIGHTS
def test_the_python_snippet_runs(address: str, folder: Path) -> None:
    (snippet,) = snippets("python")
    done = subprocess.run(
        [sys.executable, "-c", snippet.replace(ADDRESS, address)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) >= 3
    assert (folder / "coffee.wav").stat().st_size > 20_000


@pytest.mark.skipif(sys.platform == "win32", reason="make is not part of Windows")
def test_the_make_lines_exist() -> None:
    for line in [*re.findall(r"`(make [a-z]+)", README), *(s.strip() for s in snippets("sh") if s.startswith("make"))]:
        subprocess.run([*line.split(), "-n"], cwd=ROOT, capture_output=True, check=True, timeout=LIMIT)
    assert "`make serve PORT=8123`" in README


@pytest.mark.parametrize("page", PAGES)
def test_commands_and_options_that_are_named_exist(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    named = re.findall(r"speech-gateway(?:\.exe)? ([a-z]+)((?: [^`\n|]*)?)[`\n|]", text)
    assert named or page == "docs/windows.md"
    for command, rest in named:
        told = CliRunner().invoke(cli, [command, "--help"], env={"COLUMNS": "200"})
        assert told.exit_code == 0, command
        for option in re.findall(r"(--[a-z][a-z-]*)", rest):
            assert option in told.output, f"{command} {option}"


def test_every_command_is_in_the_page_of_commands() -> None:
    page = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    told = CliRunner().invoke(cli, ["--help"]).output
    commands = re.findall(r"^  ([a-z]+)  ", told[told.index("Commands:") :], re.MULTILINE)
    assert {"serve", "pull", "models", "doctor", "transcribe", "speak", "ask", "bench"} <= set(commands)
    assert [name for name in commands if f"`speech-gateway {name}" not in page] == []


def test_the_names_in_the_table_are_those_of_the_server() -> None:
    table = README[README.index("## Names that clients expect") : README.index("## Configuration")]
    wanted = {"Whisper": "whisper-1", "CSM": "csm-1b", "LLASA": "llasa-1b", "DIFFA": "diffa"}
    for names, family in re.findall(r"^\| (`.*`) \| (\w+) \|$", table, re.MULTILINE):
        for name in re.findall(r"`([^`]+)`", names):
            assert BUILTIN_ALIASES.get(name, name) == wanted[family], name
