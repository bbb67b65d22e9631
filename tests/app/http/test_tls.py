"""https by this machine's own certificate or by the user's files, and the commands that talk to such a server."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from app.cli import cli
from app.commands.client import CallFailed, Client
from app.commands.connection import _address
from app.config.deployments import Deployments
from app.config.settings import ConfigError, ServerSettings
from app.http import certificates
from app.http.certificates import certificate_files, ensure_certificate
from app.http.server import GatewayServer, _config
from app.http.tls import tls_files
from app.main import create_app
from tests.support.fake_pool import FakePool
from tests.support.server import Running, fake_settings, running
from tests.support.waiting import LIMIT


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where this machine's certificate lies in these tests."""
    path = tmp_path_factory.mktemp("tls")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(certificates, "tls_folder", lambda: path)
        yield path


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Running]:
    with running(fake_settings(server={"tls": "auto"})) as one:
        yield one


def trusting(folder: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(certificate_files(folder).authority))


def test_https_is_served_to_clients_that_trust_the_certificate(server: Running, folder: Path) -> None:
    with httpx.Client(verify=trusting(folder)) as client:
        for host in ("127.0.0.1", "localhost"):
            assert client.get(f"https://{host}:{server.port}/health/live").json()["status"] == "ok"


def test_others_refuse_it(server: Running) -> None:
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(f"{server.url}/health/live")


def test_plain_http_is_not_answered_there(server: Running) -> None:
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"http://127.0.0.1:{server.port}/health/live", timeout=LIMIT)


def test_an_upload_that_is_too_large_is_told_so_under_tls(server: Running, folder: Path) -> None:
    answer = httpx.post(
        f"{server.url}/v1/audio/transcriptions",
        content=b"x" * 30_000_000,
        headers={"authorization": "Bearer x", "content-type": "multipart/form-data; boundary=b"},
        verify=trusting(folder),
        timeout=LIMIT,
    )
    assert answer.status_code == 413


def test_the_commands_trust_it(server: Running) -> None:
    assert Client(server.url, "x").get("/health/live").json()["status"] == "ok"


def test_a_certificate_that_is_not_trusted_leads_to_the_command(
    server: Running, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(certificates, "tls_folder", lambda: tmp_path)
    with pytest.raises(CallFailed, match="speech-gateway certificate"):
        Client(server.url, "x").get("/health/live")


def test_the_commands_look_for_https_where_it_is_configured() -> None:
    assert _address(ServerSettings(tls="auto")) == "https://127.0.0.1:8000"
    assert _address(ServerSettings()) == "http://127.0.0.1:8000"


def test_the_command_tells_what_to_trust(folder: Path) -> None:
    told = CliRunner().invoke(cli, ["certificate"])
    assert told.exit_code == 0
    assert str(certificate_files(folder).authority) in told.stdout
    assert all(word in told.output for word in ("certutil", "security add-trusted-cert", "update-ca-certificates"))
    path = CliRunner().invoke(cli, ["certificate", "--path"])
    assert path.stdout.strip() == str(certificate_files(folder).authority)


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"tls": "files"}, "needs certificate"),
        ({"tls": "files", "certificate": "a.pem"}, "needs certificate"),
        ({"certificate": "a.pem", "certificate_key": "b.pem"}, 'with tls = "files" only'),
        ({"tls": "auto", "certificate": "a.pem"}, 'with tls = "files" only'),
    ],
)
def test_settings_that_contradict_each_other(values: dict[str, str], match: str) -> None:
    with pytest.raises(ValidationError, match=match):
        ServerSettings.model_validate(values)


def test_own_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.pem").write_text("no certificate", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"a\.pem"):
        tls_files(ServerSettings(tls="files", certificate=str(tmp_path / "a.pem"), certificate_key="b.pem"))
    assert ServerSettings(tls="off", certificate="a.pem").scheme == "http"


async def test_files_that_change_are_read_again(tmp_path: Path) -> None:
    ensure_certificate([], tmp_path)
    own = certificate_files(tmp_path)
    settings = fake_settings(
        server={"tls": "files", "certificate": str(own.certificate), "certificate_key": str(own.key)}
    )
    files = tls_files(settings.server)
    assert files is not None
    app = create_app(settings, pool=FakePool(Deployments.from_settings(settings)))
    server = GatewayServer(_config(app, files), app, files)
    server.config.load()
    loaded: list[Path] = []
    assert server.config.ssl is not None
    server.config.ssl = Recorder(loaded)  # type: ignore[assignment]
    await server._refresh_certificate(files)
    assert loaded == []
    own.certificate.unlink()
    ensure_certificate([], tmp_path)
    await server._refresh_certificate(files)
    assert loaded == [own.certificate]
    own.certificate.unlink()
    await server._refresh_certificate(files)  # is told in the log and tried again later
    assert loaded == [own.certificate]


class Recorder:
    """Stands in for the server's context."""

    def __init__(self, loaded: list[Path]) -> None:
        self._loaded = loaded

    def load_cert_chain(self, certificate: Path, key: Path) -> None:
        self._loaded.append(certificate)
