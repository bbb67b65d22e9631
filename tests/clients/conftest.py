"""Real client programs: collected only where they are asked for, because they install packages."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Nothing of this folder without `-m clients` or `-m realtime_clients`."""
    return None if "clients" in (config.getoption("markexpr") or "") else True
