"""What visitors of the page leave behind is gone: after a while, and with the server."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from app.ui import temp_files as temp_files_module
from app.ui.temp_files import TempFiles


def _put(temp_files: TempFiles, name: str, age: float) -> Path:
    path = temp_files.folder / "of-a-visitor" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"speech")
    os.utime(path, (time.time() - age,) * 2)
    return path


async def test_old_files_go_and_the_folder_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(temp_files_module, "_LOOK_SECONDS", 0.01)
    temp_files = TempFiles()
    assert os.environ["GRADIO_TEMP_DIR"] == str(temp_files.folder)
    async with temp_files.tended():
        old, new = _put(temp_files, "old.wav", 2 * temp_files_module.KEPT_SECONDS), _put(temp_files, "new.wav", 0)
        while old.exists():  # noqa: ASYNC110 (a file, not a task, is waited for)
            await asyncio.sleep(0.01)
        assert new.exists()
    assert not temp_files.folder.exists()
    assert "GRADIO_TEMP_DIR" not in os.environ


def test_two_servers_of_one_machine_have_a_folder_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")
    first, second = TempFiles(), TempFiles()
    assert first.folder != second.folder
    for temp_files in (first, second):
        temp_files.folder.rmdir()
