"""Where settings come from, and errors that name the place of the mistake."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from app.config.deployments import Deployments
from app.config.loading import load_settings
from app.config.settings import ConfigError, Settings


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.upper().startswith("SPEECH_GATEWAY_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def _file(tmp_path: Path, text: str, name: str = "gateway.toml") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults_without_any_source() -> None:
    settings = load_settings()
    assert settings == Settings()
    assert (settings.server.host, settings.server.port, settings.limits.body_bytes) == ("127.0.0.1", 8000, 26_214_400)


def test_option_beats_environment_beats_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _file(tmp_path, "[server]\nport = 1\ndrain_seconds = 1\n[limits]\nqueue_jobs = 7\n")
    monkeypatch.setenv("SPEECH_GATEWAY_SERVER__PORT", "2")
    monkeypatch.setenv("SPEECH_GATEWAY_SERVER__DRAIN_SECONDS", "2.5")
    settings = load_settings(server={"port": 3})
    assert (settings.server.port, settings.server.drain_seconds, settings.limits.queue_jobs) == (3, 2.5, 7)
    assert load_settings(server__port=4, offline=None).server.port == 4


def test_a_named_file_wins_over_the_default_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _file(tmp_path, "[server]\nport = 1\n")
    other = _file(tmp_path, "[server]\nport = 2\n", "other.toml")
    assert load_settings(other).server.port == 2
    monkeypatch.setenv("SPEECH_GATEWAY_CONFIG", str(other))
    assert load_settings().server.port == 2


def test_a_missing_named_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such configuration file"):
        load_settings(tmp_path / "nowhere.toml")


def test_lists_and_tables_from_the_environment_are_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPEECH_GATEWAY_SERVER__API_KEYS", '[{"name": "laptop", "key": "k1"}]')
    monkeypatch.setenv("SPEECH_GATEWAY_DEVICES__MEMORY_BUDGET", '{"cuda:0": "14GiB"}')
    monkeypatch.setenv("SPEECH_GATEWAY_OFFLINE", "true")
    settings = load_settings()
    assert settings.server.api_keys[0].key.get_secret_value() == "k1"
    assert settings.devices.memory_budget == {"cuda:0": "14GiB"}
    assert settings.offline


def test_deployments_in_the_environment_keep_their_spelling_and_types(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _file(tmp_path, '[deployments."Team/My ASR"]\nbackend = "fake"\n')
    monkeypatch.setenv("SPEECH_GATEWAY_DEPLOYMENTS__TEAM/MY ASR__DELAY", "0.5")
    monkeypatch.setenv("SPEECH_GATEWAY_DEPLOYMENTS__WHISPER-1__DEVICE", "cpu")
    settings = load_settings()
    assert settings.deployments["Team/My ASR"].model_extra == {"delay": 0.5}
    assert settings.deployments["whisper-1"].device == "cpu"


def test_the_variables_of_the_client_commands_are_no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPEECH_GATEWAY_URL", "http://127.0.0.1:8123")
    monkeypatch.setenv("SPEECH_GATEWAY_KEY", "secret")
    assert load_settings() == Settings()


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[server]\n\nprt = 1\n", ["gateway.toml, line 3", "[server]", "prt", "did you mean port?"]),
        ("[server]\nport = 'many'\n", ["gateway.toml, line 2", "[server]", "port", "integer"]),
        ("[sever]\nport = 1\n", ["gateway.toml, line 1", "sever", "did you mean server?"]),
        ("[limits]\nbody_bytes = -1\n", ["line 2", "[limits]", "body_bytes"]),
        (
            '[deployments."a b"]\nbackend = "fake"\nkeep_alive = "long"\n',
            ["line 3", '[deployments."a b"]', "keep_alive"],
        ),
        ("[devices]\nmemory_budget = 3\n", ["line 2", "[devices]", "memory_budget"]),
        (
            "[devices]\nmemory_budget = '8GiB'\n",
            ["line 2", "[devices]", "memory_budget", "a table of devices and sizes"],
        ),
        (
            "[devices]\nmemory_budget = { cpu = '8 potatoes' }\n",
            ["line 2", "memory_budget", "'8 potatoes' is not a size"],
        ),
        ("[devices.memory_budget]\ncpu = -1\n", ["gateway.toml", "[devices]", "memory_budget", "-1 is not a size"]),
        ("[devices]\nmemory_budget = { cup = '8GiB' }\n", ["line 2", "memory_budget", "no device 'cup'"]),
        ("[deployments.whisper-1]\ndevice = 'gpu'\n", ["line 2", '[deployments."whisper-1"]', "device", "cuda:0"]),
        ("[deployments.whisper-1]\ndevice = 'windowsml'\n", ["line 2", "device", "windowsml:amdgpu"]),
        ("[deployments.whisper-1]\ndtype = 'fp16'\n", ["line 2", '[deployments."whisper-1"]', "dtype", "float16"]),
        ("[server]\napi_keys = [{ name = 'a', key = '' }]\n", ["line 2", "api_keys", "key", "at least 1"]),
        ("[deployment.x]\nbackend = 'fake'\n", ["gateway.toml, line 1", "deployment", "did you mean deployments?"]),
        ("server = 3\n", ["line 1", "server", "must be a table"]),
        ("models_dir = 3\n", ["line 1", "models_dir", "must be text"]),
        ('models_dir = "C:\\models"\n', ["gateway.toml", "line 1", "single quotes"]),
        ("[server\n", ["gateway.toml", "cannot be read", "line 1"]),
        ("[[server.api_keys]]\nname = 'x'\n", ["gateway.toml", "api_keys", "key"]),
    ],
)
def test_a_mistake_in_the_file_is_named(tmp_path: Path, text: str, parts: list[str]) -> None:
    _file(tmp_path, text)
    with pytest.raises(ConfigError) as told:
        load_settings()
    for part in parts:
        assert part in str(told.value)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (
            "[deployments.x]\nbackend = 'fakr'\n",
            ["gateway.toml, line 2", '[deployments."x"] backend', "does not exist"],
        ),
        ("[deployments.x]\n", ["gateway.toml, line 1", '[deployments."x"] backend', "is missing"]),
        ("[deployments.whisper-1]\n\nbeam = 3\n", ["gateway.toml, line 3", '[deployments."whisper-1"] beam']),
        ("[deployments.whisper-1]\nmax_batch = 'x'\n", ["gateway.toml, line 2", '[deployments."whisper-1"] max_batch']),
        ("[deployments.whisper-1]\nfallback = 'x'\n", ["gateway.toml, line 2", '[deployments."whisper-1"] fallback']),
        ('[aliases]\n"tts-1" = "nobody"\n', ["gateway.toml, line 2", '[aliases] "tts-1"', "'nobody'"]),
    ],
)
def test_a_mistake_that_only_the_deployments_know_of_is_named_with_its_line(
    tmp_path: Path, text: str, parts: list[str]
) -> None:
    _file(tmp_path, text)
    with pytest.raises(ConfigError) as told:
        Deployments.from_settings(load_settings())
    for part in parts:
        assert part in str(told.value)


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_a_file_in_another_encoding_says_so(tmp_path: Path, encoding: str) -> None:
    """What Windows PowerShell 5.1 and old editors write."""
    (tmp_path / "gateway.toml").write_text('models_dir = "caf\xe9"\n', encoding=encoding)
    with pytest.raises(ConfigError, match="not UTF-8; save it again"):
        load_settings()


def test_a_mistake_in_the_environment_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPEECH_GATEWAY_SERVER__PRT", "1")
    with pytest.raises(ConfigError, match=r"environment variable SPEECH_GATEWAY_SERVER__PRT: \[server\] prt"):
        load_settings()


def test_a_mistake_in_an_option_is_named() -> None:
    with pytest.raises(ConfigError, match=r"option server\.port: \[server\] port"):
        load_settings(server__port=70_000)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.2", "::", "example.org"])  # noqa: S104
def test_binding_beyond_loopback_needs_keys_or_an_explicit_setting(host: str) -> None:
    with pytest.raises(ConfigError, match="api_keys, or open_to_network"):
        load_settings(server__host=host)
    assert load_settings(server__host=host, server__open_to_network=True).server.host == host
    keys = [{"name": "a", "key": "b"}]
    assert load_settings(server__host=host, server__api_keys=keys).server.host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_needs_none(host: str) -> None:
    assert load_settings(server__host=host).server.host == host


def test_keys_do_not_show_in_representations() -> None:
    settings = load_settings(server__api_keys=[{"name": "a", "key": "hidden-key"}], server__admin_key="hidden-admin")
    assert "hidden" not in repr(settings)


def test_every_setting_has_a_description() -> None:
    for table in (Settings, *(field.annotation for field in Settings.model_fields.values())):
        for name, field in getattr(table, "model_fields", {}).items():
            is_table = hasattr(field.annotation, "model_fields") or name in ("deployments", "aliases", "name", "key")
            assert is_table or field.description, name
