"""Every way to send a key, right and wrong: only a whole and valid key opens, and paths cannot be written around it."""

from __future__ import annotations

import httpx
import pytest

from tests.support.server import Running, server_fixture

KEYS = [{"name": "one", "key": "secret-one"}, {"name": "spaced", "key": "two words"}]


server = server_fixture(server={"api_keys": KEYS, "admin_key": "root"})


@pytest.mark.parametrize(
    ("headers", "query", "status"),
    [
        ({"api-key": "secret-one"}, "", 200),
        ({"API-KEY": "secret-one"}, "", 200),
        ({"ocp-apim-subscription-key": "secret-one"}, "", 200),
        ({"authorization": "Bearer secret-one"}, "", 200),
        ({"authorization": "bearer two words"}, "", 200),
        ({}, "subscription-key=secret-one", 200),
        ({"api-key": "wrong", "authorization": "Bearer secret-one"}, "", 200),
        ({"api-key": "root"}, "", 200),
        ({}, "", 401),
        ({"api-key": ""}, "", 401),
        ({"api-key": "secret-on"}, "", 401),
        ({"api-key": "secret-one1"}, "", 401),
        ({"api-key": "Secret-One"}, "", 401),
        ({"api-key": "one"}, "", 401),
        ({"api-key": "secret-one,secret-one"}, "", 401),
        ({"api-key": "Bearer secret-one"}, "", 401),
        ({"authorization": "secret-one"}, "", 401),
        ({"authorization": "Basic secret-one"}, "", 401),
        ({"authorization": "Bearer"}, "", 401),
        ({"authorization": "Bearer secret-one extra"}, "", 401),
        ({"x-api-key": "secret-one"}, "", 401),
        ({"cookie": "api-key=secret-one"}, "", 401),
        ({}, "api-key=secret-one", 401),
        ({}, "subscription-key=secret-one%00", 401),
        ({}, "Subscription-Key=secret-one", 401),
    ],
)
def test_forms_of_a_key(server: Running, headers: dict[str, str], query: str, status: int) -> None:
    answer = httpx.get(f"{server.url}/v1/models?{query}", headers=headers)
    assert answer.status_code == status
    assert "secret-one" not in answer.text


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models/", "//v1/models", "/v1/models/fake-asr", "/v1/../v1/models", "/v1/./models", "/v1/%6dodels",
        "/%76%31/models",
        "/openai/v1/models", "/openai/models?api-version=2024-10-21", "/health/../v1/models",
        "/health%2f..%2fv1/models",
        "/uix", "/V1/models", "/v1/models;x", "/v1/models%00", "/admin/load/fake-asr", "/docs/../admin",
        "/v1/audio/voices", "/openai/deployments?api-version=2024-10-21",
        "/openai/deployments/fake-asr?api-version=2024-10-21",
    ],
)  # fmt: skip
def test_no_spelling_of_a_path_opens_without_a_key(server: Running, path: str) -> None:
    with server.connect() as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.split(b" ", 2)[1] in (b"401", b"404", b"405", b"501")
    assert b"fake-tts" not in answer


def test_control_routes_take_the_admin_key_only(server: Running) -> None:
    url = f"{server.url}/admin/unload/fake-asr"
    assert httpx.post(url, headers={"api-key": "secret-one"}).status_code == 403
    assert httpx.post(url, headers={"api-key": "root"}).status_code == 200
