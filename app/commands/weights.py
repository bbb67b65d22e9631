"""`speech-gateway pull` and `models`: what lies on the disk, and how more gets there."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.progress import Progress as ProgressBar

from app.commands.connection import Config
from app.commands.console import WRONG_USE, fail, messages, output, print_table, size_text
from app.config.deployments import Deployment, Deployments
from app.config.loading import load_settings
from app.config.settings import ConfigError, Settings
from app.serving.requirements import ModelRequirements, install_command
from backends import weights, windows_ml
from backends.interface import ModelUnavailable
from backends.model_files import ModelSpec, Progress

_OFFLINE_HINT = ". Set offline = false, or bring the files from another machine with --from FOLDER."
_SOURCES_VALID = 5.0  # seconds; a command looks only once anyway


def pull(
    name: Annotated[str, typer.Argument(help="Deployment or alias; speech-gateway models lists them.")],
    source: Annotated[
        Path | None,
        typer.Option("--from", help="Copy from this folder instead of a hub.", exists=True, file_okay=False),
    ] = None,
    revision: Annotated[str, typer.Option(help="Commit, tag or branch of the hub.", show_default=False)] = "",
    config: Config = None,
) -> None:
    """Fetch the weights of a deployment.

    Goes on where an earlier pull stopped. HF_ENDPOINT names another hub, HF_TOKEN is sent to it. A name such as
    windowsml:amdgpu fetches a provider of Windows ML instead.
    """
    settings, deployments = configured(config)
    if name.startswith(f"{windows_ml.KIND}:"):
        _fetch_provider(name, settings)
        return
    deployment = deployments.resolve(name)
    if deployment is None:
        fail(f"there is no deployment {name!r}; known: {', '.join([*deployments, *deployments.aliases])}", WRONG_USE)
    specs = weights.required_models(
        deployment.info, deployment.model, revision or deployment.revision, deployment.options
    )
    if not specs:
        absent = requirements_of(deployment, settings).absent_options()
        output().print(f"{deployment.name} needs no weights{absent and f'; it is {absent}'}.")
        return
    if deployment.info.licence:
        messages().print(f"Licence of the published weights: {deployment.info.licence}")
    try:
        for spec in specs:
            folder = _fetch(spec, settings, source, only=len(specs) == 1)
            output().print(f"{spec.model}: complete in {folder}")
    except ModelUnavailable as error:
        fail(error.message + (_OFFLINE_HINT if settings.offline and source is None else ""))


def _fetch_provider(device: str, settings: Settings) -> None:
    """Let Windows fetch an execution provider that its maker offers through Windows ML."""
    if settings.offline:
        fail(f"{device} is fetched by Windows, and offline = true. Set offline = false.")
    try:
        provider = windows_ml.fetch(device.partition(":")[2])
    except (windows_ml.NoCatalogue, ModelUnavailable) as error:
        fail(str(error))
    output().print(f'{provider.full_name} {provider.version}: ready. Set device = "{device}" in a Whisper deployment.')


def models(config: Config = None) -> None:
    """List deployments, weights and licences."""
    settings, deployments = configured(config)
    requirements = {name: requirements_of(deployment, settings) for name, deployment in deployments.items()}
    rows = [_row(deployment, requirements[name]) for name, deployment in deployments.items()]
    print_table(("deployment", "does", "state", "size", "licence of the weights"), rows)
    for name, deployment in deployments.items():
        kind = f" ({form})" if (form := requirements[name].weights_format()) else ""
        output().print(
            f"  {name}: {deployment.info.name}, {deployment.model or 'no weights'}{kind}"
            f"{_hint(deployment, requirements[name])}"
        )
    output().print("")
    for alias, name in deployments.aliases.items():
        output().print(f"  {alias} = {name}")


def configured(config: Path | None) -> tuple[Settings, Deployments]:
    """Load settings and deployments; ends the program with the reason if they are wrong."""
    try:
        settings = load_settings(config)
        return settings, Deployments.from_settings(settings)
    except ConfigError as error:
        fail(str(error), WRONG_USE)


def requirements_of(deployment: Deployment, settings: Settings) -> ModelRequirements:
    return ModelRequirements(deployment, settings.models_dir, time.monotonic, _SOURCES_VALID)


def _row(deployment: Deployment, requirements: ModelRequirements) -> tuple[str, ...]:
    info = deployment.info
    task = ", ".join(deployment.tasks)
    on_disk, expected = requirements.weights_bytes(), weights.known_bytes(deployment.model) or info.bytes_hint
    size = size_text(on_disk) if on_disk else f"about {size_text(expected)}" if expected else "-"
    return (
        deployment.name,
        task,
        "absent" if requirements.missing_libraries() or requirements.weight_problems() else "ready",
        size,
        info.licence,
    )


def _hint(deployment: Deployment, requirements: ModelRequirements) -> str:
    """Name the missing libraries or weights and the command that brings them."""
    if missing := requirements.missing_libraries():
        return f"; lacks {', '.join(missing)}: {install_command(deployment.info.extra)}"
    if requirements.weight_problems():
        return f"; fetch it with: {requirements.remedy()}"
    return f"; {absent}" if (absent := requirements.absent_options()) else ""


def _fetch(spec: ModelSpec, settings: Settings, source: Path | None, *, only: bool) -> Path:
    with _progress(spec.model) as report:
        if source is not None:
            return weights.import_folder(_within(source, spec, only), spec, settings.models_dir, progress=report)
        return weights.pull(spec, settings.models_dir, progress=report, offline=settings.offline)


def _within(source: Path, spec: ModelSpec, only: bool) -> Path:
    """Find a model's folder: ORG--NAME or NAME inside `source`, or `source` itself."""
    for name in (spec.model.replace("/", "--"), spec.model.rpartition("/")[2]):
        if (source / name).is_dir():
            return source / name
    if only or not weights.problems(source, spec):
        return source
    raise ModelUnavailable(f"{source} has no folder {spec.model.replace('/', '--')} that holds {spec.model}")


@contextmanager
def _progress(model: str) -> Iterator[Progress]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with ProgressBar(*columns, console=messages(), transient=True) as bar:
        line = bar.add_task(model, total=None)

        def report(done: int, total: int) -> None:
            bar.update(line, completed=done, total=total or None)

        yield report
