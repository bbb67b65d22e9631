"""Results are written whole or not at all, and never in the place of a device or a pipe."""

from __future__ import annotations

import os
import stat
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.commands.files import NotWritten, check_writable, write_whole
from tests.support.waiting import LIMIT

posix = pytest.mark.skipif(sys.platform == "win32", reason="pipes and devices have no place in Windows' folders")


def test_what_breaks_off_leaves_what_was_there(tmp_path: Path) -> None:
    file = tmp_path / "out.wav"
    file.write_bytes(b"old")

    def pieces() -> Iterator[bytes]:
        yield b"new"
        raise TimeoutError

    with pytest.raises(TimeoutError):
        write_whole(pieces(), file)
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


@posix
def test_a_pipe_gets_the_result_and_stays_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    check_writable(pipe)
    write_whole([b"a" * 100_000, b"b"], pipe)
    reader.join(LIMIT)
    assert got == [b"a" * 100_000 + b"b"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


@posix
def test_a_link_stays_a_link(tmp_path: Path) -> None:
    link, target = tmp_path / "link.wav", tmp_path / "target.wav"
    link.symlink_to(target)
    write_whole([b"sound"], link)
    assert link.is_symlink()
    assert target.read_bytes() == b"sound"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = Path("/dev/full").open("wb", buffering=0)  # noqa: SIM115 (write_whole closes it)
    monkeypatch.setattr("app.commands.files._opened", lambda *_: full)
    with pytest.raises(NotWritten, match=r"out\.txt cannot be written: No space left"):
        write_whole([b"sound"], tmp_path / "out.txt")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_takes_no_file_is_told_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    check_writable(tmp_path / "out.txt")
    monkeypatch.setattr(
        "app.commands.files.tempfile.TemporaryFile", refuse
    )  # the tests may run as root, who may write anywhere
    with pytest.raises(NotWritten, match=r"out\.txt cannot be written: Permission denied"):
        check_writable(tmp_path / "out.txt")
    assert not list(tmp_path.iterdir())
