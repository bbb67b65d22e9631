"""The command line against a server with a fake pool."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from app.cli import cli
from tests.support.fake_pool import answer
from tests.support.server import Running, running

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def served() -> Iterator[Running]:
    with running() as one:
        yield one


@pytest.fixture(autouse=True)
def own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of its own and no settings from outside."""
    monkeypatch.chdir(tmp_path)
    for name in ("SPEECH_GATEWAY_URL", "SPEECH_GATEWAY_KEY", "SPEECH_GATEWAY_CONFIG"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def run(served: Running) -> Iterator[Run]:
    """Run a command against the server; what it said is the result's output (stdout) and stderr."""
    served.pool.requests.clear()

    def invoke(*arguments: str) -> Result:
        return CliRunner().invoke(cli, [*arguments, "--server", served.url])

    yield invoke
    served.pool.script, served.pool.refuse = answer, None


@pytest.fixture
def recording(tmp_path: Path, wav: bytes) -> str:
    file = tmp_path / "an old recording.wav"
    file.write_bytes(wav)
    return str(file)
