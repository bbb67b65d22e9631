"""A key is shown once, its digest goes into the configuration, and a server with that accepts it."""

from __future__ import annotations

import tomllib
from pathlib import Path

import httpx
import pytest
from click.testing import Result
from typer.testing import CliRunner

from app.cli import cli
from app.config.loading import load_settings
from tests.support.server import FAKES, running


def key(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["key", *arguments])


def test_a_new_key_opens_a_server_configured_with_its_lines() -> None:
    result = key("new", "kitchen", "--requests-per-minute", "60", "--concurrent", "2")
    assert result.exit_code == 0
    secret, _, lines = result.stdout.partition("\n")
    assert len(secret) >= 43
    assert secret not in lines
    assert tomllib.loads(lines)["server"]["keys"]["kitchen"].keys() == {"sha256", "requests_per_minute", "concurrent"}
    Path("gateway.toml").write_text(lines, encoding="utf-8")
    with running(load_settings(deployments=FAKES, offline=True)) as server:
        assert httpx.get(f"{server.url}/v1/models", headers={"api-key": secret}).status_code == 200
        assert httpx.get(f"{server.url}/v1/models", headers={"api-key": "any"}).status_code == 401


def test_keys_differ() -> None:
    assert len({key("new", "kitchen").stdout.partition("\n")[0] for _ in range(5)}) == 5


def test_a_name_is_taken_once_and_plain() -> None:
    Path("gateway.toml").write_text(
        '[server]\napi_keys = [{ name = "desk", key = "plain-secret" }]\n', encoding="utf-8"
    )
    taken = key("new", "desk")
    assert (taken.exit_code, "already" in taken.stderr) == (2, True)
    assert key("new", "two words").exit_code == 2
    assert key("new", "x" * 65).exit_code == 2


def test_the_list_shows_names_and_limits_and_no_key() -> None:
    assert "any key is accepted" in key("list").stderr
    table = '[server]\napi_keys = [{ name = "desk", key = "plain-secret" }]\n'
    table += f'[server.keys.phone]\nsha256 = "{"0" * 64}"\n'
    Path("gateway.toml").write_text(f"{table}concurrent = 7\n", encoding="utf-8")
    result = key("list")
    assert result.exit_code == 0
    assert all(word in result.stdout for word in ("desk", "plain text", "phone", "digest", "7", "any"))
    assert "plain-secret" not in result.stdout
    assert "0000" not in result.stdout


@pytest.mark.parametrize("command", ["new", "list"])
def test_a_broken_configuration_is_told(command: str) -> None:
    Path("gateway.toml").write_text("[server]\nport = -1\n", encoding="utf-8")
    result = key(command, *(["kitchen"] if command == "new" else []))
    assert (result.exit_code, "port" in result.stderr) == (2, True)
