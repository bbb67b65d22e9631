"""What must be there before a deployment can be loaded: libraries in its interpreter, weights on the disk.

Answers for people: the message names what is missing, the command that brings it, and the deployment that works
already.
Looks at the disk at most every few seconds. Knows no process; `pulls` fetches the weights and tells how far it is.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import platformdirs

from app.config.deployments import Deployment
from app.errors import ModelUnavailable
from app.serving.interfaces import DeploymentState
from backends import weights
from backends.interface import ModelFiles

_RETRY_SECONDS = 30.0  # what a client is told while something must be installed or fetched


@lru_cache(maxsize=256)
def _importable(module: str) -> bool:
    """Found without being imported."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def install_command(extra: str) -> str:
    """What a user of this platform types to get the libraries of an extra."""
    if sys.platform == "win32":
        return r".\setup.ps1" if extra in ("", "embedded") else rf".\setup.ps1 -Extras {extra}"
    return "make serve" if extra in ("", "embedded") else f"make serve EXTRAS={extra}"


def quoted(name: str) -> str:
    """A deployment's name as an argument of a command line."""
    return f'"{name}"' if " " in name else name


class ModelRequirements:
    """The sources of one deployment. done, total: bytes of a pull in progress; pull_error: why the last one failed."""

    def __init__(
        self, deployment: Deployment, models_dir: Path, clock: Callable[[], float], valid_seconds: float
    ) -> None:
        self._deployment, self._models_dir = deployment, models_dir
        self._clock, self._valid = clock, valid_seconds
        self._wrong: list[str] = []
        self._looked_at = -valid_seconds
        self.wanted = weights.required_models(
            deployment.info, deployment.model, deployment.revision, deployment.options
        )
        self.alternative = ""  # another deployment of the same task that needs nothing
        self.pulling = False
        self.done = self.total = 0
        self.pull_error = ""

    # --- Libraries ----------------------------------------------------------------------------------------------------

    def has_libraries(self, engine: str) -> bool:
        """Whether everything the engine imports is installed; another interpreter tells only when its worker starts."""
        return not self._missing_libraries(engine)

    def _missing_libraries(self, engine: str) -> list[str]:
        if self._deployment.python:
            return []
        libraries = self._deployment.info.libraries
        return [module for module in (*libraries.get("", ()), *libraries.get(engine, ())) if not _importable(module)]

    def missing_libraries(self) -> list[str]:
        """Modules that must be installed before any allowed engine can run; [] = one of them can."""
        d = self._deployment
        engines = d.info.engines if d.engine == "auto" else (d.engine,)
        return min((self._missing_libraries(engine) for engine in engines), key=len)

    # --- Weights ------------------------------------------------------------------------------------------------------

    def weight_problems(self, *, fresh: bool = False) -> list[str]:
        """What is missing or damaged on the disk."""
        now = self._clock()
        if fresh or now - self._looked_at >= self._valid:
            self._wrong = [
                f"{text} ({wanted.switch} = false in its table does without)" if wanted.switch else text
                for wanted in self.wanted
                for text in weights.problems(weights.model_folder(self._models_dir, wanted.model), wanted)
            ]
            self._looked_at = now
        return self._wrong

    def weights_bytes(self) -> int:
        folders = [(weights.model_folder(self._models_dir, wanted.model), wanted.model) for wanted in self.wanted]
        return sum(weights.weights_bytes(folder, model) for folder, model in folders)

    def weights_format(self) -> str:
        """Of the deployment's own model, as its content shows it; "" where there is none."""
        if not self.wanted:
            return ""
        model = self.wanted[0].model
        return weights.weights_format(weights.model_folder(self._models_dir, model), model)

    def files(self) -> ModelFiles:
        """What the backend is told."""
        d = self._deployment
        folder = weights.model_folder(self._models_dir, self.wanted[0].model).resolve() if self.wanted else None
        user = Path(platformdirs.user_config_dir("speech-gateway", appauthor=False))
        return ModelFiles(d.name, d.model, folder, self._models_dir.resolve(), user, d.options)

    # --- Answers ------------------------------------------------------------------------------------------------------

    @property
    def state(self) -> DeploymentState:
        """unloaded: all is there."""
        if self.pulling:
            return "pulling"
        return "absent" if self.missing_libraries() or self.weight_problems() else "unloaded"

    def problem(self) -> str:
        """What is missing and what helps, "" if nothing is."""
        name, other = self._deployment.name, f" {self.alternative} works already." if self.alternative else ""
        if missing := self.missing_libraries():
            command = install_command(self._deployment.info.extra)
            return f"{name} needs modules that are not installed ({', '.join(missing)}). Install them with: {command}.{other}"
        if not (weight_problems := self.weight_problems()):
            return ""
        command = f"speech-gateway pull {quoted(name)}"
        if self.pulling:
            share = f" ({100 * self.done // self.total} % of {self.total / 1e9:.1f} GB)" if self.total else ""
            return f"The weights of {name} are being fetched{share}; try again later.{other}"
        why = f" The last try failed: {self.pull_error}." if self.pull_error else ""
        return f"The weights of {name} are missing: {weight_problems[0]}. Fetch them with: {command}.{why}{other}"

    def check(self) -> None:
        """Raises ModelUnavailable while anything is missing."""
        if problem := self.problem():
            raise ModelUnavailable(problem, retry_after=_RETRY_SECONDS, should_retry=self.pulling)
