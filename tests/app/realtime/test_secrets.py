"""Ephemeral keys: what they are asked for with, what they open, and until when."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from app.errors import Unauthorized
from app.realtime.ephemeral_keys import EphemeralKeys
from tests.support.client import error_of
from tests.support.live_pool import connected, realtime_server
from tests.support.server import Running

TRANSCRIPTION = {
    "type": "transcription",
    "audio": {"input": {"transcription": {"model": "fake-asr", "language": "en"}}},
}


def _post(server: Running, path: str, body: dict[str, Any], key: str = "k") -> httpx.Response:
    return httpx.post(f"{server.url}{path}", json=body, headers={"api-key": key})


def test_a_key_opens_the_session_it_is_bound_to() -> None:
    with realtime_server(server={"api_keys": [{"name": "one", "key": "secret"}]}) as server:
        body = {"expires_after": {"anchor": "created_at", "seconds": 30}, "session": TRANSCRIPTION}
        made = _post(server, "/v1/realtime/client_secrets", body, "secret").json()
        assert made["value"].startswith("ek_")
        assert made["session"]["object"] == "realtime.transcription_session"
        offered = ["realtime", f"openai-insecure-api-key.{made['value']}"]
        target = "/v1/realtime?model=gpt-4o-transcribe"  # what some clients add to every address
        for _ in range(2):
            with connected(server, target, subprotocols=offered, additional_headers={}) as socket:
                shown = socket.seen[0]["session"]["audio"]["input"]["transcription"]
                assert shown == {"model": "fake-asr", "language": "en"}
        assert _post(server, "/v1/realtime/client_secrets", {}, made["value"]).status_code == 401


def test_a_key_opens_nothing_once_it_has_expired() -> None:
    now = [100.0]
    keys = EphemeralKeys(fair=False, clock=lambda: now[0])
    key = keys.new("one", "one", 30, {"type": "realtime"})
    now[0] = 129.0
    assert keys.find(key.value.encode()) == key
    now[0] = 130.0
    with pytest.raises(Unauthorized):
        keys.find(key.value.encode())


def test_the_usual_key(server: Running) -> None:
    made = _post(server, "/openai/v1/realtime/client_secrets", {}).json()
    assert made["session"]["type"] == "realtime"
    assert made["expires_at"] == pytest.approx(made["session"]["expires_at"], abs=2)
    with connected(server, "/v1/realtime?model=gpt-realtime", key=made["value"]) as socket:
        assert socket.seen[0]["session"]["model"] == "gpt-realtime"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"expires_after": {"seconds": 9}}, "expires_after.seconds"),
        ({"expires_after": {"seconds": 7201}}, "expires_after.seconds"),
        ({"expires_after": {"anchor": "later", "seconds": 60}}, "expires_after.anchor"),
        ({"expires_after": 5}, "expires_after"),
        ({"session": 5}, "session"),
        ({"session": {"type": "other"}}, "session.type"),
        ({"session": {"type": "transcription", "tools": []}}, "session.tools"),
        ({"session": {"type": "realtime", "model": 3}}, "session.model"),
    ],
)
def test_wrong_bodies(server: Running, body: dict[str, Any], param: str) -> None:
    assert error_of(_post(server, "/v1/realtime/client_secrets", body))[0] == param


def test_the_previews_two(server: Running) -> None:
    made = _post(server, "/v1/realtime/sessions", {"model": "gpt-4o-realtime-preview", "voice": "echo"}).json()
    assert (made["voice"], made["model"]) == ("echo", "gpt-4o-realtime-preview")
    assert made["client_secret"]["value"].startswith("ek_")
    made = _post(server, "/v1/realtime/transcription_sessions", {"input_audio_format": "pcm16"}).json()
    assert (made["input_audio_format"], made["object"]) == ("pcm16", "realtime.transcription_session")
    with connected(server, "/v1/realtime", key=made["client_secret"]["value"]) as socket:
        assert socket.seen[0]["session"]["type"] == "transcription"


def test_pages_may_ask_for_keys_where_they_may_ask_for_anything(server: Running) -> None:
    headers = {"api-key": "k", "origin": "https://evil.example"}
    assert httpx.post(f"{server.url}/v1/realtime/client_secrets", json={}, headers=headers).status_code == 403
