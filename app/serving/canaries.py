"""One canary per deployment at a time, whoever asks, and its outcome remembered for some seconds.

A canary is a real job on a real model: a crowd that asks how the server is must not occupy the models by that. Knows no
route; the pool runs the canaries.
"""

from __future__ import annotations

import asyncio

from app.config.deployments import Deployment
from app.serving.interfaces import Pool

REMEMBERED_SECONDS = 5.0


class Canaries:
    """Runs canaries of `pool`, shared by all who ask."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._runs: dict[str, tuple[asyncio.Task[None], float]] = {}  # the newest run, and when it began

    async def run(self, deployment: Deployment, timeout_seconds: float) -> None:
        """The outcome of the canary that runs or ran a moment ago; else of a new one. Raises ApiError."""
        now = asyncio.get_running_loop().time()
        task, began = self._runs.get(deployment.name, (None, 0.0))
        if task is None or (task.done() and now - began >= REMEMBERED_SECONDS):
            canary = self._pool.canary(deployment, timeout_seconds)
            task = asyncio.create_task(canary, name=f"canary of {deployment.name}")
            task.add_done_callback(_consume)
            self._runs[deployment.name] = task, now
        await asyncio.wait({task})  # which goes on if whoever asked leaves
        task.result()


def _consume(task: asyncio.Task[None]) -> None:
    """Take the error, which nobody else may be left to take."""
    if not task.cancelled():
        task.exception()
