"""doctor: what it says of this machine, and what makes it fail."""

from __future__ import annotations

import importlib.util
import json
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.cli import cli
from app.commands import diagnostics as examination
from app.commands.diagnostics import DeviceTiming, LanguageTest, SelfTest
from app.config.deployments import Deployments
from app.config.settings import Settings
from backends import model_sets
from backends.data_packages import is_installed
from backends.devices import DeviceManager
from backends.inventory import Device, Inventory
from tests.support.server import Running
from tests.support.waiting import LIMIT

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def quick_probe(monkeypatch: pytest.MonkeyPatch) -> Inventory:
    """An inventory with a GPU instead of the real, slow probe."""
    gpu = Device("cuda:0", "cuda", "Test GPU", 8 << 30, 7 << 30, ("float32", "float16"), ("torch",), "999")
    cpu = Device("cpu", "cpu", "Test CPU", 16 << 30, 12 << 30)
    inventory = Inventory((gpu, cpu), 4, (("mps", "not an Apple"),))
    monkeypatch.setattr(examination, "run_probe", lambda python="": inventory)
    return inventory


def doctor(*arguments: str):  # type: ignore[no-untyped-def]
    return CliRunner().invoke(cli, ["doctor", *arguments])


def test_it_tells_devices_libraries_and_what_will_run_where(quick_probe: Inventory) -> None:
    result = doctor()
    assert result.exit_code == 0, result.stdout
    for text in ("Test GPU", "8.0 GiB", "no mps: not an Apple", "onnxruntime", "disk free there", "Nothing is wrong."):
        assert text in result.stdout
    assert re.search("embedded-tts: ready, (neural|espeak-ng) on cpu", result.stdout)
    assert "csm-1b: not ready, torch on cuda:0" in result.stdout
    assert "to change that: speech-gateway pull csm-1b" in result.stdout


def test_what_is_missing_does_not_hide_where_it_would_run_and_why(quick_probe: Inventory) -> None:
    told = doctor().stdout
    assert "torch on cuda:0 (cuda:0 (Test GPU): the best device here for csm)" in told
    assert "lacks: there is no folder models/sesame--csm-1b" in told
    assert "deployments are not ready" in told


