"""The options of `serve` become settings of the right deployments."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

import app.main
from app.cli import cli
from app.config.deployments import Deployments
from app.config.settings import Settings


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """The settings that a server would have been started with."""
    seen: list[Settings] = []
    monkeypatch.setattr(app.main, "run_server", lambda settings, make_pool: seen.append(settings) or 0)
    return seen


def _deployments(started: list[Settings], *options: str) -> Deployments:
    assert CliRunner().invoke(cli, ["serve", *options]).exit_code == 0
    return Deployments.from_settings(started[-1])


def test_compile_and_bf16_reach_the_deployments_that_know_them(started: list[Settings]) -> None:
    names = _deployments(started, "--compile", "--bf16")
    assert names["llasa-1b"].options["compile"] is True
    assert [name for name, deployment in names.items() if deployment.dtype == "bfloat16"] == [
        "csm-1b",
        "llasa-1b",
        "diffa",
    ]


def test_without_them_nothing_is_changed(started: list[Settings]) -> None:
    names = _deployments(started, "--port", "8123")
    assert started[-1].server.port == 8123
    assert not names["llasa-1b"].options["compile"]
    assert {deployment.dtype for deployment in names.values()} == {"auto"}


def test_an_option_beats_the_file(started: list[Settings]) -> None:
    Path("gateway.toml").write_text(
        '[deployments."llasa-1b"]\ndtype = "float32"\ncodec_dtype = "float32"\n', encoding="utf-8"
    )
    llasa = _deployments(started, "--bf16")["llasa-1b"]
    assert (llasa.dtype, llasa.options["codec_dtype"]) == ("bfloat16", "float32")
