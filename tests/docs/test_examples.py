"""The example configurations work: all four families behind one server whose budget does not hold them all."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from backends import children
from tests.support.audio import wav_of
from tests.support.server import server_process
from tests.support.waiting import LIMIT

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """The server of examples/all-tiny.toml, answering."""
    log = tmp_path_factory.mktemp("log") / "server.log"
    environment = children.environment(extra={"XDG_CACHE_HOME": str(log.parent)})  # no footprints of earlier servers
    arguments = ("--config", str(ROOT / "examples" / "all-tiny.toml"))
    with (
        server_process(log, *arguments, environment=environment) as url,
        httpx.Client(base_url=url, headers={"api-key": "k"}, timeout=LIMIT) as one,
    ):
        yield one


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
    transcription = client.post("/v1/audio/transcriptions", data={"model": "whisper-1"}, files={"file": sound})
    assert transcription.status_code == 200, transcription.text
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