def test_a_gpu_that_cannot_be_used_is_spoken_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A laptop with integrated graphics: Whisper runs there; why do the others not?"""
    graphics = Device("directml:0", "directml", "Radeon 780M", 16 << 30, 14 << 30, ("float32",), ("onnxruntime",))
    inventory = Inventory(
        (graphics, Device("cpu", "cpu", "Test CPU", 16 << 30, 12 << 30)), 8, (("cuda", "no NVIDIA driver"),)
    )
    monkeypatch.setattr(examination, "run_probe", lambda python="": inventory)
    table = f'[deployments."whisper-1"]\nmodel = {json.dumps((ROOT / "tests/data/whisper_tiny").as_posix())}\n'
    (tmp_path / "gateway.toml").write_text(table, encoding="utf-8")
    told = doctor().stdout
    assert "whisper-1: ready, onnx on directml:0" in told
    assert "no cuda (no NVIDIA driver)" in told
    assert "csm cannot use directml:0 (Radeon 780M)" in told
    assert "voices cannot use" not in told
    assert "doctor --check whisper-1" in told


MINIATURE = ROOT / "tests/data/whisper_tiny"
GRAPHICS = Device("directml:0", "directml", "Radeon 780M", 16 << 30, 14 << 30, ("float32",), ("onnxruntime",))
PROCESSOR = Device("cpu", "cpu", "Test CPU", 16 << 30, 12 << 30)


def test_devices_are_timed_on_a_real_window() -> None:
    """Two formats of the processor stand for two devices; a device that is not here says why it has no figure."""
    timings = examination.time_devices(MINIATURE, [("directml:0", "float32"), ("cpu", "int8"), ("cpu", "float32")], 1)
    assert {(t.device, t.dtype) for t in timings[:2]} == {("cpu", "int8"), ("cpu", "float32")}
    assert [t.seconds for t in timings[:2]] == sorted(t.seconds for t in timings[:2])
    assert all(t.seconds > 0 and not t.error for t in timings[:2])
    assert "DmlExecutionProvider" in timings[2].error or timings[2].seconds > 0


def test_a_device_whose_process_dies_has_no_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examination.sys, "executable", str(tmp_path / "nothing"))
    (only,) = examination.time_devices(MINIATURE, [("cpu", "int8")], 1)
    assert only.error
    assert "cannot be timed" in str(only)


def test_nothing_is_called_best_before_both_were_timed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[object] = []

    def timed(folder: Path, candidates: object, threads: int) -> list[DeviceTiming]:
        asked.extend([folder.name, candidates, threads])
        return [DeviceTiming("cpu", "int8", 1.5), DeviceTiming("directml:0", "float32", 2.25)]

    monkeypatch.setattr(examination, "run_probe", lambda python="": Inventory((GRAPHICS, PROCESSOR), 8))
    monkeypatch.setattr(examination, "time_devices", timed)
    table = f'[deployments."whisper-1"]\nmodel = {json.dumps(MINIATURE.as_posix())}\n'
    (tmp_path / "gateway.toml").write_text(table, encoding="utf-8")
    told = doctor().stdout
    assert asked == ["whisper_tiny", [("cpu", "int8"), ("directml:0", "float32")], 8]
    assert "one window measured: cpu int8 1.50 s; directml:0 float32 2.25 s; cpu is quicker" in told
    assert 'set device = "cpu" and dtype = "int8"' in told
    assert "best device here for whisper" not in told


def test_where_nothing_competes_nothing_is_timed(tmp_path: Path) -> None:
    manager = DeviceManager("auto", inventory=Inventory((GRAPHICS, PROCESSOR), 8))
    table = {"backend": "whisper", "model": MINIATURE.as_posix()}
    for more in ({"device": "cpu"}, {"engine": "torch"}):
        settings = Settings.model_validate({"deployments": {"mine": {**table, **more}}})
        assert examination.timing_candidates(Deployments.from_settings(settings)["mine"], manager) == []
    free = Deployments.from_settings(Settings.model_validate({"deployments": {"mine": {**table, "dtype": "float32"}}}))[
        "mine"
    ]
    assert examination.timing_candidates(free, manager) == [("cpu", "float32"), ("directml:0", "float32")]
    provider = Device("windowsml:amdgpu", "windowsml", "AMDGPUExecutionProvider", 0, 0, libraries=("onnxruntime",))
    catalogue = DeviceManager("auto", inventory=Inventory((provider, PROCESSOR), 8))
    assert examination.timing_candidates(free, catalogue) == [("cpu", "float32"), ("windowsml:amdgpu", "float32")], (
        "what is used only where it is named is timed all the same"
    )
    assert examination.timing_candidates(free, DeviceManager("auto", inventory=Inventory((PROCESSOR,), 8))) == []


def test_a_failed_probe_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(python: str = "") -> Inventory:
        raise ValueError("nothing printed")

    monkeypatch.setattr(examination, "run_probe", fails)
    result = doctor()
    assert result.exit_code == 1
    assert "the device probe of this interpreter failed: nothing printed" in result.stdout


def test_missing_libraries_name_the_command_that_adds_them(
    quick_probe: Inventory, monkeypatch: pytest.MonkeyPatch
) -> None:
    import app.serving.requirements as sources

    monkeypatch.setattr(sources, "_importable", lambda module: module != "torch")
    told = doctor().stdout
    assert "modules are missing: torch" in told
    assert "EXTRAS=torch" in told or "setup.ps1" in told
    assert "whisper-1: not ready, onnx on cpu" in told


def test_a_preference_that_this_machine_cannot_fulfil_is_reported(quick_probe: Inventory, tmp_path: Path) -> None:
    (tmp_path / "gateway.toml").write_text('[deployments."whisper-1"]\ndevice = "directml:0"\n', encoding="utf-8")
    assert "cannot run on 'directml:0' here" in doctor().stdout


def test_the_port_is_looked_at(served: Running) -> None:
    settings = Settings.model_validate({"server": {"port": served.port}})
    assert "in use by a running speech gateway" in examination.port_line(settings)
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        taken = Settings.model_validate({"server": {"port": stranger.getsockname()[1]}})
        stranger.settimeout(0)
        stranger.close()
    assert "is free" in examination.port_line(taken)
    assert "free port" in examination.port_line(Settings.model_validate({"server": {"port": 0}}))


def test_the_self_test_must_pass_in_every_language(quick_probe: Inventory, monkeypatch: pytest.MonkeyPatch) -> None:
    good = LanguageTest("en", "espeak-ng", "Hello.", "Hello.", 0.0, 0.15, passed=True)
    bad = LanguageTest("ja", "a neural voice", "Open the door.", "open the store", 0.5, 0.15, passed=False)
    monkeypatch.setattr(examination, "run_self_test", lambda *_: SelfTest((good, bad)))
    result = doctor("--self-test")
    assert result.exit_code == 1
    assert "open the store" in result.stdout
    assert "Hello." not in result.stdout
    assert "too much was lost in ja." in result.stdout
    monkeypatch.setattr(examination, "run_self_test", lambda *_: SelfTest((good,), "whisper-base is gone"))
    told = doctor("--self-test")
    assert (told.exit_code, "The self-test failed: whisper-base is gone." in told.stdout) == (1, True)
    monkeypatch.setattr(examination, "run_self_test", lambda *_: SelfTest((good,)))
    assert doctor("--self-test").exit_code == 0


@pytest.mark.real_weights
def test_the_real_self_test_passes_in_every_language_that_a_voice_can_read(tmp_path: Path) -> None:
    if wrong := model_sets.problems(model_sets.MODEL_SETS["whisper-base"], tmp_path / "whisper-base"):
        pytest.skip(wrong[0])
    result = examination.run_self_test(tmp_path, None)
    assert result.ok, result
    spoken = (
        {"en", "ja"}
        if is_installed(model_sets.VOICE_FILES["kokoro-v1.0.int8.onnx"]) and importlib.util.find_spec("pyopenjtalk")
        else {"en"}
    )
    assert {one.language for one in result.languages} == spoken


def test_a_self_test_without_weights_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that nobody has, so that it runs on every machine."""
    deployment = Deployments.from_settings(Settings())["embedded-asr"].model_copy(update={"model": "nobody/nothing"})
    result = examination.run_self_test(tmp_path, deployment)
    assert not result.ok
    assert "nobody--nothing" in result.error


