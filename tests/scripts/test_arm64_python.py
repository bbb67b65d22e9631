"""What is made for a Python of another architecture, and that it is made once. Downloads are left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from scripts import arm64_python


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Commands that were run; debootstrap leaves a package behind."""
    ran: list[list[str]] = []

    def run(command: Sequence[str], variables: Mapping[str, str] | None = None) -> None:
        ran.append(list(command))
        if command[0] == "debootstrap":
            archives = Path(command[command.index(arm64_python.SUITE) + 1]) / "var/cache/apt/archives"
            archives.mkdir(parents=True)
            (archives / "python3.11_arm64.deb").touch()

    monkeypatch.setattr(arm64_python, "run_command", run)
    monkeypatch.setattr(arm64_python, "find_uv", lambda: "uv")
    monkeypatch.setattr(arm64_python.shutil, "which", lambda name: f"/usr/sbin/{name}")
    return ran


def test_it_is_made_once(commands: list[list[str]], tmp_path: Path) -> None:
    environ = {"ARM64_LANE_CACHE": str(tmp_path / "lane")}
    made = arm64_python.prepare(environ)
    root = tmp_path / "lane" / "bookworm"
    assert made.interpreter == root / "usr/bin/python3.11"
    assert made.variables == {"QEMU_LD_PREFIX": str(root), "PYTHONPATH": str(tmp_path / "lane" / "site")}
    assert [command[0] for command in commands] == ["debootstrap", "dpkg", "uv"]
    assert "--arch=arm64" in commands[0]
    assert "asimd" in (root / "proc/cpuinfo").read_text(encoding="utf-8"), "or libraries see the host's processor"
    listed = (tmp_path / "lane" / "requirements.txt").read_text(encoding="utf-8")
    assert "\ntorch==" in listed
    assert "--hash" not in listed
    assert arm64_python.prepare(environ) == made
    assert len(commands) == 3


def test_other_requirements_are_installed_anew(
    commands: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environ = {"ARM64_LANE_CACHE": str(tmp_path)}
    arm64_python.prepare(environ)
    monkeypatch.setattr(arm64_python, "LISTS", ("core.txt",))
    arm64_python.prepare(environ)
    assert [command[0] for command in commands] == ["debootstrap", "dpkg", "uv", "uv"]


def test_debootstrap_has_to_be_there(
    commands: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arm64_python.shutil, "which", lambda name: None)
    with pytest.raises(arm64_python.SetupError, match="apt-get install debootstrap"):
        arm64_python.prepare({"ARM64_LANE_CACHE": str(tmp_path)})
