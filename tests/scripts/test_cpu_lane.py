"""The lane for other processors: when it emulates, what it says where it cannot, and that a part which fails is
counted."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scripts import arm64_python, cpu_lane
from scripts.arm64_python import Arm64Python
from scripts.cpu_lane import PROFILES, LaneUnavailable, emulation, interpreter, main, run_lane
from scripts.provision import SetupError

HASWELL, MODERN = frozenset({"avx", "avx2", "sse4_2"}), frozenset({"avx", "avx2", "sse4_2", "avx512f"})


@pytest.fixture
def emulators(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")


@pytest.mark.usefixtures("emulators")
@pytest.mark.parametrize(
    ("profile", "features", "command"),
    [
        ("avx2", MODERN, ["qemu-x86_64", "-cpu", "Haswell"]),
        ("avx2", HASWELL, []),
        ("avx2", frozenset(), ["qemu-x86_64", "-cpu", "Haswell"]),
        ("sse42", HASWELL, ["qemu-x86_64", "-cpu", "Nehalem"]),
        ("sse42", frozenset({"sse4_2"}), []),
        ("arm64", HASWELL, ["qemu-aarch64", "-cpu", "cortex-a72"]),
        ("here", MODERN, []),
    ],
)
def test_a_processor_is_emulated_where_this_one_is_another(
    profile: str, features: frozenset[str], command: list[str]
) -> None:
    assert emulation(PROFILES[profile], features) == command


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(cpu_lane, "cpu_features", lambda: MODERN)
    with pytest.raises(LaneUnavailable, match="qemu-x86_64 is not installed"):
        emulation(PROFILES["sse42"], MODERN)
    assert main(["avx2", "--only", "kernels"]) == 2
    assert "qemu-x86_64 is not installed" in capsys.readouterr().err


def test_arm64_has_a_python_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cpu_lane, "_is_arm", lambda: False)
    variables = {"QEMU_LD_PREFIX": "/arm64", "PYTHONPATH": "/site"}
    monkeypatch.setattr(arm64_python, "prepare", lambda: Arm64Python(Path("/arm64/python"), variables))
    assert interpreter("arm64") == (str(Path("/arm64/python")), variables)
    assert interpreter("avx2") == (sys.executable, {})
    monkeypatch.setattr(cpu_lane, "_is_arm", lambda: True)
    assert interpreter("arm64") == (sys.executable, {})

    def fails() -> Arm64Python:
        raise SetupError("debootstrap is missing")

    monkeypatch.setattr(cpu_lane, "_is_arm", lambda: False)
    monkeypatch.setattr(arm64_python, "prepare", fails)
    with pytest.raises(LaneUnavailable, match="debootstrap is missing"):
        interpreter("arm64")


def test_parts_that_fail_are_counted_and_the_others_run(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    fake = tmp_path / "part.py"
    fake.write_text("import sys\nsys.exit(sys.argv[-1] == 'products')\n", encoding="utf-8")
    real = subprocess.run

    def instead(command: list[str], **options: Any) -> Any:
        return real([sys.executable, str(fake), command[-1]], **options)

    monkeypatch.setattr(cpu_lane.subprocess, "run", instead)
    assert run_lane("here", ["kernels", "products", "csm"]) == 1
    told = capfd.readouterr().out
    assert "--- kernels: ok" in told
    assert "--- products: FAILED, exit status 1" in told
    assert "--- csm: ok" in told
