"""Strange Host names and foreign web pages are refused; allowed pages get CORS, on errors too."""

from __future__ import annotations

import httpx
import pytest
import structlog

from tests.support.server import Running, fake_settings, running

KEY = {"api-key": "k"}


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:8000", 200),
        ("127.0.0.1:1", 200),
        ("[::1]:8000", 200),
        ("192.168.0.7", 200),
        ("gateway", 200),
        ("me.localhost", 200),
        ("host.docker.internal:8000", 200),
        ("myres.openai.azure.com", 200),
        ("evil.example", 403),
        ("evil.example:8000", 403),
        ("openai.azure.com.evil.example", 403),
        ("127.0.0.1.nip.io", 403),
    ],
)
def test_hosts(server: Running, host: str, status: int) -> None:
    answer = httpx.get(f"{server.url}/v1/models", headers=KEY | {"host": host})
    assert answer.status_code == status
    if status == 403:
        assert answer.json()["error"]["code"] == "host_not_allowed"


def test_further_hosts_can_be_allowed() -> None:
    with running(fake_settings(server={"allowed_hosts": ["Speech.Example"]})) as server:
        assert httpx.get(f"{server.url}/health", headers={"host": "speech.example:80"}).status_code == 200


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("http://localhost:3000", True),
        ("http://127.0.0.1", True),
        ("https://chat.example", True),
        ("https://evil.example", False),
        ("null", False),
        ("http://localhost.evil.example", False),
        ("http://evillocalhost", False),
        ("tauri://localhost", True),
        ("http://tauri.localhost", True),
        ("https://tauri.localhost", True),
    ],
)
def test_pages(origin: str, allowed: bool) -> None:
    with running(fake_settings(server={"cors_origins": ["https://chat.example/"]})) as server:
        preflight = httpx.options(
            f"{server.url}/v1/audio/speech",
            headers={
                "origin": origin,
                "access-control-request-method": "POST",
                "access-control-request-headers": "api-key",
            },
        )
        assert preflight.status_code == (204 if allowed else 403)
        listing = httpx.get(f"{server.url}/v1/models", headers=KEY | {"origin": origin})
        work = httpx.post(f"{server.url}/v1/audio/transcriptions?subscription-key=k", headers={"origin": origin})
        if allowed:
            assert preflight.headers["access-control-allow-headers"] == "api-key"
            assert (
                listing.headers["access-control-allow-origin"] == work.headers["access-control-allow-origin"] == origin
            )
            assert "x-request-id" in listing.headers["access-control-expose-headers"]
            assert work.status_code == 400
        else:
            assert "access-control-allow-origin" not in listing.headers
            assert (work.status_code, work.json()["error"]["code"]) == (403, "origin_not_allowed")


def test_a_refused_origin_is_logged_once_with_what_would_admit_it() -> None:
    with running(fake_settings()) as server, structlog.testing.capture_logs() as logs:
        for origin in ("app://obsidian.md", "app://obsidian.md", "https://evil.example"):
            headers = {"origin": origin, "access-control-request-method": "POST"}
            assert httpx.options(f"{server.url}/v1/audio/speech", headers=headers).status_code == 403
    told = [entry for entry in logs if entry["event"] == "origin_refused"]
    assert [entry["origin"] for entry in told] == ["app://obsidian.md", "https://evil.example"]
    assert "server.cors_origins = ['app://obsidian.md']" in told[0]["hint"]


def test_pages_may_read_every_header_of_ours(server: Running, wav: bytes) -> None:
    headers = KEY | {"origin": "http://localhost:3000"}
    speech = {"model": "fake-tts", "input": "Hi.", "voice": "alloy", "stream": False, "colour": "red"}
    spoken = {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"}}
    chat = {"model": "fake-chat", "messages": [{"role": "user", "content": "Hi."}], **spoken}
    answers = [
        httpx.post(f"{server.url}/v1/audio/speech", headers=headers, json=speech),
        httpx.post(f"{server.url}/v1/chat/completions", headers=headers, json=chat),
        httpx.post(
            f"{server.url}/v1/audio/transcriptions", headers=headers, data={"model": "fake-asr"}, files={"file": wav}
        ),
    ]
    ours = {name for answer in answers for name in answer.headers if name.startswith("x-gateway-")}
    exposed = answers[0].headers["access-control-expose-headers"].split(", ")
    assert {"x-gateway-answer-id", "x-gateway-ignored", "x-gateway-speech-ms"} <= ours
    assert ours | {"x-gateway-seed", "x-gateway-note", "x-gateway-fallback"} <= {*exposed}
    assert len(exposed) == len({*exposed})


def test_our_own_page_may_call_us(server: Running) -> None:
    answer = httpx.post(
        f"{server.url}/v1/audio/transcriptions",
        headers=KEY | {"origin": server.url, "host": f"127.0.0.1:{server.port}"},
    )
    assert answer.status_code == 400
