"""The command line's HTTP client, and how a command finds or starts a server."""

from __future__ import annotations

import email
import email.policy
import socket

import pytest

from app.commands import connection
from app.commands.client import CallFailed, Client, deployment_path, multipart
from app.commands.console import size_text
from tests.support.running import Running


def test_a_form_holds_fields_and_file() -> None:
    body, content_type = multipart('a"b\r\nc.wav', b"\r\n--sound\x00", {"language": "pt", "prompt": "Olá"})
    message = email.message_from_bytes(f"Content-Type: {content_type}\r\n\r\n".encode() + body, policy=email.policy.HTTP)
    parts = list(message.iter_parts())
    assert [part.get_param("name", header="content-disposition") for part in parts] == ["language", "prompt", "file"]
    assert parts[1].get_payload(decode=True).decode() == "Olá"
    assert parts[2].get_payload(decode=True) == b"\r\n--sound\x00"
    assert parts[2].get_filename() == "a_b__c.wav"


def test_names_are_percent_encoded_in_the_path() -> None:
    assert deployment_path("team/asr model", "audio/speech").startswith("/openai/deployments/team%2Fasr%20model/audio/speech?")


@pytest.mark.parametrize(
    ("size", "text"), [(None, "-"), (0, "-"), (900, "900 B"), (1536, "1.5 KiB"), (5 << 30, "5.0 GiB"), (3000 << 30, "3000.0 GiB")]
)
def test_sizes_for_people(size: int | None, text: str) -> None:
    assert size_text(size) == text


def test_a_running_server_at_the_default_address_is_used(served: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "DEFAULT_URL", served.url)
    with connection.connected("", "") as client:
        assert client.url == served.url


def test_another_program_on_the_default_port_is_not_taken_for_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        port = stranger.getsockname()[1]
    assert not connection._is_gateway(Client(f"http://127.0.0.1:{port}", "k"))


def test_a_temporary_server_comes_and_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        free = probe.getsockname()[1]
    monkeypatch.setattr(connection, "DEFAULT_URL", f"http://127.0.0.1:{free}")
    with connection.connected("", "") as client:
        document = client.get("/health").json()
        assert document["deployments"]["embedded-tts"]["state"] == "unloaded"
    with pytest.raises(CallFailed, match="no answer"):
        client.get("/health/live")


def test_a_temporary_server_that_cannot_start_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "gateway.toml").write_text("[server]\nprot = 1\n", encoding="utf-8")
    monkeypatch.setattr(connection, "DEFAULT_URL", "http://127.0.0.1:9")
    with pytest.raises(CallFailed, match="prot"), connection.connected("", ""):
        pass
