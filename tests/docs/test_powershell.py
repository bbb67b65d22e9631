"""setup.ps1 and run.ps1: both parse, call only what exists, and avoid what Windows PowerShell 5.1 cannot do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import tree_sitter
import tree_sitter_powershell

from scripts import bootstrap, provision

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ("setup.ps1", "run.ps1")
# Commands of Windows PowerShell 5.1 that the scripts may use, with the parameters that they may give.
CMDLETS = {
    "Get-Command": {"-ErrorAction"},
    "Join-Path": set(),
    "New-Object": set(),
    "Select-Object": {"-Skip"},
    "Set-Location": {"-LiteralPath"},
    "Test-Path": {"-LiteralPath"},
    "Write-Host": set(),
    "Write-Verbose": set(),
}
PARSER = tree_sitter.Parser(tree_sitter.Language(tree_sitter_powershell.language()))


def nodes(source: bytes, kind: str = "") -> Iterator[tree_sitter.Node]:
    waiting = [PARSER.parse(source).root_node]
    while waiting:
        node = waiting.pop()
        waiting += reversed(node.children)
        if kind in ("", node.type):
            yield node


def words(command: tree_sitter.Node) -> list[str]:
    """The command's name and arguments as they are written."""
    name = command.child_by_field_name("command_name")
    elements = command.child_by_field_name("command_elements")
    parts = [] if elements is None else [c.text.decode() for c in elements.children if c.type != "command_argument_sep"]
    return [name.text.decode() if name is not None else "", *parts]


def faults(source: bytes) -> list[str]:
    """What Windows PowerShell 5.1 would stumble over."""
    found = [
        f"line {n.start_point[0] + 1}: {n.text.decode()[:40]}"
        for n in nodes(source)
        if n.type == "ERROR" or n.is_missing
    ]
    found += [f"pipeline chain: {n.text.decode()}" for n in nodes(source, "pipeline_chain_operator")]
    found += [f"chain: {n.text.decode()}" for n in nodes(source) if n.type in ("&&", "||", "??", "??=", "?.")]
    if not source.isascii():
        found.append("not ASCII: 5.1 reads a script without a byte order mark in the system's code page")
    return found


def functions(source: bytes) -> set[str]:
    return {node.text.decode() for node in nodes(source, "function_name")}


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_scripts_parse_and_suit_5_1(script: str) -> None:
    assert faults((ROOT / script).read_bytes()) == []


@pytest.mark.parametrize("source", ["a && b", "a || b", "$x = $y ? 1 : 2", "$x ?? 1", "if ($x {", "Write-Host 'é'"])
def test_the_check_finds_what_5_1_cannot_do(source: str) -> None:
    assert faults(source.encode())


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_command_exists(script: str) -> None:
    source = (ROOT / script).read_bytes()
    known = CMDLETS.keys() | functions(source)
    for command in nodes(source, "command"):
        name, *arguments = words(command)
        if name.startswith("$"):
            continue  # the interpreter, looked at below
        assert name in known, name
        given = {part for part in arguments if re.match(r"-[A-Za-z]", part)}
        assert given <= CMDLETS.get(name, set()), (name, given)


def bootstrap_calls(script: str) -> Iterator[list[str]]:
    for command in nodes((ROOT / script).read_bytes(), "command"):
        parts = words(command)
        if "scripts/bootstrap.py" in parts:
            yield parts[parts.index("scripts/bootstrap.py") + 1 :]


def with_values(arguments: list[str], accelerator: str) -> list[str]:
    values = {
        "$Accelerator": [accelerator],
        "$OnnxRuntime": ["directml"],
        '"--extras=$Extras"': ["--extras=ui"],
        "'--'": ["--"],
        "@args": ["--port", "8123"],
    }
    return [value for part in arguments for value in values.get(part, [part])]


def accelerators() -> list[str]:
    return choices("Accelerator")


def choices(parameter: str) -> list[str]:
    """What setup.ps1 takes for a parameter."""
    text = (ROOT / "setup.ps1").read_text(encoding="utf-8")
    found = re.search(rf"ValidateSet\(([^)]*)\)\]\s*\[string\]\${parameter}\b", text)
    return re.findall(r"'([^']+)'", found[1]) if found else []


def test_the_accelerators_are_those_of_the_rules() -> None:
    assert accelerators() == ["auto", "directml", "torch-directml", "cuda", "cpu"]
    assert set(accelerators()) <= set(provision.ACCELERATORS)
    for accelerator in accelerators():
        assert provision.plan_setup(provision.Machine("Windows", ""), accelerator, {}, []).plans


def test_the_packages_of_onnxruntime_are_those_that_can_be_chosen() -> None:
    assert tuple(choices("OnnxRuntime")) == provision.onnx_carrier.CHOICES


@pytest.mark.parametrize("script", SCRIPTS)
def test_options_of_bootstrap_exist(script: str) -> None:
    calls = list(bootstrap_calls(script))
    assert calls
    for call in calls:
        for accelerator in accelerators():
            parsed = bootstrap.make_parser().parse_args(with_values(call, accelerator))
            assert parsed.command in ("setup", "run")


def test_options_given_to_run_exist_in_the_command_line() -> None:
    """The examples in run.ps1's help."""
    from typer.testing import CliRunner

    from app.cli import cli

    told = CliRunner().invoke(cli, ["serve", "--help"]).output
    for option in re.findall(r"\\run\.ps1.*?(--[a-z-]+)", (ROOT / "run.ps1").read_text(encoding="utf-8")):
        assert option in told


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_console_is_set_to_utf8(script: str) -> None:
    text = (ROOT / script).read_text(encoding="utf-8")
    assert "[Console]::OutputEncoding" in text
    assert "$env:PYTHONUTF8 = '1'" in text
