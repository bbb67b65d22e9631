"""Weights from a folder that the machines share: copied once per machine, whole or not at all."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from app.cluster.replica import ModelReplica
from app.cluster.settings import settings_of_replica
from app.cluster.shared_weights import copy_missing
from app.config.deployments import Deployments
from app.errors import ModelUnavailable
from backends import weights
from backends.model_files import ModelSpec
from backends.weights import model_folder, problems
from tests.support.hub import tensors
from tests.support.server import fake_settings

WANTED = ModelSpec("org/model", ("config.json", "*.safetensors"), ("config.json", "*.safetensors"))


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    folder = model_folder(tmp_path / "shared", WANTED.model)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}", encoding="utf-8")
    (folder / "model.safetensors").write_bytes(tensors())
    return tmp_path / "shared"


def test_replicas_that_start_together_copy_once(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copied, copy = [], weights.import_folder

    def counted(*arguments: Any) -> Path:
        copied.append(arguments)
        return copy(*arguments)

    monkeypatch.setattr(weights, "import_folder", counted)
    threads = [threading.Thread(target=copy_missing, args=(shared, [WANTED], tmp_path / "own")) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(copied) == 1
    assert not problems(model_folder(tmp_path / "own", WANTED.model), WANTED)


def test_what_is_not_shared_or_not_whole_is_not_copied(shared: Path, tmp_path: Path) -> None:
    (model_folder(shared, WANTED.model) / "model.safetensors").write_bytes(tensors()[:-1])
    other = ModelSpec("org/other", ("config.json",), ("config.json",))
    copy_missing(shared, [WANTED, other], tmp_path / "own")
    for wanted in (WANTED, other):
        assert problems(model_folder(tmp_path / "own", wanted.model), wanted)


async def test_a_replica_copies_before_it_loads(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whisper wants more files than these, so loading fails; by then they have been looked for."""
    asked = []
    monkeypatch.setattr("app.cluster.replica.copy_missing", lambda *arguments: asked.append(arguments))
    tables = {"asr": {"backend": "whisper", "model": "openai/whisper-tiny", "device": "cpu"}}
    settings = fake_settings(deployments=tables, cluster={"weights_from": str(shared), "models_dir": str(tmp_path)})
    replica = ModelReplica(settings_of_replica(settings, Deployments.from_settings(settings)["asr"]), "asr")
    with pytest.raises(ModelUnavailable):
        await replica.start()
    ((source, models, models_dir),) = asked
    assert (source, models_dir) == (shared, tmp_path)
    assert [model.model for model in models] == ["openai/whisper-tiny"]
