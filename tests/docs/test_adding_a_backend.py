"""docs/adding-a-backend.md: the backend of the page is built from it, served by the real server, and keys "sos"."""

from __future__ import annotations

import io
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path

import httpx
import numpy as np
import pytest
import soundfile

from scripts.bootstrap import wait_until_ready
from tests.support.waiting import LIMIT

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "adding-a-backend.md").read_text(encoding="utf-8")
RATE = 16_000  # Hz, of the page's backend
DOT = 640  # samples at 30 words per minute: 1.2 s / 30
SOS = "... --- ..."


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the product with the files that the page shows, and its configuration."""
    root = tmp_path_factory.mktemp("checkout")
    for folder in ("app", "backends"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for block in _blocks("python"):
        file = root / block.partition("\n")[0].removeprefix("# ")
        file.parent.mkdir(exist_ok=True)
        file.write_text(block, encoding="utf-8")
    (root / "gateway.toml").write_text("\n".join(_blocks("toml")), encoding="utf-8")
    return root


@contextmanager
def _server(root: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """The real server of that copy; its output is in root/server.log."""
    command = [sys.executable, "-P", "-m", "app", "serve", "--config", "gateway.toml", "--port", str(port), "--offline"]
    environ = {**os.environ, "PYTHONPATH": str(root)}
    with (
        (root / "server.log").open("wb") as log,
        subprocess.Popen(command, cwd=root, env=environ, stdout=log, stderr=log) as server,
    ):
        try:
            yield server
        finally:
            server.terminate()
            server.wait(LIMIT)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def address(checkout: Path) -> Iterator[str]:
    port = _free_port()
    with _server(checkout, port) as process:
        log = checkout / "server.log"
        assert wait_until_ready(process, f"http://127.0.0.1:{port}", LIMIT), log.read_text(encoding="utf-8")
        yield f"http://127.0.0.1:{port}"


def _asked(address: str, text: str) -> httpx.Response:
    """The page's request, with another text."""
    (command,) = _blocks("sh")
    (url,) = re.findall(r"http://[^ ]+", command)
    (body,) = re.findall(r"-d '([^']+)'", command)
    headers = dict(line.split(": ") for line in re.findall(r'-H "([^"]+)"', command))
    address = address + url.removeprefix("http://127.0.0.1:8000")
    return httpx.post(address, content=body.replace('"sos"', f'"{text}"'), headers=headers, timeout=LIMIT)


def _envelope(samples: np.ndarray) -> list[bool]:
    """Key down or up, by dots: the sound's peak in the middle half of each."""
    dots = samples[: len(samples) // DOT * DOT].reshape(-1, DOT)
    return [bool(np.abs(dot[DOT // 4 : -DOT // 4]).max() > 0.1) for dot in dots]


def test_the_backend_of_the_page_keys_sos(address: str) -> None:
    response = _asked(address, "sos")
    assert response.status_code == 200, response.text
    assert response.headers["x-gateway-engine"] == "numpy"
    samples, rate = soundfile.read(io.BytesIO(response.content), dtype="float32")
    expected = [bool(dot) for letter in SOS.split() for dot in _dots(letter)]
    seconds = len(samples) / rate
    assert seconds == pytest.approx(len(expected) * DOT / RATE, abs=0.005)
    at_our_rate = np.interp(np.arange(0, seconds, 1 / RATE), np.arange(len(samples)) / rate, samples)
    keyed = _envelope(at_our_rate)
    assert len(keyed) >= len(expected) - 1  # the last dot may lack a sample
    assert keyed == expected[: len(keyed)]
    spectrum = np.abs(np.fft.rfft(samples))
    assert float(np.argmax(spectrum)) * rate / len(samples) == pytest.approx(600, abs=10)
    assert [len(list(run)) for down, run in groupby(expected) if down] == [1, 1, 1, 3, 3, 3, 1, 1, 1]


def _dots(letter: str) -> list[int]:
    """Key down (1) and up (0) per dot: a gap of one dot after each mark, of three after the letter."""
    return [dot for mark in letter for dot in ([1, 0] if mark == "." else [1, 1, 1, 0])] + [0, 0]


def test_a_text_without_letters_is_refused_by_the_backend(address: str) -> None:
    response = _asked(address, "123")
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "input"
    assert "no letter" in response.json()["error"]["message"]


def test_an_option_out_of_its_range_is_refused_at_the_start(checkout: Path, tmp_path: Path) -> None:
    file = tmp_path / "wrong.toml"
    file.write_text("\n".join(_blocks("toml")).replace("= 30", "= 300"), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-P", "-m", "app", "serve", "--config", str(file), "--port", str(_free_port())],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout)},
        capture_output=True,
        timeout=LIMIT,
    )
    said = done.stderr.decode() + done.stdout.decode()
    assert done.returncode != 0
    assert "words_per_minute" in said
    assert "<= 60" in said
