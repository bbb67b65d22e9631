"""A real server process: how it starts, what it says, and how signals end it."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from app import VERSION
from app.banner import banner
from app.config.deployments import Deployments
from app.main import create_app
from tests.support.audio import wav_of
from tests.support.fake_pool import FakePool
from tests.support.server import fake_settings, wait_until_live
from tests.support.waiting import LIMIT, wait_until

ROOT = Path(__file__).resolve().parents[2]
RUN = "import sys; from pathlib import Path; from app.config.loading import load_settings; "
RUN += "from app.main import run_server; sys.exit(run_server(load_settings(Path(sys.argv[1]))))"
KEY = {"api-key": "k"}


@dataclass
class Process:
    """A running server. said: its standard output so far."""

    popen: subprocess.Popen[str]
    said: list[str] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        self.popen.send_signal(signal.CTRL_BREAK_EVENT if sys.platform == "win32" else signal.SIGTERM)

    def transcribe(self, wav: bytes) -> httpx.Response:
        path = f"{self.url}/v1/audio/transcriptions"
        return httpx.post(path, headers=KEY, data={"model": "slow"}, files={"file": wav}, timeout=LIMIT)


@contextmanager
def started(tmp_path: Path, more: str = "", before: str = "", launcher: Sequence[str] = ()) -> Iterator[Process]:
    """A server with one fake deployment, "slow", that needs 6 s per request; its temporary folder is tmp_path / "temp".

    before: code that its process runs first; launcher: a program that starts it.
    """
    config = tmp_path / "gateway.toml"
    temp = tmp_path / "temp"
    temp.mkdir(exist_ok=True)
    tables = '[deployments.slow]\nbackend = "fake"\ndelay = 0.3\nsteps = 20\npreload = true\n' + more
    config.write_text(f"offline = true\n[server]\nport = 0\ndrain_seconds = 200\n{tables}", encoding="utf-8")
    popen = subprocess.Popen(
        [*launcher, sys.executable, "-c", before + RUN, str(config)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        encoding="utf-8",
        env=os.environ | {"PYTHONIOENCODING": "utf-8", "TMPDIR": str(temp), "TEMP": str(temp), "TMP": str(temp)},
        creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
    )
    process = Process(popen)
    ready = threading.Event()
    reader = threading.Thread(target=_listen, args=(process, ready), daemon=True)
    reader.start()
    assert ready.wait(LIMIT), process.said
    try:
        yield process
    finally:
        popen.kill()
        popen.wait(LIMIT)
        reader.join(LIMIT)


def _listen(process: Process, ready: threading.Event) -> None:
    with process.popen.stdout as lines:  # type: ignore[union-attr]
        for line in lines:
            process.said.append(line.rstrip())
            if found := re.search(r"at http://127\.0\.0\.1:(\d+)", line):
                process.port = int(found[1])
                ready.set()


def _in_flight(server: Process) -> int:
    return int(httpx.get(f"{server.url}/health").json()["in_flight"])


def _at_work(server: Process) -> int:
    """Jobs that models have begun, whose audio is decoded."""
    deployments = httpx.get(f"{server.url}/health").json()["deployments"]
    return sum(int(row["jobs_active"]) for row in deployments.values())


@pytest.mark.slow
def test_a_signal_drains_while_health_still_answers(tmp_path: Path, wav: bytes) -> None:
    with started(tmp_path) as server, ThreadPoolExecutor() as threads:
        wait_until(lambda: httpx.get(f"{server.url}/health/ready").status_code == 200)
        running = threads.submit(server.transcribe, wav)
        wait_until(lambda: _in_flight(server) == 1)
        server.stop()
        wait_until(lambda: httpx.get(f"{server.url}/health/ready").status_code == 503)
        refused = server.transcribe(wav)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
        assert running.result(LIMIT).status_code == 200
        assert server.popen.wait(LIMIT) == 0


@pytest.mark.slow
def test_a_drain_that_runs_out_of_time_says_so_by_its_exit_code(tmp_path: Path, wav: bytes) -> None:
    more = '[deployments.stuck]\nbackend = "fake"\ndelay = 60\n'
    with started(tmp_path, more) as server, ThreadPoolExecutor() as threads:
        path = f"{server.url}/v1/audio/transcriptions"
        running = threads.submit(
            httpx.post, path, headers=KEY, data={"model": "stuck"}, files={"file": wav}, timeout=LIMIT
        )
        wait_until(lambda: _in_flight(server) == 1)
        server.stop()
        wait_until(lambda: httpx.get(f"{server.url}/health/live").status_code == 200)
        wait_until(lambda: httpx.get(f"{server.url}/health/ready").status_code == 503)
        server.stop()
        assert server.popen.wait(LIMIT) == 4
        with pytest.raises(httpx.HTTPError):
            running.result(LIMIT).raise_for_status()


WITH_NAMES = "from app.media import files as media_files; media_files._can_be_nameless = lambda: False; "
FILES = [pytest.param(WITH_NAMES, id="named"), pytest.param("", id="as-the-system-can")]


@pytest.mark.slow
@pytest.mark.parametrize("before", FILES)
def test_what_a_killed_server_left_goes_when_the_next_one_starts(tmp_path: Path, before: str) -> None:
    temp = tmp_path / "temp"
    with started(tmp_path, before=before) as server, ThreadPoolExecutor() as threads:
        lost = threads.submit(server.transcribe, wav_of(60))
        wait_until((lambda: list(temp.rglob("*.f32"))) if before else (lambda: _at_work(server) == 1))
        server.popen.kill()
        server.popen.wait(LIMIT)
        with pytest.raises(httpx.HTTPError):
            lost.result(LIMIT)
    left = set(temp.iterdir())
    assert left
    assert sys.platform != "linux" or before or not list(temp.rglob("*.f32")), "no audio is left even until then"
    with started(tmp_path):
        wait_until(lambda: not left & set(temp.iterdir()))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("before", FILES)
def test_a_hangup_drains_and_leaves_nothing(tmp_path: Path, before: str) -> None:
    with started(tmp_path, before=before) as server, ThreadPoolExecutor() as threads:
        running = threads.submit(server.transcribe, wav_of(60))
        wait_until(lambda: _in_flight(server) == 1)
        for _ in range(2):  # a closed terminal's shell sends one, the system another
            server.popen.send_signal(signal.SIGHUP)
            wait_until(lambda: httpx.get(f"{server.url}/health/ready").status_code == 503)
        assert running.result(LIMIT).status_code == 200
        assert server.popen.wait(LIMIT) == 0
    assert not list((tmp_path / "temp").iterdir())


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="terminals")
def test_a_closed_terminal_ends_the_server_cleanly(tmp_path: Path, wav: bytes) -> None:
    """The real thing: the system sends the signal, and what the server still wants to say has nowhere to go."""
    import pty

    ours, theirs = pty.openpty()
    name = os.ttyname(theirs)
    # Opening a terminal makes it the controlling one of a session that has none.
    before = f"import os; os.setsid(); t = os.open({name!r}, os.O_RDWR); os.dup2(t, 2); "
    with started(tmp_path, before=before) as server, ThreadPoolExecutor() as threads:
        os.close(theirs)
        running = threads.submit(server.transcribe, wav)
        wait_until(lambda: _in_flight(server) == 1)
        os.close(ours)
        assert running.result(LIMIT).status_code == 200
        assert server.popen.wait(LIMIT) == 0
    assert not list((tmp_path / "temp").iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_nohup_keeps_a_server_alive(tmp_path: Path) -> None:
    with started(tmp_path, launcher=["nohup"]) as server:
        server.popen.send_signal(signal.SIGHUP)
        wait_until(lambda: httpx.get(f"{server.url}/health/ready").status_code == 200)
        assert server.popen.poll() is None
        server.stop()
        assert server.popen.wait(LIMIT) == 0


def test_a_port_that_is_taken_is_a_clear_failure(tmp_path: Path) -> None:
    with started(tmp_path) as server:
        config = tmp_path / "second.toml"
        config.write_text(f"offline = true\n[server]\nport = {server.port}\n", encoding="utf-8")
        command = [sys.executable, "-c", RUN, str(config)]
        second = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT, check=False)
        assert second.returncode == 1
        assert "cannot_listen" in second.stderr
        assert "--port" in second.stderr


def test_the_factory_serves_under_plain_uvicorn(tmp_path: Path, wav: bytes) -> None:
    """With whatever event loop uvicorn picks, which is not ours where uvloop is installed."""
    (tmp_path / "gateway.toml").write_text('[deployments.slow]\nbackend = "fake"\n', encoding="utf-8")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "app.main:create_app", "--factory", "--port", str(port)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "SPEECH_GATEWAY_OFFLINE": "true"}
    with (
        (tmp_path / "log").open("wb") as log,
        subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=log) as popen,
    ):
        process = Process(popen, port=port)
        try:
            wait_until_live(process.url, popen)
            assert process.transcribe(wav).status_code == 200
        finally:
            popen.terminate()
            popen.wait(LIMIT)
    assert "Traceback" not in (tmp_path / "log").read_text(encoding="utf-8")


def test_the_factory_works_for_other_servers_and_is_light(tmp_path: Path) -> None:
    code = (
        "import sys; from app.main import create_app; app = create_app(); "
        "heavy = ('torch', 'transformers', 'onnxruntime', 'soundfile', 'av', 'soxr', 'huggingface_hub', 'gradio'); "
        "print(app.title, [name for name in heavy if name in sys.modules])"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT), "SPEECH_GATEWAY_OFFLINE": "true"}
    answer = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=True,
    )
    assert answer.stdout.strip() == "Speech gateway []"


def test_the_banner_says_what_each_deployment_is_ready_for() -> None:
    settings = fake_settings(server={"port": 8123})
    pool = FakePool(Deployments.from_settings(settings))
    pool.states |= {"fake-asr": "unloaded", "whisper-1": "pulling", "csm-1b": "absent"}
    told = banner(create_app(settings, pool=pool))
    assert f"Speech gateway {VERSION} at http://127.0.0.1:8123" in told
    assert "No API keys are configured: none is needed" in told
    assert "only programs on this machine" in told
    states = told.partition("other names")[0].splitlines()
    lines = {line.split("  ")[1].strip(): line for line in states if line.startswith("  ")}
    assert "ready: fake on cpu in float32" in lines["embedded-tts"]
    assert "loads when it is first asked for" in lines["fake-asr"]
    assert lines["whisper-1"].endswith("pulling openai/whisper-small; embedded-asr answers meanwhile")
    assert "speech-gateway pull csm-1b" in told
    assert "embedded-tts answers meanwhile" in told
    assert "tts-1" in told
    pool.states |= {"embedded-tts": "absent", "embedded-asr": "pulling"}
    assert "answers meanwhile" not in banner(create_app(settings, pool=pool))


def test_the_banner_warns_where_other_machines_can_connect() -> None:
    settings = fake_settings(server={"host": "192.0.2.1", "open_to_network": True})
    told = banner(create_app(settings, pool=FakePool(Deployments.from_settings(settings))))
    assert "any text is accepted as a key, and OTHER MACHINES CAN CONNECT" in told
    keys = [{"name": name, "key": name} for name in ("ann", "bob")]
    settings = fake_settings(server={"host": "192.0.2.1", "api_keys": keys})
    told = banner(create_app(settings, pool=FakePool(Deployments.from_settings(settings))))
    assert "2 API keys are configured." in told
    assert "OTHER MACHINES" not in told


def test_the_version_is_the_packages() -> None:
    assert f'version = "{VERSION}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
