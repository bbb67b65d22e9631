"""The command line's HTTP client, and how a command finds or starts a server."""

from __future__ import annotations

import email
import email.policy
import signal
import socket
import subprocess
import sys
import types
from pathlib import Path

import pytest

from app.commands import connection
from app.commands.client import CallFailed, Client, deployment_path, multipart
from app.commands.console import size_text
from app.config.settings import ServerSettings
from tests.support.server import Running


def test_a_form_holds_fields_and_file() -> None:
    body, content_type = multipart('a"b\r\nc.wav', b"\r\n--sound\x00", {"language": "pt", "prompt": "Olá"})
    message = email.message_from_bytes(
        f"Content-Type: {content_type}\r\n\r\n".encode() + body, policy=email.policy.HTTP
    )
    parts = list(message.iter_parts())
    assert [part.get_param("name", header="content-disposition") for part in parts] == ["language", "prompt", "file"]
    assert parts[1].get_payload(decode=True).decode() == "Olá"
    assert parts[2].get_payload(decode=True) == b"\r\n--sound\x00"
    assert parts[2].get_filename() == "a_b__c.wav"


def test_names_are_percent_encoded_in_the_path() -> None:
    assert deployment_path("team/asr model", "audio/speech").startswith(
        "/openai/deployments/team%2Fasr%20model/audio/speech?"
    )


@pytest.mark.parametrize(
    ("size", "text"),
    [(None, "-"), (0, "-"), (900, "900 B"), (1536, "1.5 KiB"), (5 << 30, "5.0 GiB"), (3000 << 30, "3000.0 GiB")],
)
def test_sizes_for_people(size: int | None, text: str) -> None:
    assert size_text(size) == text


def test_a_running_server_at_the_default_address_is_used(served: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPEECH_GATEWAY_SERVER__PORT", str(served.port))
    with connection.connected("", "") as client:
        assert client.url == served.url


def test_a_running_server_is_looked_for_where_the_configuration_puts_it(served: Running, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(f"[server]\nport = {served.port}\nhost = '0.0.0.0'\nopen_to_network = true\n", encoding="utf-8")
    with connection.connected("", "", file) as client:
        assert client.url == served.url


@pytest.mark.parametrize(
    ("host", "port", "address"),
    [
        ("127.0.0.1", 8123, "http://127.0.0.1:8123"),
        ("::", 8123, "http://[::1]:8123"),
        ("127.0.0.2", 0, "http://127.0.0.2:8000"),
    ],
)
def test_the_address_of_a_configuration(host: str, port: int, address: str) -> None:
    assert connection._address(ServerSettings(host=host, port=port, open_to_network=True)) == address


def test_another_program_on_the_default_port_is_not_taken_for_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        port = stranger.getsockname()[1]
    assert not connection._is_gateway(Client(f"http://127.0.0.1:{port}", "k"))


def test_a_temporary_server_comes_and_goes_with_the_configuration_and_its_key(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        free = probe.getsockname()[1]
    file = tmp_path / "mine.toml"
    keys = "api_keys = [{ name = 'me', key = 'a secret' }]"
    file.write_text(f"[server]\nport = {free}\n{keys}\n[deployments.mine]\nbackend = 'espeak'\n", encoding="utf-8")
    with connection.connected("", "", file) as client:
        document = client.get("/health").json()
        assert document["deployments"]["mine"]["state"] == "unloaded"
        assert client.get("/v1/models").json()["data"]
    with pytest.raises(CallFailed, match="no answer"):
        client.get("/health/live")


def test_a_temporary_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "gateway.toml").write_text("[server]\nport = 9\n[deployments.x]\nbackend = 'y'\n", encoding="utf-8")
    with pytest.raises(CallFailed, match="backend"), connection.connected("", ""):
        pass


@pytest.mark.skipif(sys.platform == "win32", reason="pretends to be there")
@pytest.mark.parametrize(
    "error", [OSError(6, "The handle is invalid"), SystemError("returned a result with an exception set")]
)
def test_without_a_console_the_temporary_server_is_ended_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    """Windows has no Ctrl+Break without a console, say in a service or a scheduled task."""

    def no_console(pid: int, sent: int) -> None:
        raise error

    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as process:
        monkeypatch.setattr(signal, "CTRL_BREAK_EVENT", 1, raising=False)
        monkeypatch.setattr(connection, "os", types.SimpleNamespace(kill=no_console))
        monkeypatch.setattr(connection, "sys", types.SimpleNamespace(platform="win32"))
        try:
            connection._ask_to_end(process)
            assert process.wait(60) != 0
        finally:
            process.kill()
    assert "ended at once" in capsys.readouterr().err
