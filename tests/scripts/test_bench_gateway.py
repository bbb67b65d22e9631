"""The doubles of the gateway's benchmark keep to what the gateway asks of its pools."""

from __future__ import annotations

import httpx

from app.config.settings import Settings
from scripts.bench.no_pool import NoMedia, NoPool
from tests.support.audio import wav_of
from tests.support.server import running


def test_a_request_passes_a_gateway_with_nothing_behind_it() -> None:
    settings = Settings.model_validate(
        {"offline": True, "deployments": {"fake": {"backend": "fake", "task": "transcription"}}}
    )
    with running(settings, NoPool()) as server:  # type: ignore[arg-type]
        server.gateway.media = NoMedia()  # type: ignore[assignment]
        answer = httpx.post(
            f"{server.url}/v1/audio/transcriptions", data={"model": "fake"}, files={"file": ("a.wav", wav_of(1.0))}
        )
    assert (answer.status_code, answer.json()["text"]) == (200, "")
