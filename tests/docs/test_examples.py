"""The example configurations work: all four families behind one server whose budget does not hold them all."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from socket import create_server

import httpx
import pytest

from tests.support.audio import wav_of
from tests.support.server import wait_until_live
from tests.support.waiting import LIMIT

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """`serve --config examples/all-tiny.toml`, answering."""
    with create_server(("127.0.0.1", 0)) as probe:
        port = str(probe.getsockname()[1])
    command = [sys.executable, "-m", "app", "serve", "--port", port, "--config", "examples/all-tiny.toml"]
    log = tmp_path_factory.mktemp("log") / "server.log"
    environment = os.environ | {"XDG_CACHE_HOME": str(log.parent)}  # no footprints measured by earlier servers
    with log.open("wb") as out, subprocess.Popen(command, cwd=ROOT, env=environment, stdout=out, stderr=out) as process:
        try:
            wait_until_live(f"http://127.0.0.1:{port}", process)
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers={"api-key": "k"}, timeout=LIMIT) as one:
                yield one
        finally:
            process.terminate()
            process.wait(LIMIT)


def test_all_three_tasks_by_all_four_families_within_the_budget(client: httpx.Client) -> None:
    """Also with nothing measured before: a worker is expected to hold its libraries too."""
    _ask_all(client)
    _fits_the_budget(client)


def _ask_all(client: httpx.Client) -> None:
    sound = wav_of(2.0)
    for voice_model in ("tts-1", "gpt-4o-mini-tts"):
        body = {"model": voice_model, "input": "Good morning, my friend.", "voice": "alloy", "response_format": "wav"}
        spoken = client.post("/v1/audio/speech", json=body)
        assert spoken.status_code == 200, spoken.text
        assert spoken.content[:4] == b"RIFF"
        assert len(spoken.content) > 2000
    heard = client.post("/v1/audio/transcriptions", data={"model": "whisper-1"}, files={"file": sound})
    assert heard.status_code == 200, heard.text
    part = {"type": "input_audio", "input_audio": {"data": base64.b64encode(sound).decode(), "format": "wav"}}
    question = {"role": "user", "content": [part, {"type": "text", "text": "What is it?"}]}
    answer = client.post("/v1/chat/completions", json={"model": "gpt-4o-audio-preview", "messages": [question]})
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["prompt_tokens_details"]["audio_tokens"] > 64


def _fits_the_budget(client: httpx.Client) -> None:
    """The four were loaded one after the other; what is loaded now keeps to the budget, so some were ended again."""
    health = client.get("/health").json()
    loaded = [name for name, row in health["deployments"].items() if row["state"] in ("ready", "busy")]
    assert 0 < len(loaded) < 4
    assert all(device["memory_used_bytes"] <= device["budget_bytes"] for device in health["devices"])
