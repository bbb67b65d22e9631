"""`speech-gateway dataset create`, `finetune` and `watermark detect`: work of the engines, each in a process of its
own.

The command line imports no engine; it fills in what the configuration knows and passes everything else on.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from app.commands.connection import Config
from app.commands.console import fail, output
from app.commands.weights import configured
from app.config.deployments import Deployment
from app.config.settings import Settings
from app.serving.detector import detector_child, marking
from backends import children, weights

PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}

dataset = typer.Typer(no_args_is_help=True, help="Make training data for LLASA voices.")
watermark = typer.Typer(no_args_is_help=True, help="Find the inaudible watermark in CSM's speech.")


@dataset.command("create", context_settings=PASS_ON)
def create(context: typer.Context, config: Config = None) -> None:
    """Turn clips and their texts into a dataset."""
    settings, llasa = _llasa(config)
    codec = weights.model_folder(settings.models_dir, str(llasa.options["codec_model"]))
    _check_there(context.args, "--codec", codec, llasa.name)
    _pass_on("backends.llasa.training.dataset", [*context.args, *_unless_given(context.args, "--codec", codec)])


def finetune(context: typer.Context, config: Config = None) -> None:
    """Train a LoRA adapter for LLASA."""
    settings, llasa = _llasa(config)
    model = weights.model_folder(settings.models_dir, llasa.model)
    _check_there(context.args, "--model", model, llasa.name)
    _pass_on("backends.llasa.training.finetune", [*context.args, *_unless_given(context.args, "--model", model)])


@watermark.command("detect")
def detect(
    file: Annotated[Path, typer.Argument(help="Audio file.", exists=True, dir_okay=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    config: Config = None,
) -> None:
    """Say whether FILE carries the watermark."""
    settings, deployments = configured(config)
    csm = _of_backend(marking(deployments.values(), settings.models_dir), "csm")
    _check_there([], "", weights.model_folder(settings.models_dir, str(csm.options["watermark_model"])), csm.name)
    child = detector_child(csm, settings.models_dir, file)
    done = children.run(child.command, child.environment, stdin=child.stdin)
    try:
        found = json.loads(done.stdout.decode("utf-8").strip().splitlines()[-1])
    except (ValueError, IndexError):
        fail(
            done.stderr.decode("utf-8", "replace").strip().splitlines()[-1]
            if done.stderr
            else "the detector ended without a word"
        )
    if "error" in found:
        fail(str(found["error"]))
    output().print(json.dumps(found) if as_json else _sentence(found))


def _sentence(answer: dict[str, object]) -> str:
    if answer["status"] == "too short":
        return "Too short to tell: the file holds less than one repetition of a mark."
    if answer["status"] != "found":
        return "No mark was found."
    whose = "this installation's" if answer.get("ours") else "not this installation's"
    return f"A mark was found: {whose} (message {answer['message']}, confidence {answer['confidence']})."


def _llasa(config: Path | None) -> tuple[Settings, Deployment]:
    settings, deployments = configured(config)
    return settings, _of_backend(list(deployments.values()), "llasa")


def _of_backend(deployments: list[Deployment], backend: str) -> Deployment:
    """Choose the deployment of a backend, the user's own before the built-in one."""
    matches = sorted((d for d in deployments if d.info.name == backend), key=lambda d: d.builtin)
    if not matches:
        fail(f"no deployment of the backend {backend} is configured")
    return matches[0]


def _check_there(arguments: list[str], option: str, folder: Path, deployment: str) -> None:
    """End the program with the command that helps where the configured weights are missing, before the engine
    starts."""
    asked_for_help = {"-h", "--help"} & set(arguments)
    if not asked_for_help and _unless_given(arguments, option, folder) and not any(folder.glob("*")):
        fail(f"the weights in {folder} are missing; fetch them with: speech-gateway pull {deployment}")


def _unless_given(arguments: list[str], option: str, value: Path) -> list[str]:
    is_set = any(part == option or part.startswith(f"{option}=") for part in arguments)
    return [] if is_set else [option, str(value)]


def _pass_on(module: str, arguments: list[str]) -> None:
    """Run a module on this terminal and end with its status."""
    raise typer.Exit(children.run_on_terminal(children.command(module, *arguments), children.environment()))
