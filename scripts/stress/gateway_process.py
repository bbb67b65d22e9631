"""A gateway in a process of its own that can be asked what it holds: tasks, files, slots, worker processes.

The child (`python scripts/stress/gateway_process.py FILE`) serves on a free port and answers each line on stdin with
one line of JSON; it ends when stdin does. `WatchedGateway` is the other end, for scripts and tests that send clients of
their own.
Knows no client.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from backends import children  # noqa: E402

MARK = "@holdings "  # before each answer: other lines on stdout are for people
SETTLE_SECONDS = 30.0  # for cancelled work to end and replaced processes to come
COUNTED = (
    *("in_flight", "sessions", "reserved_slots", "queued", "active", "jobs", "body_bytes"),
    *("decodes_waiting", "connections", "unread_bytes"),
)
UNEXPECTED = re.compile(
    "internal_error|dispatch_failed|submit_failed|Traceback|was never retrieved|was never awaited|Task was destroyed"
)
_OWN_FRAME = re.compile(rf'File "{re.escape(str(ROOT))}[\\/](?:app|backends)[\\/]')
Holdings = dict[str, Any]


# --- The child --------------------------------------------------------------------------------------------------------


def main() -> None:
    """Serve the configuration file of the command line until stdin ends."""
    import uvicorn

    from app import logs
    from app.config.loading import load_settings
    from app.http.server import _config
    from app.main import create_app

    settings = load_settings(Path(sys.argv[1]))
    logs.configure(settings.log)
    app = create_app(settings)
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    server = uvicorn.Server(_config(app))

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        at = listener.getsockname()[1]
        threading.Thread(target=_answer_lines, args=(server, app, loop, at), daemon=True).start()
        await server.serve([listener])

    asyncio.run(serve())


def _answer_lines(server: Any, app: Any, loop: asyncio.AbstractEventLoop, port: int) -> None:
    while not server.started:
        time.sleep(0.02)
    print(f"{MARK}{json.dumps({'port': port})}", flush=True)
    for _ in sys.stdin:
        answer = asyncio.run_coroutine_threadsafe(_holdings(server, app), loop).result()
        print(f"{MARK}{json.dumps(answer)}", flush=True)
    server.should_exit = True


async def _holdings(server: Any, app: Any) -> Holdings:
    gateway, me = app.state.gateway, psutil.Process()
    pool, media = gateway.pool.snapshot(), gateway.media.snapshot()
    deployments = pool["deployments"]
    workers = {name: one["worker"] for name, one in deployments.items() if one["worker"]}
    others = asyncio.all_tasks() - {asyncio.current_task()}
    return {
        "tasks": dict(Counter(getattr(task.get_coro(), "__qualname__", "?") for task in others)),
        "in_flight": gateway.in_flight,
        "sessions": gateway.realtime.count,
        "reserved_slots": sum(one["reserved_slots"] for one in deployments.values()),
        "queued": sum(one["queued"] for one in deployments.values()),
        "active": sum(one["active"] for one in deployments.values()),
        "jobs": sum(worker["jobs"] for worker in workers.values()),
        "unread_bytes": pool["unread_bytes"],
        "body_bytes": _body_bytes(app.middleware_stack),
        "decodes_waiting": media["waiting"],
        "decoders_free": media["free"],
        "connections": len(server.server_state.connections),
        "temporary": _files_in(Path(tempfile.gettempdir())),
        "files": me.num_fds() if hasattr(me, "num_fds") else me.num_handles(),
        "children": len(me.children(recursive=True)),
        "working": sorted(name for name, worker in workers.items() if worker["working"]),
        "oldest_beat": max((worker["idle_seconds"] for worker in workers.values()), default=0.0),
        "steps": {name: worker["steps"] for name, worker in workers.items()},
        "pids": {name: worker["pid"] for name, worker in workers.items()} | {"decoders": sorted(gateway.media.pids)},
        "rss_mib": round(me.memory_info().rss / (1 << 20), 1),
    }


def _body_bytes(layer: Any) -> int:
    """Held by all uploads, as the guard counts them; it is one of the layers around the app."""
    while not hasattr(layer, "_body_budget"):
        layer = layer.app
    return int(layer._body_budget.held)


def _files_in(folder: Path) -> int:
    return sum(1 for file in folder.rglob("*") if file.is_file())


# --- The other end ----------------------------------------------------------------------------------------------------


class WatchedGateway:
    """A running child. port: where it serves; log: its stderr."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self.process, self.log = process, log
        self._lock = threading.Lock()
        self.port = int(self._read()["port"])

    def holdings(self) -> Holdings:
        """What it holds now."""
        with self._lock:
            assert self.process.stdin is not None
            self.process.stdin.write("\n")
            self.process.stdin.flush()
            return self._read()

    def _read(self) -> Holdings:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(MARK):
                return dict(json.loads(line.removeprefix(MARK)))
        raise SystemExit(f"the gateway ended:\n{self.log.read_text(encoding='utf-8')[-2000:]}")

    def settled(self) -> Holdings:
        """What it holds once nothing is in flight and every worker has had a heartbeat since; else after a long
        wait."""
        ends, quiet_since = time.monotonic() + SETTLE_SECONDS, 0.0
        while True:
            asked = time.monotonic()
            now = self.holdings()
            if any(now[name] for name in (*COUNTED, "working")):
                quiet_since = 0.0
            quiet_since = quiet_since or time.monotonic()
            if asked - quiet_since > now["oldest_beat"] or asked > ends:
                return now
            time.sleep(0.05)

    def remains(self, before: Holdings, *, patience: float = SETTLE_SECONDS) -> list[str]:
        """What is held against `before`, once it has had time to go; [] = nothing."""
        ends = time.monotonic() + patience
        while (wrong := _differences(before, self.settled())) and time.monotonic() < ends:
            pass
        return wrong

    def problems(self) -> list[str]:
        """Lines of the log that no client's behaviour should cause."""
        return unexpected(self.log.read_text(encoding="utf-8"))


