"""Lets a short-lived process look for devices, without holding up the start of the gateway."""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress

from backends.devices import Inventory, parse_inventory, probe_environment

PROBE_SECONDS = 120.0  # importing a tensor library from a cold disk


async def probe_devices(python: str = "") -> Inventory:
    """What the workers of this interpreter ("" = ours) can use. Raises OSError, ValueError or TimeoutError."""
    process = await asyncio.create_subprocess_exec(
        python or sys.executable,
        *("-P", "-m", "backends.devices", "--json"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env=probe_environment(),
    )
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            out, _ = await process.communicate()
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    return parse_inventory(out)
