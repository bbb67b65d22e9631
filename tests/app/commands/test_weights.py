"""pull and models, with folders instead of a hub."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.cli import cli
from backends import windows_ml
from backends.windows_ml import CatalogueProvider


def invoke(*arguments: str):  # type: ignore[no-untyped-def]
    return CliRunner().invoke(cli, list(arguments))


def whisper_folder(folder: Path) -> Path:
    """As much of a Whisper repository as the completeness check looks at."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}", encoding="utf-8")
    (folder / "tokenizer.json").write_text("{}", encoding="utf-8")
    head = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(head)) + head + b"\0" * 4)
    return folder


def test_models_lists_every_deployment_with_state_and_licence() -> None:
    result = invoke("models")
    assert result.exit_code == 0, result.stderr
    for text in ("embedded-tts", "ready", "whisper-1", "absent", "MIT", "speech-gateway pull whisper-1", "tts-1 = "):
        assert text in result.stdout


def test_a_model_that_comes_in_packages_has_a_size_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    from backends import data_packages

    monkeypatch.setattr(data_packages, "find_part", lambda part: None)  # not installed, wherever this runs
    row = next(line for line in invoke("models").stdout.splitlines() if line.lstrip().startswith("embedded-asr "))
    assert "absent" in row
    assert "about 140.6 MiB" in row


def test_a_folder_is_imported_and_then_there(tmp_path: Path) -> None:
    stick = whisper_folder(tmp_path / "stick" / "whisper-small")
    result = invoke("pull", "gpt-4o-transcribe", "--from", str(stick))
    assert result.exit_code == 0, result.stderr
    assert "openai/whisper-small: complete" in result.stdout
    assert (tmp_path / "models" / "openai--whisper-small" / "model.safetensors").is_file()
    listed = invoke("models").stdout
    assert "speech-gateway pull whisper-1" not in listed
    assert "openai/whisper-small (safetensors)" in listed


def test_the_folder_of_several_models_will_do(tmp_path: Path) -> None:
    whisper_folder(tmp_path / "stick" / "openai--whisper-small")
    assert invoke("pull", "whisper-1", "--from", str(tmp_path / "stick")).exit_code == 0


def test_a_folder_that_is_not_the_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "stick").mkdir()
    result = invoke("pull", "whisper-1", "--from", str(tmp_path / "stick"))
    assert result.exit_code == 1
    assert "does not hold openai/whisper-small" in result.stderr
    (tmp_path / "other").mkdir()
    several = invoke("pull", "csm-1b", "--from", str(tmp_path / "other"))
    assert several.exit_code == 1
    assert "sesame--csm-1b" in several.stderr


def test_offline_means_that_nothing_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPEECH_GATEWAY_OFFLINE", "true")
    result = invoke("pull", "whisper-1")
    assert result.exit_code == 1
    assert "offline" in result.stderr


def test_a_deployment_without_weights_needs_no_pull() -> None:
    result = invoke("pull", "embedded-tts")
    assert result.exit_code == 0
    assert "needs no weights" in result.stdout


def test_an_unknown_name_lists_the_known_ones() -> None:
    result = invoke("pull", "whisper-9")
    assert result.exit_code == 2
    assert "whisper-1" in result.stderr


def test_a_broken_configuration_names_file_and_key(tmp_path: Path) -> None:
    (tmp_path / "gateway.toml").write_text("[server]\nprot = 1\n", encoding="utf-8")
    result = invoke("models")
    assert result.exit_code == 2
    assert "gateway.toml, line 2: [server] prot" in result.stderr


def test_a_provider_of_windows_ml_is_fetched_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fetched: list[str] = []

    def fetch(name: str) -> CatalogueProvider:
        fetched.append(name)
        return CatalogueProvider(name, "AMDGPUExecutionProvider", "1.8", is_present=True)

    monkeypatch.setattr(windows_ml, "fetch", fetch)
    (tmp_path / "gateway.toml").write_text("offline = true\n", encoding="utf-8")
    offline = invoke("pull", "windowsml:amdgpu")
    assert offline.exit_code == 1
    assert "offline = true" in offline.stderr
    assert fetched == []
    (tmp_path / "gateway.toml").write_text("offline = false\n", encoding="utf-8")
    result = invoke("pull", "windowsml:amdgpu")
    assert result.exit_code == 0, result.stderr
    assert fetched == ["amdgpu"]
    assert (
        'AMDGPUExecutionProvider 1.8: ready. Set device = "windowsml:amdgpu" in a Whisper deployment.' in result.stdout
    )


def test_without_windows_ml_there_is_nothing_to_fetch() -> None:
    result = invoke("pull", "windowsml:amdgpu")
    assert result.exit_code == 1
    assert "the package windowsml cannot be imported" in result.stderr
