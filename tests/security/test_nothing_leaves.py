"""No process of ours looks up a name or speaks to another machine while it serves, offline as configured."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from backends import children
from backends.privacy import NO_TELEMETRY
from tests.support.audio import wav_of
from tests.support.server import server_process

ROOT = Path(__file__).resolve().parents[2]
COMPILER = shutil.which("cc") or shutil.which("gcc")
TINY = (ROOT / "tests" / "data" / "whisper_tiny").as_posix()
CONFIG = f"""
offline = true
[deployments.whisper-1]
backend = "whisper"
engine = "onnx"
device = "cpu"
model = "{TINY}"
"""
pytestmark = [
    pytest.mark.skipif(sys.platform != "linux" or COMPILER is None, reason="the watch needs Linux and a C compiler"),
]


@dataclass(frozen=True)
class Watch:
    """An environment in which every look-up and every connection beyond loopback is noted in `log`."""

    environment: dict[str, str]
    log: Path
    home: Path

    def noted(self) -> list[str]:
        return self.log.read_text(encoding="utf-8").splitlines() if self.log.exists() else []


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("watch") / "network_watch.so"
    source = Path(__file__).with_name("network_watch.c")
    subprocess.run([str(COMPILER), "-shared", "-fPIC", "-o", str(path), str(source), "-ldl"], check=True)
    return path


@pytest.fixture
def watch(library: Path, tmp_path: Path) -> Watch:
    """As a user's first start: an empty home, none of the switches that a test machine may have set."""
    log, quiet = tmp_path / "network.log", {"CI", "HF_HUB_OFFLINE", *NO_TELEMETRY}
    usual = {name: value for name, value in os.environ.items() if name not in quiet and not name.startswith("PYTHON")}
    home = tmp_path / "home"
    home.mkdir()
    places = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"), str(home))
    return Watch(
        {**usual, **places, "LD_PRELOAD": str(library), "NETWORK_WATCH": str(log), "PYTHONPATH": str(ROOT)}, log, home
    )


def test_the_watch_sees_python_and_native_libraries(watch: Watch) -> None:
    program = (
        "import contextlib, socket, subprocess, sys\n"
        "with contextlib.suppress(OSError): socket.getaddrinfo('looked-up.invalid', 80)\n"
        "with contextlib.suppress(OSError): socket.socket(type=socket.SOCK_DGRAM).connect(('192.0.2.1', 9))\n"
        "with contextlib.suppress(OSError): socket.create_connection(('127.0.0.1', 9))\n"
    )
    subprocess.run([sys.executable, "-c", program], env=watch.environment, check=True)
    noted = watch.noted()
    assert "lookup looked-up.invalid" in noted
    assert "connect 192.0.2.1" in noted
    assert not [line for line in noted if "127.0.0.1" in line]


def test_nothing_leaves_while_it_serves(watch: Watch, tmp_path: Path) -> None:
    """Start, transcription on onnxruntime, speech, the page, and the end."""
    config = tmp_path / "gateway.toml"
    config.write_text(CONFIG, encoding="utf-8")
    with server_process(
        tmp_path / "log", "--config", str(config), folder=tmp_path, environment=watch.environment
    ) as url:
        _use(url)
    _check(watch)


def _use(url: str) -> None:
    key = {"api-key": "k"}
    form = {"files": {"file": ("a.wav", wav_of(2.0))}, "data": {"model": "whisper-1"}}
    transcription = httpx.post(f"{url}/v1/audio/transcriptions", headers=key, timeout=120, **form)
    assert transcription.status_code == 200, transcription.text
    assert transcription.headers["x-gateway-engine"] == "onnx"
    said = httpx.post(
        f"{url}/v1/audio/speech",
        headers=key,
        json={"model": "embedded-tts", "input": "Yes.", "voice": "alloy"},
        timeout=120,
    )
    assert said.status_code == 200, said.text
    assert httpx.get(f"{url}/ui/gradio_api/info", timeout=120).status_code in (200, 501)


@pytest.mark.parametrize("command", ["doctor", "pull"])
def test_nothing_leaves_with_a_command(watch: Watch, tmp_path: Path, command: str) -> None:
    config = tmp_path / "gateway.toml"
    config.write_text(CONFIG.replace(TINY, "openai/whisper-tiny"), encoding="utf-8")
    more = ["whisper-1", "--from", TINY] if command == "pull" else []
    arguments = children.command("app.cli", command, *more, "--config", str(config))
    done = subprocess.run(arguments, env=watch.environment, cwd=tmp_path, capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    if command == "pull":
        assert done.returncode == 0, done.stdout + done.stderr
    _check(watch)


def _check(watch: Watch) -> None:
    assert not watch.noted()
    vendor = [path for path in watch.home.rglob("*") if "onnxruntime" in path.name or path.name == "Microsoft"]
    assert not vendor, "onnxruntime keeps a device id to report with"
