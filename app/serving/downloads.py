"""Fetches missing weights in the background, one model at a time, each in a process of its own.

Owns the processes, their progress and the pauses between failed tries. Knows neither the hub nor the folders:
`backends.weights` does, in the child.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import structlog

from app.serving.requirements import ModelRequirements
from backends import children
from backends.model_files import ModelSpec

FIRST_PAUSE = 30.0  # seconds after a failed try; doubles
LONGEST_PAUSE = 1800.0

_log = structlog.get_logger("pull")


class PullError(Exception):
    """A pull failed; the text is the child's."""


class Puller:
    """Fetches weights for one pool, one model at a time."""

    def __init__(self, models_dir: Path, *, first_pause: float = FIRST_PAUSE) -> None:
        self._models_dir, self._first_pause = models_dir, first_pause
        self._lock = asyncio.Lock()

    async def keep_pulling(
        self, name: str, requirements: ModelRequirements, arrived: Callable[[], Awaitable[None]]
    ) -> None:
        """Try until the weights of a deployment are there, then call `arrived`."""
        pause = self._first_pause
        while requirements.weight_problems(fresh=True):
            try:
                await self.pull(name, requirements)
            except PullError as error:
                requirements.pull_error = str(error)
                _log.warning("pull.failed", deployment=name, error=str(error), next_try_seconds=pause)
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
        await arrived()

    async def pull(self, name: str, requirements: ModelRequirements) -> None:
        """Fetch everything a deployment needs. Raises PullError."""
        requirements.pulling = True
        try:
            async with self._lock:
                for model in requirements.models:
                    _log.info("pull.started", deployment=name, model=model.model)
                    await self._run(model, requirements)
        finally:
            requirements.pulling = False
            requirements.weight_problems(fresh=True)
        requirements.pull_error = ""
        _log.info("pull.done", deployment=name)

    async def _run(self, spec: ModelSpec, requirements: ModelRequirements) -> None:
        arguments = {
            "model": spec.model,
            "required": spec.required,
            "patterns": spec.patterns,
            "revision": spec.revision,
            "models_dir": str(self._models_dir),
        }
        process = await children.start(
            children.command("backends.weights", json.dumps(arguments)),
            children.environment(threads=1),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            last = await self._follow(process, requirements)
            await process.wait()
        finally:
            await children.end(process)
        if "folder" not in last:
            raise PullError(str(last.get("error", f"the pull ended with status {process.returncode}")))

    @staticmethod
    async def _follow(process: asyncio.subprocess.Process, requirements: ModelRequirements) -> dict[str, object]:
        """Read progress lines; returns the last line."""
        assert process.stdout is not None  # noqa: S101 # opened with a pipe
        last: dict[str, object] = {}
        async for line in process.stdout:
            with suppress(ValueError):
                last = json.loads(line)
                if "total" in last:
                    requirements.done, requirements.total = int(str(last["done"])), int(str(last["total"]))
        return last
