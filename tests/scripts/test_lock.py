"""The locked lists under requirements/: they belong to pyproject.toml, name no host, and every file has hashes."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from scripts import lock

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
WEIGHTS = lock.weight_packages(PYPROJECT)
FALLBACKS = lock.fallbacks(PYPROJECT)
NAMES = [*lock.FILES, *WEIGHTS, *FALLBACKS, "torch-build", "build"]
TOGETHER = [name for name in NAMES if name not in ("directml", "build")]  # may lie in one environment


def _stanzas(name: str) -> lock.Stanzas:
    return lock.stanzas((ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8"))


def _pinned(*names: str) -> dict[str, set[str]]:
    """Versions by canonical name; a package has several where they differ by platform or Python."""
    found: dict[str, set[str]] = {}
    for name in names:
        for line in _stanzas(name):
            one = Requirement(line)
            (version,) = (part.version for part in one.specifier)
            found.setdefault(canonicalize_name(one.name), set()).add(version)
    return found


def test_there_is_one_list_for_each_extra_and_name_of_weights() -> None:
    assert {file.stem for file in (ROOT / "requirements").glob("*.txt")} == set(NAMES)
    assert set(PYPROJECT["project"]["optional-dependencies"]) <= set(lock.FILES)


@pytest.mark.parametrize("name", NAMES)
def test_a_list_was_written_from_this_pyproject(name: str) -> None:
    head, _, rest = (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8").partition("\n")
    assert lock.fingerprint(PYPROJECT) in head, "pyproject.toml has changed; run: make lock"
    assert "://" not in rest
    assert not re.search(r"^\s*(-i|-f|-e|--index|--extra-index|--find-links)\b", rest, re.MULTILINE)


@pytest.mark.parametrize("name", NAMES)
def test_every_package_is_pinned_with_hashes(name: str) -> None:
    stanzas = _stanzas(name)
    assert stanzas
    for line, block in stanzas.items():
        assert re.match(r"[\w.-]+==[^ ;]+( ; .+)?$", line)
        assert len(re.findall(r"--hash=sha256:[0-9a-f]{64}", block)) == block.count("\n") >= 1, line


def _required(extra: str) -> list[Requirement]:
    project = PYPROJECT["project"]
    tables = {"": project["dependencies"], **project["optional-dependencies"], **WEIGHTS, **FALLBACKS}
    return [Requirement(line) for line in tables[extra]]


@pytest.mark.parametrize("extra", ["", *PYPROJECT["project"]["optional-dependencies"], *WEIGHTS, *FALLBACKS])
def test_the_pins_are_what_pyproject_allows(extra: str) -> None:
    lists = ["directml"] if extra == "directml" else ["core", *([extra] if extra else []), "torch-build"]
    pinned = _pinned(*lists)
    for one in _required(extra):
        versions = pinned[canonicalize_name(one.name)]
        assert any(one.specifier.contains(version) for version in versions), one


def test_lists_that_are_installed_together_agree() -> None:
    """The same package stands in two of them with the same versions or not at all."""
    once: dict[str, set[str]] = {}
    for name in TOGETHER:
        for package, versions in _pinned(name).items():
            assert once.setdefault(package, versions) == versions, f"{name}: {package}"


@pytest.mark.parametrize(
    ("table", "value"),
    [("dependencies", ["a"]), ("optional-dependencies", {"x": ["a"]}), ("requires-python", ">=3.12")],
)
def test_what_decides_versions_changes_the_fingerprint(table: str, value: object) -> None:
    changed = {**PYPROJECT, "project": {**PYPROJECT["project"], table: value}}
    assert lock.fingerprint(changed) != lock.fingerprint(PYPROJECT)
    renamed = {**PYPROJECT, "project": {**PYPROJECT["project"], "description": "another"}}
    assert lock.fingerprint(renamed) == lock.fingerprint(PYPROJECT)


def test_a_requirement_stands_in_one_list_only() -> None:
    core = "a==1 \\\n    --hash=sha256:00"
    torch = "torch==2 \\\n    --hash=sha256:01\nnvidia-x==3 \\\n    --hash=sha256:02\nb==4 \\\n    --hash=sha256:03"
    whole = lock.stanzas(f"{core}\n{torch}\n")
    exported = {"core": lock.stanzas(core), "torch": whole, "dev": whole, "directml": whole}
    files = {name: list(blocks) for name, blocks in lock.split(exported).items()}
    assert files == {
        "torch-build": ["torch==2", "nvidia-x==3"],
        "core": ["a==1"],
        "torch": ["b==4"],
        "dev": [],
        "directml": ["a==1", "torch==2", "nvidia-x==3", "b==4"],
    }
