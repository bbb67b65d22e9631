"""Temporary folders go with their owner, at the latest when the next server starts."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from app import temp_folders
from app.temp_folders import PREFIX, TempFolder, sweep

ROOT = Path(__file__).resolve().parents[2]
OWNER = "from app.temp_folders import TempFolder; f = TempFolder('media'); print(f.path, flush=True); input()"


@pytest.fixture(autouse=True)
def temp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary folder of this test, also for the processes that it starts."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for name in ("TMPDIR", "TEMP", "TMP"):
        monkeypatch.setenv(name, str(tmp_path))
    return tmp_path


@contextmanager
def owner() -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Another process with a folder, in which it keeps a recording."""
    command = [sys.executable, "-X", "utf8", "-c", OWNER]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
    ) as process:
        assert process.stdout is not None
        path = Path(process.stdout.readline().strip())
        (path / "0.f32").write_bytes(bytes(100))
        try:
            yield process, path
        finally:
            process.kill()


def test_a_living_owner_keeps_its_folder_and_a_killed_one_loses_it(temp: Path) -> None:
    with owner() as (process, path):
        assert sweep() == []
        assert (path / "0.f32").exists()
        process.kill()
        process.wait()
        assert sweep() == [path.parent]
    assert not list(temp.iterdir())


def test_our_own_folder_is_not_swept() -> None:
    with TempFolder("page") as folder:
        assert sweep() == []
        assert folder.path.is_dir()
        assert folder.path.parent.name.startswith(f"{PREFIX}page-")
    assert not folder.path.parent.exists()


def test_what_cannot_be_deleted_yet_is_left_to_the_next_sweep(monkeypatch: pytest.MonkeyPatch, temp: Path) -> None:
    folder = TempFolder("media")
    (folder.path / "0.f32").write_bytes(bytes(100))
    with monkeypatch.context() as patch:
        patch.setattr(temp_folders, "_removed", lambda _: False)
        folder.close(seconds=0.0)
        assert sweep() == []
    assert (folder.path / "0.f32").exists()
    assert sweep() == [folder.path.parent]
    assert not list(temp.iterdir())


def test_a_folder_without_a_lock_goes_when_it_is_old(temp: Path) -> None:
    fresh, old = temp / f"{PREFIX}media-fresh", temp / f"{PREFIX}media-old"
    for folder in (fresh, old):
        folder.mkdir()
        (folder / "0.f32").write_bytes(b"speech")
    days_ago = time.time() - 2 * temp_folders._UNLOCKED_SECONDS
    os.utime(old, (days_ago, days_ago))
    assert sweep() == [old]
    assert fresh.is_dir()


def test_other_peoples_files_are_left_alone(temp: Path) -> None:
    """Neither other names, nor files, nor links that somebody put there to have their target deleted."""
    victim = temp / "documents"
    victim.mkdir()
    (victim / "owner.lock").write_bytes(b"")
    (victim / "files").mkdir()
    (victim / "files" / "letter").write_text("dear", encoding="utf-8")
    (temp / f"{PREFIX}media-notes.txt").write_text("mine", encoding="utf-8")
    (temp / f"{PREFIX}backup").mkdir()
    days_ago = time.time() - 2 * temp_folders._UNLOCKED_SECONDS
    os.utime(temp / f"{PREFIX}backup", (days_ago, days_ago))
    if sys.platform != "win32":
        (temp / f"{PREFIX}media-link").symlink_to(victim, target_is_directory=True)
    assert sweep() == []
    assert (victim / "files" / "letter").exists()
    assert (temp / f"{PREFIX}media-notes.txt").exists()
    assert (temp / f"{PREFIX}backup").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows gives each user a temporary folder of their own")
def test_another_users_folder_is_left_alone(temp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with owner() as (process, path):
        process.kill()
        process.wait()
        monkeypatch.setattr("os.geteuid", lambda: os.getuid() + 1)
        assert sweep() == []
        assert path.is_dir()
