"""Which tests are of the suite `make test-security`: those of what nobody may do, whoever asks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Files and folders of which every test is. A single test elsewhere has the mark itself.
SECURITY = (
    "tests/security",
    "tests/app/commands/test_keys.py",
    "tests/app/http/test_cors.py",
    "tests/app/media/test_files.py",
    "tests/app/media/test_pool.py",
    "tests/app/realtime/test_hostile.py",
    "tests/app/realtime/test_secrets.py",
    "tests/app/routes/test_multipart.py",
    "tests/app/serving/test_loading_limits.py",
    "tests/app/serving/test_shares.py",
    "tests/app/test_body_memory.py",
    "tests/app/test_connections.py",
    "tests/app/test_disconnects.py",
    "tests/app/test_fuzz.py",
    "tests/app/test_logs.py",
    "tests/app/test_temp_folders.py",
    "tests/app/ui/test_temp_files.py",
    "tests/backends/test_children.py",
    "tests/backends/test_weights.py",
    "tests/backends/transformer/test_bounds.py",
    "tests/backends/transformer/test_checkpoint.py",
    "tests/backends/whisper/test_checkpoint.py",
    "tests/backends/whisper/test_odd_files.py",
)


def mark_security(items: list[Any]) -> None:
    """Mark every test of `SECURITY`."""
    places = [ROOT / place for place in SECURITY]
    for item in items:
        if any(item.path.is_relative_to(place) for place in places):
            item.add_marker(pytest.mark.security)
