"""`speech-gateway doctor`: what is there, what is missing, what will run where and why."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import typer

from app.commands import examination as look
from app.commands.connection import Config
from app.commands.console import FAILED, WRONG_USE, fail, output, print_table, size_text
from app.deployments import Deployments
from app.settings import ConfigError, load_settings
from backends.devices import DeviceManager
from backends.inventory import Inventory


def doctor(
    config: Config = None,
    self_test: Annotated[
        bool, typer.Option("--self-test", help="Also speak a set of sentences and recognise them; each must come back exactly.")
    ] = False,
) -> None:
    """Examine this machine and installation. Exit status 1 if something that should work does not."""
    try:
        settings = load_settings(config)
        deployments = Deployments.from_settings(settings)
    except ConfigError as error:
        fail(str(error), WRONG_USE)
    problems: list[str] = []
    _title("System")
    _pairs([*look.system_lines(settings), ("port", look.port_line(settings))])
    _title("Libraries")
    print_table(("library", "version", "for"), look.library_lines())
    inventory, trouble = look.probe_devices()
    problems += [trouble] if trouble else []
    manager = DeviceManager(settings.devices.memory_budget, inventory=inventory)
    _devices(manager.inventory)
    _deployments(look.outlooks(deployments.values(), manager, {}))
    if self_test:
        problems += _self_test()
    _title("Result")
    for problem in problems:
        output().print(problem)
    if problems:
        raise typer.Exit(FAILED)
    output().print("Nothing is wrong." + ("" if self_test else " Hear and be heard: speech-gateway doctor --self-test"))


def _title(text: str) -> None:
    output().print(f"\n{text}")


def _pairs(pairs: Iterable[tuple[str, str]]) -> None:
    for name, value in pairs:
        output().print(f"  {name + ':':18} {value}")


def _devices(inventory: Inventory) -> None:
    _title(f"Devices ({inventory.cores} physical cores)")
    rows = [
        (d.id, d.name, size_text(d.memory_total), ", ".join(d.dtypes), ", ".join(d.libraries), d.driver)
        for d in inventory.devices
    ]
    print_table(("device", "name", "memory", "numbers", "used by", "driver"), rows)
    for kind, why in inventory.notes:
        output().print(f"  no {kind}: {why}")


def _deployments(outlooks: Iterable[look.Outlook]) -> None:
    _title("Deployments")
    for one in outlooks:
        state = "ready" if one.ready else "not yet"
        output().print(f"  {one.name}: {state}, {one.where}" + (f" ({one.reason})" if one.reason else ""))
        if one.cure:
            output().print(f"      to change that: {one.cure}")


def _self_test() -> list[str]:
    """Prints what happened; the problems."""
    _title("Self-test: espeak-ng speaks, pocketsphinx recognises from a closed list")
    result = look.run_self_test()
    if result.ok:
        output().print(f"  {result.passed} of {result.passed} sentences came back exactly.")
        return []
    for said, heard in result.failed:
        output().print(f"  said: {said}\n  heard: {heard or 'nothing'}")
    return [f"The self-test failed: {result.error or f'{len(result.failed)} sentences did not come back'}."]
