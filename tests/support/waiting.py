"""Waits of the tests: for events, never for an amount of time.

Owns the one limit that ends a wait for something that never comes. It says nothing about how fast anything has to be,
so it is far longer than anything takes on a slow machine that has much else to do.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

LIMIT = 300.0  # seconds; below pytest's own timeout, so that the failed wait is what the report shows


async def until(condition: Callable[[], object]) -> None:
    """Let the loop run until `condition()` is true. Raises TimeoutError after LIMIT."""
    async with asyncio.timeout(LIMIT):
        while not condition():  # noqa: ASYNC110 # any condition, also one that no event tells of
            await asyncio.sleep(0.01)


def wait_until(condition: Callable[[], object]) -> None:
    """Block until `condition()` is true; what other threads and processes do goes on. Raises TimeoutError after
    LIMIT."""
    ends = time.monotonic() + LIMIT
    while not condition():
        if time.monotonic() > ends:
            raise TimeoutError(f"it did not come true within {LIMIT:.0f} s")
        time.sleep(0.01)
