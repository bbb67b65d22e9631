"""A user's first hour on any system, with the base packages alone: also what the lane of Windows runs.

The server is a process in a folder whose path holds blanks and Japanese letters.
"""

from __future__ import annotations

import io
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import numpy as np
import pytest
import soundfile

from tests.backends.whisper.spoken import RATE, error_rate, record
from tests.support.server import wait_until_live
from tests.support.waiting import LIMIT, wait_until

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
MINIATURE = ROOT / "tests" / "data" / "whisper_tiny"
KEY = {"api-key": "any"}
DEEP = "/".join(["奥" + "x" * 62] * 5)  # with what is before it, longer than Windows' 260 characters
CONFIGURATION = """
offline = true
models_dir = "models"
[deployments.ears]
backend = "whisper"
model = "models/miniature"
dtype = "float32"
[deployments.deep]
backend = "whisper"
model = "models/DEEP/miniature"
dtype = "float32"
[deployments.slow]
backend = "fake"
delay = 0.5
steps = 600
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder with the miniature Whisper in it and a temporary folder of its own."""
    folder = tmp_path_factory.mktemp("home") / "音声 ゲートウェイ" / "深い フォルダ"
    folder.mkdir(parents=True)
    (folder / "temp").mkdir()
    shutil.copytree(MINIATURE, folder / "models" / "miniature")
    shutil.copytree(MINIATURE, folder / "models" / DEEP / "miniature")
    (folder / "gateway.toml").write_text(CONFIGURATION.replace("DEEP", DEEP), encoding="utf-8")
    return folder


@contextmanager
def serving(home: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The server's address and process; killed at the end where it still runs."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    places = ("HOME", "USERPROFILE", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "LOCALAPPDATA")
    temp = {name: str(home / "temp") for name in ("TMPDIR", "TEMP", "TMP")}
    command = [sys.executable, "-P", "-m", "app", "--port", str(port), "--config", str(home / "gateway.toml")]
    with (home / "log.txt").open("ab") as log:
        process = subprocess.Popen(
            command,
            cwd=home,
            env=os.environ | dict.fromkeys(places, str(home)) | temp | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )
    address = f"http://127.0.0.1:{port}"
    try:
        wait_until_live(address, process)
        yield address, process
    finally:
        process.kill()
        process.wait(LIMIT)


@pytest.fixture(scope="module")
def url(home: Path) -> Iterator[str]:
    with serving(home) as (address, _):
        yield address


def wav(samples: np.ndarray, rate: int = RATE) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def transcribe(url: str, audio: bytes, model: str = "ears") -> httpx.Response:
    files, data = {"file": ("会議 の録音.wav", audio)}, {"model": model, "response_format": "verbose_json"}
    return httpx.post(f"{url}/v1/audio/transcriptions", headers=KEY, files=files, data=data, timeout=LIMIT)


@pytest.mark.parametrize("kind", ["wav", "mp3"])
def test_it_speaks(url: str, kind: str) -> None:
    body = {"model": "embedded-tts", "voice": "en-us", "input": "Good morning.", "response_format": kind}
    answer = httpx.post(f"{url}/v1/audio/speech", headers=KEY, json=body, timeout=LIMIT)
    assert answer.status_code == 200, answer.text
    samples, rate = soundfile.read(io.BytesIO(answer.content))
    assert 0.4 < len(samples) / rate < 5
    assert np.abs(samples).max() > 0.05


def test_whisper_writes_down_what_was_said(url: str) -> None:
    recording = record(3, seed=700)
    answer = transcribe(url, wav(recording.samples))
    assert answer.status_code == 200, answer.text
    assert error_rate(answer.json()["text"], recording.text) <= 0.1
    assert answer.headers["x-gateway-engine"] == "onnx"


def test_weights_may_lie_deeper_than_260_characters(url: str, home: Path) -> None:
    assert len(str(home / "models" / DEEP)) > 300
    recording = record(1, seed=702)
    answer = transcribe(url, wav(recording.samples), "deep")
    assert answer.status_code == 200, answer.text
    assert error_rate(answer.json()["text"], recording.text) <= 0.1


def test_a_long_upload_leaves_nothing_on_the_disk(url: str, home: Path) -> None:
    recording = record(2, seed=701)
    long = np.concatenate([recording.samples, np.zeros(RATE * 150, np.float32)])
    assert transcribe(url, wav(long)).status_code == 200
    wait_until(lambda: not list((home / "temp").rglob("*.f32")))


def test_a_killed_server_leaves_what_the_next_one_sweeps(home: Path) -> None:
    before = set((home / "temp").iterdir())  # of a server that runs beside this one
    with serving(home) as (address, process), ThreadPoolExecutor() as threads:
        lost = threads.submit(transcribe, address, wav(np.zeros(RATE * 120, np.float32)), "slow")
        wait_until(lambda: httpx.get(f"{address}/health").json()["in_flight"] == 1)
        left = set((home / "temp").glob("speech-gateway-*")) - before
        process.kill()
        process.wait(LIMIT)
        with pytest.raises(httpx.HTTPError):
            lost.result(LIMIT)
    assert left
    with serving(home):
        wait_until(lambda: not any(path.exists() for path in left))


def test_it_stops_when_asked(home: Path) -> None:
    with serving(home) as (address, process):
        assert httpx.get(f"{address}/health/ready").status_code in (200, 503)
        if sys.platform == "win32":
            with suppress(OSError, SystemError):  # where there is no console
                process.send_signal(signal.CTRL_BREAK_EVENT)
                assert process.wait(LIMIT) in (0, 3)
        else:
            process.send_signal(signal.SIGTERM)
            assert process.wait(LIMIT) == 0
