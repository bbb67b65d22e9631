"""The listings that Open WebUI asks for, under every base URL."""

from __future__ import annotations

import httpx
import pytest

from app.routes.voices import _document
from backends.interface import Voice
from backends.openai_voices import OPENAI_VOICES
from tests.support.server import FAKES, Running, server_fixture

BASES = ["/v1", "/openai/v1", "/openai/deployments/fake-tts", "/openai"]
KEY = {"api-key": "any"}
VERSION = "?api-version=2024-10-21"


server = server_fixture(
    deployments={**FAKES, "fake-tts": {**FAKES["fake-tts"], "voices": {"Anna": "fake-high"}}},
    aliases={"my voice": "fake-tts"},
)


@pytest.mark.parametrize("base", BASES)
def test_voices(server: Running, base: str) -> None:
    answer = httpx.get(f"{server.url}{base}/audio/voices{VERSION}", headers=KEY)
    assert answer.status_code == 200, answer.text
    voices = answer.json()["voices"]
    assert all(set(voice) == {"id", "name"} for voice in voices)
    ids = [voice["id"] for voice in voices]
    assert {*OPENAI_VOICES, "Anna", "fake"} <= set(ids)
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("base", BASES)
def test_models(server: Running, base: str) -> None:
    names = {
        model["id"] for model in httpx.get(f"{server.url}{base}/audio/models{VERSION}", headers=KEY).json()["models"]
    }
    assert {"fake-tts", "my voice", "embedded-tts"} <= names
    assert not {"embedded-asr", "fake-asr"} & names


def test_voices_of_one_deployment(server: Running) -> None:
    ids = {
        voice["id"]
        for voice in httpx.get(f"{server.url}/v1/audio/voices?model=embedded-tts", headers=KEY).json()["voices"]
    }
    assert "Anna" not in ids
    assert httpx.get(f"{server.url}/v1/audio/voices?model=nobody", headers=KEY).status_code == 404
    assert httpx.get(f"{server.url}/openai/deployments/nobody/audio/voices{VERSION}", headers=KEY).status_code == 404


def test_a_model_that_was_never_loaded_is_not_loaded_for_a_listing(server: Running) -> None:
    server.pool.loaded = False
    ids = {voice["id"] for voice in httpx.get(f"{server.url}/v1/audio/voices", headers=KEY).json()["voices"]}
    assert ids == {*OPENAI_VOICES, "Anna"}
    assert not server.pool.loaded
    server.pool.loaded = True


def test_a_voice_tells_its_languages_and_its_licence() -> None:
    told = _document(Voice("jf_alpha", "Alpha", ("ja-JP",), "Apache-2.0"))
    assert told == {"id": "jf_alpha", "name": "Alpha", "languages": ["ja-JP"], "licence": "Apache-2.0"}
    assert _document(Voice("plain")) == {"id": "plain", "name": "plain"}
