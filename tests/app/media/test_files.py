"""Files of decoded audio on a system that refuses to delete what is mapped, as Windows does."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from app.media import files as media_files
from app.media.files import SampleFile, SampleFiles
from app.media.pool import Decoded
from tests.support.waiting import until


class MappedFiles:
    """Refuses to delete the paths in `held`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.held: set[Path] = set()
        self.refused = 0
        unlink = Path.unlink

        def guarded(path: Path, missing_ok: bool = False) -> None:
            if path in self.held:
                self.refused += 1
                raise PermissionError(13, "The process cannot access the file", str(path))
            unlink(path, missing_ok=missing_ok)

        monkeypatch.setattr(Path, "unlink", guarded)


@pytest.fixture
def mapped(monkeypatch: pytest.MonkeyPatch) -> MappedFiles:
    monkeypatch.setattr(media_files, "_RETRY_SECONDS", 0.01)
    return MappedFiles(monkeypatch)


def written(files: SampleFiles, samples: int = 1000) -> SampleFile:
    file = files.new()
    file.path.write_bytes(np.arange(samples, dtype=np.float32).tobytes())
    return file


async def test_a_file_that_a_worker_still_maps_goes_when_it_no_longer_does(mapped: MappedFiles) -> None:
    files = SampleFiles(nameless=False)
    file = written(files)
    mapped.held.add(file.path)
    Decoded(file.map(1000), 1.0, 16_000, 1, "wav", file).close()
    await until(lambda: mapped.refused >= 3)
    assert file.path.exists()
    mapped.held.clear()
    await until(lambda: not file.path.exists())
    files.close()


async def test_several_files_wait_for_their_own_readers(mapped: MappedFiles) -> None:
    files = SampleFiles(nameless=False)
    first, second = written(files), written(files)
    mapped.held.update({first.path, second.path})
    first.close()
    second.close()
    mapped.held.remove(second.path)
    await until(lambda: not second.path.exists())
    assert first.path.exists()
    mapped.held.clear()
    files.close()
    assert not files.folder.exists()


def test_our_own_map_is_gone_before_the_file_is_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows would refuse it otherwise."""
    files = SampleFiles(nameless=False)
    file = written(files)
    decoded = Decoded(file.map(1000), 1.0, 16_000, 1, "wav", file)
    seen: list[int] = []
    monkeypatch.setattr(SampleFile, "close", lambda _: seen.append(len(decoded.samples)))
    decoded.close()
    assert seen == [0]
    files.close()


@pytest.mark.skipif(sys.platform != "linux", reason="descriptors of /proc")
def test_where_proc_is_not_ours_files_have_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program with capabilities of its own: its children may not look into it."""
    monkeypatch.setattr("os.geteuid", lambda: 12_345)
    assert not media_files._can_be_nameless()


@pytest.mark.skipif(sys.platform != "linux", reason="files without a name")
def test_a_file_has_no_name_at_any_moment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    try:
        os.close(os.open(tmp_path, os.O_RDWR | os.O_TMPFILE))
    except OSError:
        pytest.skip("this file system has no O_TMPFILE")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    files = SampleFiles(nameless=True)
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: pytest.fail("the file had a name"))
    assert written(files).map(1000)[999] == 999
    monkeypatch.undo()
    files.close()


@pytest.mark.skipif(sys.platform != "linux", reason="files without a name")
def test_where_the_file_system_wants_a_name_the_file_loses_it_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    files, plain = SampleFiles(nameless=True), os.open

    def refuses(path: Path, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "not supported")
        return plain(path, flags, mode)

    monkeypatch.setattr(os, "open", refuses)
    assert written(files).map(1000)[999] == 999
    assert not list(files.folder.iterdir())
    files.close()


@pytest.mark.skipif(sys.platform != "linux", reason="descriptors of /proc")
def test_a_file_without_a_name_is_gone_from_the_disk_once_closed() -> None:
    files = SampleFiles(nameless=True)
    file = written(files)
    assert not list(files.folder.iterdir())
    samples = file.map(1000)
    file.close()
    assert samples[999] == 999, "a map outlives its file"
    assert not file.path.exists()
    files.close()
    assert not files.folder.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="descriptors of /proc")
def test_the_numbers_of_closed_files_come_back_only_after_all_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media_files, "_HIGHEST", 600)
    monkeypatch.setattr(media_files, "_descriptors", numbers := media_files._Descriptors())
    numbers._next = 598
    files = SampleFiles(nameless=True)
    paths = []
    for _ in range(4):
        file = files.new()
        paths.append(file.path)
        file.close()
    assert [path.name for path in paths] == ["598", "599", "300", "301"]
    files.close()
