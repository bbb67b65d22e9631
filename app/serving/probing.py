"""Lets a short-lived process look for devices, without holding up the start of the gateway."""

from __future__ import annotations

from backends import children
from backends.devices import Inventory, parse_inventory, probe_command, probe_environment

PROBE_SECONDS = 120.0  # importing a tensor library from a cold disk


async def probe_devices(python: str = "") -> Inventory:
    """List what workers of an interpreter ("" = ours) can use. Raises OSError, ValueError or TimeoutError."""
    done = await children.run_async(probe_command(python), probe_environment(), seconds=PROBE_SECONDS)
    return parse_inventory(done.stdout)
