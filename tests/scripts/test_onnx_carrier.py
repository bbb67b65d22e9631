"""The package that brings onnxruntime on Windows: the default, its fallback, and never two of them."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from scripts import provision
from scripts.provision import Plan, SetupError, onnx_carrier

DEFAULT, FALLBACK = "onnxruntime-windowsml", "onnxruntime-directml"
CORE = f"""\
onnx==1.19.0 \\
    --hash=sha256:01
onnxruntime==1.32.0 ; sys_platform != 'win32' \\
    --hash=sha256:02
{DEFAULT}==1.30.0 ; sys_platform == 'win32' \\
    --hash=sha256:03 \\
    --hash=sha256:04
packaging==26.0 \\
    --hash=sha256:05
"""


class WindowsProject:
    """A project folder on a machine that says it is Windows; stands in for uv and for an import of onnxruntime."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.gone, self.refused = folder, set[str](), set[str]()
        self.site = folder / ".venv" / "Lib" / "site-packages"

    def run(self, command: list[str], _: object = None) -> None:
        if "venv" in command:
            provision.environment_python(self.folder / ".venv").parent.mkdir(parents=True)
            provision.environment_python(self.folder / ".venv").touch()
        elif "uninstall" in command:
            for name in command[command.index("--python") + 2 :]:
                self._record(name).rmdir()
        elif "--require-hashes" in command:
            self._install([Path(a) for o, a in itertools.pairwise(command) if o == "--requirements"])

    def _install(self, lists: list[Path]) -> None:
        text = "".join(file.read_text(encoding="utf-8") for file in lists)
        wanted = [name for name in (DEFAULT, FALLBACK) if f"{name}==" in text]
        assert len(wanted) == 1
        assert all(f"sha256:0{digit}" in text for digit in (1, 2, 5))
        if wanted[0] in self.gone:
            raise SetupError(f"{wanted[0]} is not on the index")
        self._record(wanted[0]).mkdir(parents=True, exist_ok=True)

    def _record(self, name: str) -> Path:
        return self.site / f"{name.replace('-', '_')}-1.dist-info"

    @property
    def present(self) -> set[str]:
        return {path.name.partition("-")[0].replace("_", "-") for path in self.site.glob("*.dist-info")}

    def loads(self, _: str) -> bool:
        assert len(self.present) == 1
        return not self.present & self.refused


@pytest.fixture
def windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WindowsProject:
    project = WindowsProject(tmp_path)
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "requirements").mkdir()
    for name, text in {"core": CORE, "embedded": "espeak==1\n", FALLBACK: f"{FALLBACK}==1.24.4\n"}.items():
        (tmp_path / "requirements" / f"{name}.txt").write_text(text, encoding="utf-8")
    monkeypatch.setattr(provision, "ROOT", tmp_path)
    monkeypatch.setattr(provision, "REQUIREMENTS", tmp_path / "requirements")
    monkeypatch.setattr(provision, "find_uv", lambda: "uv")
    monkeypatch.setattr(provision, "run_command", project.run)
    monkeypatch.setattr(onnx_carrier.platform, "system", lambda: "Windows")
    monkeypatch.setattr(onnx_carrier, "_site_packages", lambda environment: environment / "Lib" / "site-packages")
    monkeypatch.setattr(onnx_carrier, "loads", project.loads)
    return project


def test_windows_gets_the_default(windows: WindowsProject) -> None:
    provision.install(Plan(("embedded",)))
    assert windows.present == {DEFAULT}


@pytest.mark.parametrize("fault", ["gone", "refused"])
def test_the_fallback_takes_its_place_and_stays(
    windows: WindowsProject, fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    getattr(windows, fault).add(DEFAULT)
    provision.install(Plan(("embedded",)))
    assert windows.present == {FALLBACK}
    assert f"Taking {FALLBACK} in its place" in capsys.readouterr().out
    getattr(windows, fault).clear()
    provision.install(Plan(()))  # another plan in the same environment
    assert windows.present == {FALLBACK}
    (windows.folder / "pyproject.toml").write_text("# changed", encoding="utf-8")
    provision.install(Plan(("embedded",)))
    assert windows.present == {DEFAULT}


def test_the_user_may_choose_and_change_it(windows: WindowsProject) -> None:
    plan = Plan(("embedded",))
    for choice, expected in (("directml", FALLBACK), ("auto", FALLBACK), ("windowsml", DEFAULT), ("auto", DEFAULT)):
        provision.install(plan, choice)
        assert windows.present == {expected}


def test_an_installation_of_before_changes_over(windows: WindowsProject) -> None:
    """It holds the old package, whose files have the names of the new one's."""
    windows.run(["uv", "venv", str(windows.folder / ".venv")])
    windows._record(FALLBACK).mkdir(parents=True)
    provision.install(Plan(("embedded",)))
    assert windows.present == {DEFAULT}


def test_what_fails_for_another_reason_is_told(windows: WindowsProject) -> None:
    windows.gone |= {DEFAULT, FALLBACK}
    with pytest.raises(SetupError, match="not on the index"):
        provision.install(Plan(("embedded",)))
    assert not (windows.folder / ".venv" / "bootstrap.json").exists()


def test_the_record_belongs_to_these_lists(windows: WindowsProject) -> None:
    provision.install(Plan(("embedded",)), "directml")
    record = json.loads((windows.folder / ".venv" / "bootstrap.json").read_text(encoding="utf-8"))
    assert record["onnxruntime"] == f"directml {provision._content_hash()}"


def test_the_fallback_has_a_locked_list() -> None:
    text = (provision.REQUIREMENTS / f"{FALLBACK}.txt").read_text(encoding="utf-8")
    assert f"{FALLBACK}==1.24.4 ; sys_platform == 'win32'" in text
    assert DEFAULT in (provision.REQUIREMENTS / "core.txt").read_text(encoding="utf-8")
    assert not onnx_carrier.loads("no-such-interpreter")
