"""Weights: where they lie, whether they are complete, and pulls from a hub that breaks in every way."""

from __future__ import annotations

import errno
import json
import os
import pickle
import subprocess
import sys
import threading
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backends import hub as hub_module
from backends import model_files, weights
from backends.interface import ModelUnavailable
from backends.model_files import ModelSpec
from backends.registry import backend_info
from backends.weights import import_folder, model_folder, problems, pull, required_models
from tests.support.hub import COMMIT, Hub, running_hub, tensors
from tests.support.waiting import LIMIT, wait_until

ROOT = Path(__file__).resolve().parents[2]
MODEL = "org/model"
WANTED = ModelSpec(
    MODEL, ("config.json", "*.safetensors"), ("config.json", "*.safetensors", "*.safetensors.index.json")
)
FILES = {"config.json": b"{}", "model.safetensors": tensors(), "README.md": b"no", "pytorch_model.bin": b"pickle"}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Any:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with running_hub() as found:
        found.repositories[MODEL] = dict(FILES)
        yield found


def fill(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


# --- Where, and whether complete --------------------------------------------------------------------------------------


def test_where_a_model_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert model_folder(Path("models"), "openai/whisper-small") == Path("models/openai--whisper-small")
    assert model_folder(Path("models"), str(tmp_path)) == tmp_path
    assert model_folder(Path("models"), "./own/model") == Path("own/model")
    (tmp_path / "own" / "model").mkdir(parents=True)
    assert model_folder(Path("models"), "own/model") == Path("own/model")  # a folder that exists is meant
    for odd in ("..", "../x", "a/..", "plain", "a/b/c", "C:/x"):
        assert not weights.is_hub_id(odd)


def test_a_complete_folder_has_no_problems(tmp_path: Path) -> None:
    assert problems(fill(tmp_path, FILES), WANTED) == []
    assert weights.weights_bytes(tmp_path) == len(FILES["model.safetensors"]) + 6


def test_every_kind_of_damage_is_named(tmp_path: Path) -> None:
    assert "no folder" in problems(tmp_path / "x", WANTED)[0]
    fill(tmp_path, {"model.safetensors": tensors()[:-1]})
    assert sorted("missing" in p or "truncated" in p for p in problems(tmp_path, WANTED)) == [True, True]
    fill(tmp_path, {"model.safetensors": b"short", "config.json": b"{}"})
    assert "truncated" in problems(tmp_path, WANTED)[0]
    fill(tmp_path, {"model.safetensors": b"\xff" * 5000})
    assert "no safetensors" in problems(tmp_path, WANTED)[0]


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    fill(tmp_path, {"config.json": b"{}", "model-1.safetensors": tensors()})
    fill(tmp_path, {"model.safetensors.index.json": json.dumps(index).encode()})
    assert "model-2.safetensors is missing" in problems(tmp_path, WANTED)[0]
    fill(tmp_path, {"model-2.safetensors": tensors()})
    assert problems(tmp_path, WANTED) == []
    fill(tmp_path, {"model.safetensors.index.json": b"{"})
    assert "not readable" in problems(tmp_path, WANTED)[0]


@pytest.mark.parametrize("name", ["x" * 100_000, "a\0b", "../x", "", 7, None])
def test_an_index_that_names_what_is_no_file_is_a_problem_and_no_accident(tmp_path: Path, name: object) -> None:
    folder = fill(tmp_path, {"config.json": b"{}", "model.safetensors": tensors()})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}), encoding="utf-8")
    (text,) = problems(folder, WANTED)
    assert "is not readable" in text
    assert len(text) < 1000


