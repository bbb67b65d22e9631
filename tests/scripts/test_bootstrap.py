"""The commands behind the Makefile, setup.ps1 and run.ps1."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from scripts import bootstrap
from tests.support.server import Running
from tests.support.waiting import LIMIT, wait_until

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("options", "settings", "environment", "address"),
    [
        ([], {}, {}, "http://127.0.0.1:8000"),
        ([], {"server": {"port": 8200, "host": "::"}}, {}, "http://[::1]:8200"),
        ([], {"server": {"port": 8200}}, {"SPEECH_GATEWAY_SERVER__PORT": "8300"}, "http://127.0.0.1:8300"),
        (["--port", "8400"], {"server": {"port": 1}}, {"SPEECH_GATEWAY_SERVER__PORT": "2"}, "http://127.0.0.1:8400"),
        (["--port=8500", "--host=192.168.0.2"], {}, {}, "http://192.168.0.2:8500"),
    ],
)
def test_the_address_is_the_one_the_server_takes(
    options: list[str], settings: dict[str, object], environment: dict[str, str], address: str
) -> None:
    assert bootstrap.server_address(options, settings, environment) == address


def test_waiting_ends_when_the_server_is_ready(server: Running) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        assert bootstrap.wait_until_ready(process, server.url, LIMIT)
        process.communicate(b"\n")


def test_waiting_ends_when_the_server_dies() -> None:
    with subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"]) as process:
        assert not bootstrap.wait_until_ready(process, "http://127.0.0.1:9", seconds=LIMIT)


class _Child:
    """A process that ends when it is waited for the second time."""

    def __init__(self, ended: int | None = None) -> None:
        self.ended, self.waits = ended, 0

    def poll(self) -> int | None:
        return self.ended

    def wait(self) -> int:
        self.waits += 1
        if self.waits == 1:
            raise KeyboardInterrupt
        return 7


def test_ctrl_c_before_it_is_ready_waits_for_the_server_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> bool:
        raise KeyboardInterrupt

    child = _Child()
    monkeypatch.setattr(bootstrap, "environment_python", lambda _: Path(__file__))
    monkeypatch.setattr(bootstrap.subprocess, "Popen", lambda *_, **__: child)
    monkeypatch.setattr(bootstrap, "wait_until_ready", interrupted)
    assert bootstrap.main(["run"]) == 7
    assert child.waits == 2


def test_a_server_that_takes_long_is_not_called_ready(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bootstrap, "wait_until_ready", lambda *_: False)
    bootstrap._say_when_ready(_Child(), "http://127.0.0.1:1")  # type: ignore[arg-type]
    bootstrap._say_when_ready(_Child(ended=1), "http://127.0.0.1:2")  # type: ignore[arg-type]
    told = capsys.readouterr().out
    assert "127.0.0.1:1/health tells why" in told
    assert "127.0.0.1:2" not in told


def test_server_options_reach_the_server_in_order() -> None:
    arguments = bootstrap.make_parser().parse_args(["serve", "--port", "8123", "--extras", "", "--", "--offline"])
    assert bootstrap._server_options(arguments) == ["--port", "8123", "--offline"]
    arguments = bootstrap.make_parser().parse_args(["run", "--", "--port", "8123", "--config", "my.toml"])
    assert bootstrap._server_options(arguments) == ["--port", "8123", "--config", "my.toml"]


def test_the_directml_worker_is_written_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from app.config.deployments import Deployments
    from app.config.loading import load_settings

    monkeypatch.setattr(bootstrap, "ROOT", tmp_path)
    bootstrap._set_directml_worker()
    written = tmp_path / "gateway.toml"
    whisper = Deployments.from_settings(load_settings(written))["whisper-1"]
    assert (whisper.engine, whisper.device) == ("torch", "directml:0")
    assert ".venv-directml" in whisper.python
    written.write_text("# mine\n", encoding="utf-8")
    bootstrap._set_directml_worker()
    assert written.read_text(encoding="utf-8") == "# mine\n"
    assert "Add this to gateway.toml" in capsys.readouterr().out


def test_busy_cores_compute_until_the_block_ends() -> None:
    with bootstrap.busy_cores(2) as spinners:
        for spinner in spinners:
            process = psutil.Process(spinner.pid)
            wait_until(lambda process=process: process.cpu_times().user > 0.2)
    assert all(spinner.returncode is not None for spinner in spinners)


def test_a_busy_core_is_free_again_when_its_owner_is_gone() -> None:
    """As after a kill, which lets nobody tidy up: the system closes the pipe."""
    with bootstrap.busy_cores(1) as (spinner,):
        assert spinner.stdin
        spinner.stdin.close()
        assert spinner.wait(LIMIT) == 0


def test_the_busy_lane_runs_the_tests_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []
    monkeypatch.setattr(bootstrap, "install", lambda _plan: None)
    monkeypatch.setattr(bootstrap, "install_weights", lambda: ran.append(["the packages of weights"]))
    monkeypatch.setattr(bootstrap, "run_command", ran.append)
    assert bootstrap.main(["test", "--busy", "--", "-k", "media"]) == 0
    weights, command = ran
    assert weights == ["the packages of weights"]
    assert command[1:4] == ["-P", "-m", "pytest"]
    assert command[-2:] == ["-k", "media"]


def test_nothing_installed_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bootstrap, "ROOT", tmp_path)
    assert bootstrap.main(["run"]) == 1
    assert "first" in capsys.readouterr().err


def test_it_runs_with_the_standard_library_alone() -> None:
    """-I -S: no site-packages, as on a fresh machine."""
    answer = subprocess.run(
        [sys.executable, "-I", "-S", "scripts/bootstrap.py", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert answer.returncode == 0, answer.stderr
    assert "serve" in answer.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="make is not part of Windows")
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["serve", "PORT=8123"], ["serve", "--port", "8123"]),
        (
            ["serve", "HOST=192.168.0.2", "CONFIG=my.toml", "EXTRAS=torch ui"],
            ["--host", "--config", "my.toml", "torch ui"],
        ),
        (["test", "ARGS=-k media"], ["test", "--", "-k media"]),
        (["check"], ["test --checks-only"]),
        (["setup", "EXTRAS=torch"], ["setup", "torch"]),
    ],
)
def test_make_targets_call_commands_that_exist(arguments: list[str], expected: list[str]) -> None:
    import shlex

    # The tests themselves may run under make, which then says where it enters and leaves.
    command = ["make", "-n", "--no-print-directory", *arguments]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=LIMIT).stdout
    assert all(part in told.replace('"', "") for part in expected), told
    words = shlex.split(told)
    bootstrap.make_parser().parse_args(words[words.index("scripts/bootstrap.py") + 1 :])
