"""The order in which files of tests are run."""

from __future__ import annotations

from typing import Any


def slow_files_first(items: list[Any]) -> None:
    """Move the files that hold slow tests to the front, so that no worker is left with one when the others are done."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)  # stable: within a file nothing moves