@pytest.mark.parametrize("end", ["Infinity", "NaN", "-1", '"8"', "[]", "1e999", "true"])
def test_an_offset_that_is_none_is_a_problem_and_no_accident(tmp_path: Path, end: str) -> None:
    first = f'"a": {{"dtype": "U8", "shape": [8], "data_offsets": [0, {end}]}}'
    head = f'{{{first}, "b": {{"data_offsets": [0, 8]}}}}'.encode()
    folder = fill(
        tmp_path, {"config.json": b"{}", "model.safetensors": len(head).to_bytes(8, "little") + head + bytes(8)}
    )
    assert "truncated or no safetensors file" in problems(folder, WANTED)[0]


def test_a_head_nested_without_end_is_a_problem_and_no_accident(tmp_path: Path) -> None:
    head = b"[" * 200_000
    folder = fill(tmp_path, {"config.json": b"{}", "model.safetensors": len(head).to_bytes(8, "little") + head})
    assert "truncated or no safetensors file" in problems(folder, WANTED)[0]


CONTAINER = b"\x06\0\0\0\x0c\0WhisperSpec\0" + bytes(20)
EITHER = ModelSpec(
    MODEL, ("config.json", "model*.safetensors|model.bin"), ("config.json", "model.safetensors", "model.bin")
)


def test_a_ctranslate2_folder_is_complete_and_recognised_by_content(tmp_path: Path) -> None:
    folder = fill(tmp_path, {"config.json": b"{}", "model.bin": CONTAINER})
    assert problems(folder, EITHER) == []
    assert weights.weights_format(folder) == "CTranslate2"
    assert weights.weights_bytes(folder) == len(CONTAINER)
    for other in (b"PK\x03\x04" + bytes(50), b"", b"\x80\x02}q\0" + bytes(30)):
        (folder / "model.bin").write_bytes(other)
        assert "neither CTranslate2's nor safetensors" in problems(folder, EITHER)[0]
        assert weights.weights_format(folder) == ""
    fill(folder, {"model.safetensors": tensors()})
    assert problems(folder, EITHER) == []
    assert weights.weights_format(folder) == "safetensors"


def test_a_ctranslate2_repository_is_pulled_and_a_pickle_of_that_name_is_not_kept(hub: Hub, tmp_path: Path) -> None:
    hub.repositories["org/ct2"] = {"config.json": b"{}", "model.bin": CONTAINER, "pytorch_model.bin": b"no"}
    hub.repositories["org/pickle"] = {"config.json": b"{}", "model.bin": b"PK\x03\x04" + bytes(50)}
    hub.repositories["org/both"] = {"config.json": b"{}", "model.bin": CONTAINER, "model.safetensors": tensors()}
    folder = pull(replace(EITHER, model="org/ct2"), tmp_path, endpoint=hub.url)
    assert (folder / "model.bin").read_bytes() == CONTAINER
    assert not (folder / "pytorch_model.bin").exists()
    with pytest.raises(ModelUnavailable, match="neither CTranslate2's nor safetensors"):
        pull(replace(EITHER, model="org/pickle"), tmp_path, endpoint=hub.url)
    folder = pull(replace(EITHER, model="org/both"), tmp_path, endpoint=hub.url)
    assert not (folder / "model.bin").exists()


def test_what_deployments_want() -> None:
    names = [w.model for w in required_models(backend_info("diffa"), "", "", {})]
    assert names == ["GSAI-ML/LLaDA-8B-Instruct", "openai/whisper-small", "zhoujiaming777/DIFFA"]
    assert required_models(backend_info("espeak"), "", "", {}) == []
    (whisper,) = required_models(backend_info("whisper"), "a/b", "v1", {})
    assert (whisper.model, whisper.revision) == ("a/b", "v1")
    chosen = required_models(backend_info("diffa"), "", "", {"adapter_model": "", "whisper_model": "x/y"})
    assert [w.model for w in chosen][1:] == ["x/y"]


# --- Pulling ----------------------------------------------------------------------------------------------------------


