"""The end of a test run names what was skipped and how to add it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

from tests.support.skips import skip_summary
from tests.support.waiting import LIMIT

ROOT = Path(__file__).resolve().parents[1]


def test_skips_are_counted_by_reason_with_what_adds_them() -> None:
    told = ["Skipped: Chromium is not installed", "Skipped: macOS does not tell", "Skipped: Chromium is not installed"]
    lines = list(skip_summary(SimpleNamespace(longrepr=("file.py", 1, text)) for text in told))
    assert lines == [
        "2 skipped: Chromium is not installed; to run them: apt-get install chromium",
        "1 skipped: macOS does not tell",
    ]


def test_a_run_ends_with_them(tmp_path: Path) -> None:
    """With the project's own conftest.py, in a process of its own, spread over workers as `make test` does."""
    file = tmp_path / "test_one.py"
    file.write_text("import pytest\n@pytest.mark.skip(reason='needs curl')\ndef test_it(): pass\n", encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-n",
        "1",
        "-p",
        "tests.conftest",
        "-c",
        str(ROOT / "pyproject.toml"),
        str(file),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT, check=True)
    assert "1 skipped: needs curl; to run them: apt-get install curl" in done.stdout
