"""gateway.example.toml: every key, with its default, and the whole of it can be used."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from pathlib import Path
from typing import Annotated

import pytest
from msgspec import Meta

from app.config.deployments import BUILTIN, Deployments
from app.config.loading import load_settings
from app.config.settings import (
    DeploymentSettings,
    DeviceSettings,
    LimitSettings,
    LogSettings,
    RealtimeSettings,
    ServerSettings,
    Settings,
)
from backends.registry import backend_info, backend_names
from scripts.docs.generate import EXAMPLES, option_keys

FILE = Path(__file__).resolve().parents[2] / "gateway.example.toml"
TABLES = {
    "server": ServerSettings,
    "limits": LimitSettings,
    "devices": DeviceSettings,
    "log": LogSettings,
    "realtime": RealtimeSettings,
}
REFRESH = "run: python scripts/docs/generate.py"


def uncommented() -> str:
    """The file with every key and table switched on."""
    return re.sub(r'(?m)^# (?=[\w"][\w".-]* = |\[)', "", FILE.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def shown() -> dict[str, dict[str, object]]:
    return tomllib.loads(uncommented())


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPEECH_GATEWAY_OFFLINE", raising=False)


def test_as_it_stands_it_changes_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    plain, with_file = load_settings(), load_settings(FILE)
    assert with_file.model_copy(update={"deployments": {}}) == plain
    before, after = Deployments.from_settings(plain), Deployments.from_settings(with_file)
    assert {name: d.model_copy(update={"builtin": True}) for name, d in after.items()} == dict(before)


def test_with_everything_switched_on_it_can_be_used(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text(uncommented(), encoding="utf-8")
    deployments = Deployments.from_settings(load_settings(file))
    assert set(deployments) == {*BUILTIN, "espeak", "fake"}


def test_every_setting_appears_with_its_default(shown: dict[str, dict[str, object]]) -> None:
    assert set(shown) == set(Settings.model_fields), REFRESH
    for name, model in TABLES.items():
        assert set(shown[name]) == set(model.model_fields), REFRESH
        for key, field in model.model_fields.items():
            if (name, key) not in EXAMPLES:
                assert shown[name][key] == field.get_default(call_default_factory=True), f"{name}.{key}: {REFRESH}"


def test_every_key_of_a_deployment_appears(shown: dict[str, dict[str, object]]) -> None:
    assert set(DeploymentSettings.model_fields) <= set(shown["deployments"]["whisper-1"]), REFRESH  # type: ignore[arg-type]


def test_every_option_of_every_backend_appears_with_its_default(shown: dict[str, dict[str, object]]) -> None:
    tables = {name: table for name, table in shown["deployments"].items() if isinstance(table, dict)}
    assert {table["backend"] for table in tables.values()} == set(backend_names())
    for table in tables.values():
        options = backend_info(table["backend"]).options()
        for field in dataclasses.fields(options):
            default = getattr(options, field.name)
            wanted = list(default) if isinstance(default, tuple) else default
            assert table.get(field.name, REFRESH) == wanted, f"{table['backend']}.{field.name}: {REFRESH}"


def test_every_key_is_explained_in_its_line() -> None:
    for line in FILE.read_text(encoding="utf-8").splitlines():
        if re.match(r"# \w+ = ", line) and not re.match(
            r"# (backend|model|auto_pull|fallback|audio_deployment) = ", line
        ):
            assert re.search(r"  # \S", line), line


def test_an_option_without_a_description_is_refused() -> None:
    @dataclasses.dataclass
    class Options:
        speed: Annotated[int, Meta(ge=1, description="How fast.")] = 1
        pitch: Annotated[int, Meta(ge=0)] = 2

    with pytest.raises(SystemExit, match=r"Options\.pitch needs Meta"):
        option_keys(Options)


def test_the_description_of_an_option_is_data() -> None:
    keys = {key.name: key for key in option_keys(backend_info("whisper").options)}
    assert keys["vad_threshold"] == ("vad_threshold", 0.5, "Speech probability above which a frame is speech.")