def test_disk_space_is_found_for_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    assert examination.free_bytes(tmp_path / "a" / "b") > 0


@pytest.mark.parametrize("encoding", ["cp932", "cp1252", "utf-8"])
def test_any_console_can_show_the_output(encoding: str, tmp_path: Path) -> None:
    """A Japanese or Western console must not end a command by a letter it lacks."""
    (tmp_path / "gateway.toml").write_text('[aliases]\n"ångström-日本語-ру" = "whisper-1"\n', encoding="utf-8")
    answer = subprocess.run(
        [sys.executable, "-P", "-m", "app.cli", "models", "--config", str(tmp_path / "gateway.toml")],
        cwd=ROOT,
        env={**__import__("os").environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"},
        capture_output=True,
        timeout=LIMIT,
    )
    assert answer.returncode == 0, answer.stderr
    assert "whisper-1" in answer.stdout.decode(encoding)


def test_output_is_utf8_where_nobody_chose_otherwise(tmp_path: Path) -> None:
    (tmp_path / "gateway.toml").write_text('[aliases]\n"日本語" = "whisper-1"\n', encoding="utf-8")
    environment = {k: v for k, v in __import__("os").environ.items() if k not in ("PYTHONIOENCODING", "PYTHONUTF8")}
    answer = subprocess.run(
        [sys.executable, "-P", "-m", "app.cli", "models", "--config", str(tmp_path / "gateway.toml")],
        cwd=ROOT,
        env={**environment, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
        capture_output=True,
        timeout=LIMIT,
    )
    assert "日本語 = whisper-1" in answer.stdout.decode("utf-8")