def test_a_pull_fetches_what_is_wanted_and_nothing_else(hub: Hub, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    folder = pull(WANTED, tmp_path, endpoint=hub.url, progress=lambda done, total: seen.append((done, total)))
    assert folder == tmp_path / "org--model"
    assert (folder / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    assert not (folder / "README.md").exists()
    assert not (folder / "pytorch_model.bin").exists()
    assert not (folder / weights.UNFINISHED).exists()
    assert weights.read_record(folder) == {"model": MODEL, "revision": "", "commit": COMMIT}
    total = len(FILES["config.json"]) + len(FILES["model.safetensors"])
    assert seen[0] == (0, total)
    assert seen[-1] == (total, total)
    count = len(hub.requests)
    assert pull(WANTED, tmp_path, endpoint=hub.url) == folder
    assert len(hub.requests) == count  # complete: the hub is not asked again


def size_of_parts(folder: Path) -> int:
    """Bytes that a download has written so far, which are fewer than the server has sent."""
    try:
        return sum(part.stat().st_size for part in (folder / hub_module.PARTS).iterdir())
    except FileNotFoundError:  # not begun, or a complete file was moved away meanwhile
        return 0


def test_an_interrupted_pull_never_looks_complete_and_goes_on_where_it_stopped(hub: Hub, tmp_path: Path) -> None:
    big = tensors(3_000_000)
    hub.repositories[MODEL]["model.safetensors"] = big
    hub.break_after = 700_000
    order = {"model": MODEL, "required": WANTED.required, "patterns": WANTED.patterns, "models_dir": str(tmp_path)}
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-P", "-m", "backends.weights", json.dumps(order)]
    child = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    with child:
        folder = model_folder(tmp_path, MODEL)
        wait_until(lambda: hub.broken and size_of_parts(folder) >= hub.break_after)
        child.kill()  # in the middle of its retries
    assert hub.broken
    assert problems(folder, WANTED)
    assert (folder / weights.UNFINISHED).exists()
    kept = size_of_parts(folder)
    assert kept >= 700_000
    hub.break_after = None
    hub.ranges.clear()
    done = subprocess.run(command, env=environment, capture_output=True, check=False, timeout=LIMIT)
    assert json.loads(done.stdout.decode().splitlines()[-1]) == {"folder": str(folder)}
    assert (folder / "model.safetensors").read_bytes() == big
    assert problems(folder, WANTED) == []
    assert hub.ranges == [f"bytes={kept}-"]
    assert not (folder / hub_module.PARTS).exists()


def test_a_connection_that_breaks_all_the_time_still_gets_there(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "PAUSE_SECONDS", 0.0)
    hub.repositories[MODEL]["model.safetensors"] = big = tensors(100_000)
    hub.break_after = 30_000
    folder = pull(WANTED, tmp_path, endpoint=hub.url)
    assert (folder / "model.safetensors").read_bytes() == big
    assert hub.broken >= 3


def test_a_connection_that_gives_nothing_is_given_up(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "PAUSE_SECONDS", 0.0)
    hub.break_after = 0
    with pytest.raises(ModelUnavailable, match="could not give"):
        pull(WANTED, tmp_path, endpoint=hub.url)
    assert hub.broken == hub_module.TRIES


def test_a_server_without_ranges_sends_the_file_again(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "PAUSE_SECONDS", 0.0)
    data = hub.repositories[MODEL]["model.safetensors"]
    hub.knows_ranges = False
    name = hub_module.hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
    fill(tmp_path / "org--model" / hub_module.PARTS, {f"{name}.part": data[:100]})
    seen: list[int] = []
    folder = pull(WANTED, tmp_path, endpoint=hub.url, progress=lambda done, total: seen.append(done))
    assert (folder / "model.safetensors").read_bytes() == data
    assert seen[-1] == len(data) + 2


@pytest.mark.parametrize("path", ["model.safetensors", "config.json"])
def test_a_file_that_arrives_damaged_is_refused(hub: Hub, tmp_path: Path, path: str) -> None:
    good = hub.repositories[MODEL][path]
    hub.sends[path] = bytes(len(good))
    with pytest.raises(ModelUnavailable, match="arrived damaged"):
        pull(WANTED, tmp_path, endpoint=hub.url)
    assert problems(model_folder(tmp_path, MODEL), WANTED)
    hub.sends.clear()
    assert (pull(WANTED, tmp_path, endpoint=hub.url) / path).read_bytes() == good


def test_a_repository_cannot_write_outside_of_its_folder(hub: Hub, tmp_path: Path) -> None:
    hub.repositories[MODEL]["../../evil.safetensors"] = tensors()
    hub.repositories[MODEL]["..\\evil.safetensors"] = tensors()
    pull(WANTED, tmp_path / "models", endpoint=hub.url)
    assert [p.name for p in tmp_path.rglob("*evil*")] == []


def test_two_pulls_of_one_model_fetch_it_once(hub: Hub, tmp_path: Path) -> None:
    results: list[Path] = []
    threads = [
        threading.Thread(target=lambda: results.append(pull(WANTED, tmp_path, endpoint=hub.url))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 3
    assert sum(request == f"GET /{MODEL}/resolve/{COMMIT}/model.safetensors" for request in hub.requests) == 1


def test_a_pinned_revision_is_fetched_and_another_one_is_not_taken_for_it(hub: Hub, tmp_path: Path) -> None:
    pinned = ModelSpec(MODEL, WANTED.required, WANTED.patterns, COMMIT)
    folder = pull(pinned, tmp_path, endpoint=hub.url)
    assert problems(folder, pinned) == []
    other = ModelSpec(MODEL, WANTED.required, WANTED.patterns, "b" * 40)
    assert "not " + "b" * 40 in problems(folder, other)[0]
    with pytest.raises(ModelUnavailable, match="no revision"):
        pull(other, tmp_path, endpoint=hub.url)
    assert problems(folder, pinned) == []  # the good copy is still good


@pytest.mark.parametrize(
    ("prepare", "told"),
    [
        (lambda hub: hub.repositories.clear(), "no model org/model"),
        (lambda hub: hub.gated.add(MODEL), "accepted its terms"),
        (lambda hub: setattr(hub, "status", 400), "could not give"),
        (lambda hub: hub.repositories[MODEL].pop("model.safetensors"), "only as pickles"),
        (lambda hub: hub.repositories[MODEL].pop("config.json"), "config.json is missing"),
        (lambda hub: hub.repositories[MODEL].update({"model.safetensors": tensors()[:-5]}), "truncated"),
    ],
)
def test_what_is_wrong_with_the_hub_is_told_and_nothing_looks_complete(
    hub: Hub, tmp_path: Path, prepare: Any, told: str
) -> None:
    prepare(hub)
    with pytest.raises(ModelUnavailable, match=told):
        pull(WANTED, tmp_path, endpoint=hub.url)
    assert problems(model_folder(tmp_path, MODEL), WANTED)


def test_a_hub_that_is_away(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="pull again"):
        pull(WANTED, tmp_path, endpoint="http://127.0.0.1:9")
    with pytest.raises(ModelUnavailable, match="stay offline"):
        pull(WANTED, tmp_path, endpoint=hub.url, offline=True)


def test_a_folder_is_not_pulled(tmp_path: Path) -> None:
    own = ModelSpec(str(fill(tmp_path / "own", FILES)), WANTED.required, WANTED.patterns)
    assert pull(own, tmp_path) == tmp_path / "own"
    (tmp_path / "own" / "config.json").unlink()
    with pytest.raises(ModelUnavailable, match="not a hub id"):
        pull(own, tmp_path)


def test_a_full_disk_is_told_before_and_during_a_pull(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = weights.shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(hub_module.shutil, "disk_usage", lambda _: usage._replace(free=1000))
        with pytest.raises(ModelUnavailable, match="too full"):
            pull(WANTED, tmp_path, endpoint=hub.url)

    def fails(*args: Any, **keys: Any) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(hub_module, "_append", fails)
    with pytest.raises(ModelUnavailable, match="is full"):
        pull(WANTED, tmp_path, endpoint=hub.url)
    assert problems(model_folder(tmp_path, MODEL), WANTED)


def test_the_process_tells_progress_and_outcome(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    order = {
        "model": MODEL,
        "required": ["nothing"],
        "patterns": ["*.json", "*.safetensors"],
        "models_dir": str(tmp_path),
    }
    hub_url = hub.url

    import huggingface_hub.constants

    huggingface_hub.constants.ENDPOINT, before = hub_url, huggingface_hub.constants.ENDPOINT
    try:
        assert weights.main([json.dumps(order)]) == 1
        assert "nothing is missing" in capsys.readouterr().out
        assert weights.main([json.dumps({**order, "required": ["config.json"]})]) == 0
        assert "folder" in json.loads(capsys.readouterr().out.splitlines()[-1])
    finally:
        huggingface_hub.constants.ENDPOINT = before


# --- Pickles ----------------------------------------------------------------------------------------------------------


class Evil:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> Any:
        return print, ("gotcha",)


def pickled(path: Path, value: Any) -> bytes:
    """A file as torch.save writes it, without torch."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(value, protocol=2))
        archive.writestr("archive/version", "3\n")
    return path.read_bytes()


@pytest.mark.parametrize("harmless", [True, False])
def test_a_named_pickle_is_taken_only_if_it_holds_nothing_but_tensors(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harmless: bool
) -> None:
    data = pickled(tmp_path / "made", {"w": 1} if harmless else {"w": Evil()})
    hub.repositories["org/pickled"] = {"model.bin": data, "other.bin": b"x"}
    for module in (weights, model_files):
        monkeypatch.setattr(module, "NAMED_PICKLES", {"org/pickled": ("model.bin",)})
    wanted = ModelSpec("org/pickled", ("model.bin",), ("*.bin",))
    if harmless:
        folder = pull(wanted, tmp_path, endpoint=hub.url)
        assert not (folder / "other.bin").exists()
        return
    with pytest.raises(ModelUnavailable, match="does not load under weights_only"):
        pull(wanted, tmp_path, endpoint=hub.url)
    assert problems(model_folder(tmp_path, "org/pickled"), wanted)


# --- From a folder ----------------------------------------------------------------------------------------------------


def test_a_model_is_imported_from_a_folder_without_a_network(tmp_path: Path) -> None:
    source = fill(tmp_path / "stick", FILES)
    seen: list[int] = []
    folder = import_folder(source, WANTED, tmp_path / "models", progress=lambda done, total: seen.append(done))
    assert problems(folder, WANTED) == []
    assert sorted(p.name for p in folder.iterdir()) == sorted(["config.json", "model.safetensors", weights.RECORD])
    assert seen[-1] == len(FILES["config.json"]) + len(FILES["model.safetensors"])


def test_an_incomplete_folder_is_not_imported(tmp_path: Path) -> None:
    source = fill(tmp_path / "stick", {"config.json": b"{}"})
    with pytest.raises(ModelUnavailable, match="does not hold org/model"):
        import_folder(source, WANTED, tmp_path / "models")
    assert not (tmp_path / "models" / "org--model").exists()


def test_a_copy_that_differs_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = fill(tmp_path / "stick", FILES)
    digest = weights.hashlib.file_digest

    def faulty(stream: Any, name: str) -> Any:
        stream.read(1)
        return digest(stream, name)

    monkeypatch.setattr(weights.hashlib, "file_digest", faulty)
    with pytest.raises(ModelUnavailable, match="differs"):
        import_folder(source, WANTED, tmp_path / "models")
    assert problems(tmp_path / "models" / "org--model", WANTED)
