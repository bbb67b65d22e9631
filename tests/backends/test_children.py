"""Children run our code and nobody else's: not files of the working folder, not what Python's variables name."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from backends import children
from backends.privacy import NO_TELEMETRY

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(path for folder in ("app", "backends", "scripts") for path in (ROOT / folder).rglob("*.py"))
# They run before anything is installed, so they cannot import `backends`.
STANDARD_LIBRARY_ONLY = {
    "bootstrap.py",
    "emulation.py",
    "onnx_carrier.py",
    "provision.py",
    "windows_lane.py",
    "windows_runtime.py",
}
SHOW = "import json, os, sys; print(json.dumps([dict(os.environ), sys.path, sys.stdin.read()]))"


def _shown(variables: dict[str, str], stdin: bytes = b"") -> tuple[dict[str, str], list[str], str]:
    done = children.run(children.command_of_program(SHOW), variables, seconds=60, stdin=stdin)
    environment, path, text = json.loads(done.stdout)
    return environment, path, text


def test_no_variable_of_python_changes_what_a_child_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text("print('run')", encoding="utf-8")
    for name in ("PYTHONPATH", "PYTHONSTARTUP", "PYTHONINSPECT", "PYTHONBREAKPOINT", "PYTHONUSERBASE", "pythonpath"):
        monkeypatch.setenv(name, str(tmp_path))
    environment, path, _ = _shown(children.environment())
    assert environment["PYTHONPATH"] == str(ROOT)
    assert not {"PYTHONSTARTUP", "PYTHONINSPECT", "PYTHONBREAKPOINT", "PYTHONUSERBASE", "pythonpath"} & set(environment)
    assert "" not in path
    assert str(tmp_path) not in path


def test_files_of_the_working_folder_are_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("av.py", "json.py", "app/__init__.py", "backends/__init__.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("import sys; sys.exit('a file of the working folder was run')", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    done = children.run(children.command("app.cli", "--version"), children.environment(), seconds=60)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"speech-gateway ")


def test_a_child_without_secrets_gets_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("HF_TOKEN", "AZURE_OPENAI_API_KEY", "SPEECH_GATEWAY_SERVER__HOST", "DB_PASSWORD")
    for name in names:
        monkeypatch.setenv(name, "secret")
    assert not [name for name in names if name in children.environment(secrets=False)]
    assert children.environment()["HF_TOKEN"] == "secret"


def test_threads_hub_and_more_are_set_where_asked() -> None:
    environment = children.environment(threads=3, offline=True, extra={"MINE": "1"})
    assert {environment[name] for name in children.THREAD_VARIABLES} == {"3"}
    assert (environment["HF_HUB_OFFLINE"], environment["MINE"]) == ("1", "1")


def test_stdin_reaches_the_child() -> None:
    assert _shown(children.environment(), b"a key")[2] == "a key"


async def test_a_child_that_takes_too_long_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    program = "import time; time.sleep(600)"
    started: list[int] = []
    real = children.start

    async def noting(*arguments: object, **options: object) -> object:
        process = await real(*arguments, **options)  # type: ignore[arg-type]
        started.append(process.pid)
        return process

    monkeypatch.setattr(children, "start", noting)
    with pytest.raises(TimeoutError):
        await children.run_async(children.command_of_program(program), children.environment(), seconds=0.5)
    assert len(started) == 1
    assert not psutil.pid_exists(started[0])


async def test_what_an_asynchronous_child_prints_and_how_it_ends() -> None:
    program = "import sys; print(sys.stdin.read()); sys.exit(3)"
    done = await children.run_async(
        children.command_of_program(program), children.environment(), seconds=60, stdin=b"in"
    )
    assert (done.returncode, done.stdout.strip()) == (3, b"in")


@pytest.mark.skipif(sys.platform == "win32", reason="an exit status is not taken away there")
async def test_a_kill_leaves_the_exit_status_of_a_child_that_had_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    killed, real = threading.Event(), os.waitpid

    def late(pid: int, options: int) -> tuple[int, int]:
        """The event loop's watcher, which comes to it only now."""
        assert killed.wait(60)
        return real(pid, options)

    monkeypatch.setattr(os, "waitpid", late)
    none = subprocess.DEVNULL
    process = await children.start(
        children.command_of_program("raise SystemExit(7)"),
        children.environment(),
        stdin=none,
        stdout=none,
        stderr=none,
    )
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # noqa: ASYNC222 # nothing may run before
    children.kill(process)
    killed.set()
    assert await process.wait() == 7


@pytest.mark.parametrize("module", ["backends.whisper.config", "app.main", "app.media.worker"])
def test_whatever_is_imported_first_telemetry_is_off(module: str) -> None:
    program = f"import {module}, json, os; print(json.dumps(dict(os.environ)))"
    on = {name: value for name, value in os.environ.items() if name not in NO_TELEMETRY} | {
        "ORT_DISABLE_TELEMETRY": "0"
    }
    printed = subprocess.run([sys.executable, "-c", program], env=on, cwd=ROOT, capture_output=True, check=True).stdout
    assert json.loads(printed).items() >= NO_TELEMETRY.items()


def _lists(path: Path) -> Iterator[list[str]]:
    """The literal texts of every list and tuple in a file, and its `sys.executable`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.List | ast.Tuple):
            yield [_text(item) for item in node.elts]


def _text(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    return "sys.executable" if ast.unparse(node) == "sys.executable" else ""


def _unsafe(parts: list[str], path: Path) -> bool:
    """A Python command line: it must say that neither the working folder nor PYTHONPATH comes first."""
    for option in ("-m", "-c"):
        if option in parts:
            return path.name not in STANDARD_LIBRARY_ONLY or not {"-P", "-I"} & set(parts[: parts.index(option)])
    return False


def test_no_other_place_starts_python_on_a_module() -> None:
    own = ROOT / "backends" / "children.py"
    found = [(path, parts) for path in SOURCES if path != own for parts in _lists(path)]
    wrong = [f"{path.relative_to(ROOT)}: {parts}" for path, parts in found if _unsafe(parts, path)]
    assert not wrong
