"""`speech-gateway doctor`: what is there, what is missing, what will run where and why."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from app.commands import diagnostics
from app.commands.connection import Config, Key, Server, session
from app.commands.console import FAILED, messages, output, print_table, size_text
from app.commands.device_check import check_device
from app.commands.weights import configured, requirements_of
from app.config.deployments import Deployment, Deployments
from app.config.settings import Settings
from backends.devices import DeviceManager
from backends.weights import model_folder


def doctor(
    config: Config = None,
    self_test: Annotated[
        bool,
        typer.Option(
            "--self-test", help="Also speak English, and Japanese where a voice can, and check what Whisper hears."
        ),
    ] = False,
    check: Annotated[
        str,
        typer.Option(
            help="Also load this deployment, let it work, and say what really did the work.", show_default=False
        ),
    ] = "",
    server: Server = "",
    key: Key = "",
) -> None:
    """Examine this machine and installation. Exit status 1 if something that should work does not."""
    settings, deployments = configured(config)
    problems: list[str] = []
    _title("System")
    _pairs([*diagnostics.system_lines(settings), ("port", diagnostics.port_line(settings))])
    _title("Libraries")
    print_table(("library", "version", "for"), diagnostics.library_lines())
    manager, failures = _devices(settings, deployments)
    problems += failures
    _title("Deployments")
    deployment_reports = [_report(deployment, settings, manager) for deployment in deployments.values()]
    for one in deployment_reports:
        _print_report(one)
    if self_test:
        problems += _self_test(diagnostics.run_self_test(settings.models_dir, deployments.get("embedded-asr")))
    if check:
        problems += _check_device(check, server, key, config)
    _title("Result")
    for problem in problems:
        output().print(problem)
    if problems:
        raise typer.Exit(FAILED)
    output().print("Nothing is wrong." + _waiting(deployment_reports))
    for hint in _hints(deployment_reports, self_test, check):
        output().print(hint)


def _report(deployment: Deployment, settings: Settings, manager: DeviceManager) -> diagnostics.DeploymentReport:
    """Report where the deployment will run. A processor and a GPU that compete are timed first."""
    requirements = requirements_of(deployment, settings)
    one = diagnostics.deployment_report(deployment, requirements, manager)
    candidates = diagnostics.timing_candidates(deployment, manager) if one.ready else []
    if not candidates:
        return one
    messages().print(f"Timing {deployment.name} on {', '.join(device for device, _ in candidates)} ...")
    folder = model_folder(settings.models_dir, deployment.model)
    return diagnostics.measured(one, diagnostics.time_devices(folder, candidates, manager.inventory.cores))


def _waiting(deployment_reports: list[diagnostics.DeploymentReport]) -> str:
    count = sum(not one.ready for one in deployment_reports)
    return (
        f" {count} of {len(deployment_reports)} deployments are not ready: see above what each lacks." if count else ""
    )


def _hints(deployment_reports: list[diagnostics.DeploymentReport], self_test: bool, check: str) -> Iterator[str]:
    """List the commands to try next."""
    if not self_test:
        yield "Hear and be heard: speech-gateway doctor --self-test"
    on_gpu = next(
        (one.name for one in deployment_reports if one.ready and one.where and not one.where.endswith(" on cpu")), ""
    )
    if on_gpu and not check:
        yield f"See whether the GPU does the work: speech-gateway doctor --check {on_gpu}"


def _title(text: str) -> None:
    output().print(f"\n{text}")


def _pairs(pairs: Iterable[tuple[str, str]]) -> None:
    for name, value in pairs:
        output().print(f"  {name + ':':18} {value}")


def _devices(settings: Settings, deployments: Deployments) -> tuple[DeviceManager, list[str]]:
    """Print the devices. Returns the manager that decides with them, and the probes' failures."""
    inventory, failure = diagnostics.probe_devices()
    manager = DeviceManager(settings.devices.memory_budget, inventory=inventory)
    failures = [failure] if failure else []
    for python in sorted({deployment.python for deployment in deployments.values() if deployment.python}):
        other, failure = diagnostics.probe_devices(python)
        if other is not None:
            manager.learn(other, python)
        failures += [failure] if failure else []
    _title(f"Devices ({manager.inventory.cores} physical cores)")
    rows = [
        (d.id, d.name, size_text(d.memory_total), ", ".join(d.dtypes), ", ".join(d.libraries), d.driver)
        for d in manager.inventory.devices
    ]
    print_table(("device", "name", "memory", "numbers", "used by", "driver"), rows)
    for kind, why in manager.inventory.notes:
        output().print(f"  no {kind}: {why}")
    return manager, failures


def _print_report(one: diagnostics.DeploymentReport) -> None:
    where = f", {one.where}" if one.where else ""
    reason = f" ({one.reason})" if one.reason else ""
    output().print(f"  {one.name}: {'ready' if one.ready else 'not ready'}{where}{reason}")
    if one.problem:
        output().print(f"      lacks: {one.problem}")
    if one.hint:
        output().print(f"      to change that: {one.hint}")
    if one.absent:
        output().print(f"      {one.absent}")


def _check_device(name: str, server: str, key: str, config: Path | None) -> list[str]:
    """Print what the check ran on. Returns the problem, if there is one."""
    _title(f"Check of {name}")
    with session(server, key, config) as client:
        device_check = check_device(client, name)
    rows = [
        ("ran", device_check.where),
        ("loaded in", f"{device_check.load_seconds:.1f} s"),
        ("check took", f"{device_check.check_seconds:.2f} s"),
    ]
    rows.append(("memory", size_text(device_check.memory)))
    for graph, providers in device_check.nodes.items():
        rows.append((f"nodes of {graph}", ", ".join(f"{provider} {count}" for provider, count in providers.items())))
    rows += device_check.kernels.items()
    _pairs(rows)
    return [f"{name}: {device_check.failure}"] if device_check.failure else []


def _self_test(result: diagnostics.SelfTest) -> list[str]:
    """Print the self-test's result. Returns the problems."""
    _title("Self-test: embedded-tts speaks, the model of embedded-asr listens")
    for one in result.languages:
        lost = f"{100 * one.error_rate:.1f} % lost, at most {100 * one.bound:.0f} % may be"
        output().print(f"  {one.language}, spoken by {one.engine}: {'passed' if one.passed else 'FAILED'} ({lost})")
        if not one.passed:
            output().print(f"  said: {one.said}\n  heard: {one.recognized or 'nothing'}")
    failed = ", ".join(one.language for one in result.languages if not one.passed)
    problems = [f"too much was lost in {failed}"] if failed else []
    problems += [result.error] if result.error else []
    return [] if result.ok else [f"The self-test failed: {'; '.join(problems) or 'no language was tried'}."]