def unexpected(log: str) -> list[str]:
    """Lines that tell of a failure. Gradio prints the traceback of each call whose values it cannot use: one without a
    frame of our own is none."""
    lines: list[str] = []
    for of_our_log, block in groupby(log.splitlines(), key=lambda line: line.startswith("{")):
        text = list(block)
        if not of_our_log and "gradio" in "".join(text) and not any(map(_OWN_FRAME.search, text)):
            text = [line for line in text if not line.startswith("Traceback")]
        lines += [line[:300] for line in text if UNEXPECTED.search(line)]
    return lines


def _differences(before: Holdings, now: Holdings) -> list[str]:
    """Fewer open files or tasks are no loss."""
    wrong = [f"{name}: {now[name]}" for name in (*COUNTED, "working") if now[name]]
    wrong += [
        f"{name}: {before[name]} before, {now[name]} now"
        for name in ("files", "children", "temporary")
        if now[name] > before[name]
    ]
    wrong += [f"task {name}: {n} now" for name, n in now["tasks"].items() if n > before["tasks"].get(name, 0)]
    if now["decoders_free"] < before["decoders_free"]:
        wrong.append(f"decoders free: {before['decoders_free']} before, {now['decoders_free']} now")
    return wrong


@contextmanager
def watched_gateway(config: str, folder: Path) -> Iterator[WatchedGateway]:
    """A gateway with this TOML text, and its own folder for temporary files, until the block ends."""
    temporary, file, log = folder / "temporary", folder / "gateway.toml", folder / "gateway.log"
    temporary.mkdir()
    file.write_text(config, encoding="utf-8")
    environment = children.environment(extra=dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(temporary)))
    with log.open("w", encoding="utf-8") as errors:
        process = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve()), str(file)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=environment, cwd=ROOT, encoding="utf-8",
        )  # fmt: skip
        try:
            yield WatchedGateway(process, log)
        finally:
            _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    try:
        process.wait(40)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()


if __name__ == "__main__":
    main()
