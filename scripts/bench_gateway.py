"""What the gateway itself costs, measured in one run: CPU per request against bare FastAPI, health while a worker is
busy, start, and 50 clients above capacity.

    python scripts/bench_gateway.py                    all of it
    python scripts/bench_gateway.py cost live start    some of it
    python scripts/bench_gateway.py overload --seconds 30

Prints a table and a line of JSON. The client runs on the same machine; only the CPU clock of the server's process
counts.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import wave
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


UPLOAD_BYTES = 1_000_000
GOALS = {
    "no-op / bare": 1.5,
    "worker / bare": 2.0,
    "live p99 ms": 20.0,
    "start s": 1.0,
    "rss MB": 120.0,
    "refusal p99 ms": 50.0,
}


# --- The servers that are measured ------------------------------------------------------------------------------------


def bare_app() -> Any:
    """The yardstick: what FastAPI itself needs for an upload and a JSON answer."""
    from typing import Annotated

    from fastapi import FastAPI, Form, UploadFile

    app = FastAPI()

    async def transcribe(file: UploadFile, model: Annotated[str, Form()] = "") -> dict[str, Any]:
        data = await file.read()
        return {"text": "", "usage": {"type": "duration", "seconds": len(data)}}

    # The annotations of a nested function are strings here; FastAPI needs the objects.
    transcribe.__annotations__ = {"file": UploadFile, "model": Annotated[str, Form()], "return": dict[str, Any]}
    app.post("/v1/audio/transcriptions")(transcribe)
    return app


def serve_gateway(noop: bool, port: int, tables: dict[str, Any]) -> None:
    """The gateway; noop: with a deployment that answers at once inside the process, and no decoding."""
    from app import logs
    from app.config.settings import Settings
    from app.http.server import serve
    from app.main import create_app
    from scripts.bench.no_pool import NoMedia, NoPool

    settings = Settings.model_validate({"offline": True, "server": {"port": port, "drain_seconds": 1}, **tables})
    logs.configure(settings.log)
    app = create_app(settings, pool=NoPool() if noop else None)
    if noop:
        app.state.gateway.media = NoMedia()
    sys.exit(serve(app, settings))


def serve(kind: str, port: int, tables: dict[str, Any]) -> None:
    """Run one of the servers until it is stopped."""
    if kind == "bare":
        import uvicorn

        uvicorn.run(
            bare_app(), port=port, http="httptools", loop="asyncio", ws="none", access_log=False, log_level="warning"
        )
    else:
        serve_gateway(kind == "noop", port, tables)


@contextmanager
def server(kind: str, **tables: Any) -> Iterator[tuple[int, psutil.Process]]:
    """A server in a process of its own, once it answers."""
    port = _free_port()
    command = [sys.executable, __file__, "serve", "--kind", kind, "--port", str(port), "--tables", json.dumps(tables)]
    with tempfile.TemporaryFile() as log, subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log) as process:
        try:
            _until_it_answers(port, "/openapi.json" if kind == "bare" else "/health/live")
            yield port, psutil.Process(process.pid)
        finally:
            process.terminate()
            process.wait(20)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _until_it_answers(port: int, path: str, seconds: float = 60.0) -> None:
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
                connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
                if connection.recv(12).endswith(b"200"):
                    return
        except OSError:
            pass
        time.sleep(0.005)
    raise TimeoutError("the server does not answer")


# --- The client -------------------------------------------------------------------------------------------------------


def upload(size: int) -> bytes:
    """A WAV file of `size` bytes, as a multipart request for the deployment "fake"."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(bytes(size - 44))
    model = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nfake\r\n'
    audio = (
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
        + buffer.getvalue()
        + b"\r\n--b--\r\n"
    )
    return model + audio


def request(path: str, body: bytes = b"") -> bytes:
    head = f"{'POST' if body else 'GET'} {path} HTTP/1.1\r\nHost: localhost\r\napi-key: k\r\n"
    if body:
        head += f"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


class Client:
    """One keep-alive connection."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def __aenter__(self) -> Client:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    async def ask(self, message: bytes) -> tuple[int, float]:
        """Status and seconds from the first byte sent to the last one received."""
        begun = time.perf_counter()
        self._writer.write(message)
        await self._writer.drain()
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        await self._reader.readexactly(length)
        return int(head[9:12]), time.perf_counter() - begun


async def _repeat(port: int, message: bytes, count: int) -> None:
    async with Client(port) as client:
        for _ in range(count):
            status, _ = await client.ask(message)
            assert status == 200, status


# --- The measurements -------------------------------------------------------------------------------------------------


def _cpu_ms(process: psutil.Process) -> float:
    """CPU time of all threads so far; from the scheduler's clock where there is one, because cpu_times ticks in 10
    ms."""
    tasks = Path(f"/proc/{process.pid}/task")
    if not tasks.is_dir():
        return 1000 * float(sum(process.cpu_times()[:2]))
    return sum(int((task / "schedstat").read_text(encoding="ascii").split()[0]) for task in tasks.iterdir()) / 1e6


def cost(rounds: int, requests: int) -> dict[str, float]:
    """CPU ms per request of the three servers, median of interleaved rounds."""
    message = request("/v1/audio/transcriptions", upload(UPLOAD_BYTES))
    fake = {"deployments": {"fake": {"backend": "fake", "task": "transcription", "steps": 1, "keep_alive": -1}}}
    taken: dict[str, list[float]] = {"bare": [], "noop": [], "worker": []}
    with server("bare") as bare, server("noop", **fake) as noop, server("worker", **fake) as worker:
        all_servers = {"bare": bare, "noop": noop, "worker": worker}
        for port, _ in all_servers.values():
            asyncio.run(_repeat(port, message, 20))
        for _ in range(rounds):
            for name, (port, process) in all_servers.items():
                before = _cpu_ms(process)
                asyncio.run(_repeat(port, message, requests))
                taken[name].append((_cpu_ms(process) - before) / requests)
    ms = {name: statistics.median(values) for name, values in taken.items()}
    return {
        "bare CPU ms": ms["bare"],
        "no-op CPU ms": ms["noop"],
        "worker CPU ms": ms["worker"],
        "no-op / bare": ms["noop"] / ms["bare"],
        "worker / bare": ms["worker"] / ms["bare"],
    }


def live(seconds: float) -> dict[str, float]:
    """/health/live while one worker burns CPU in its step loop."""
    burning = {"backend": "fake", "task": "transcription", "burn": 0.05, "steps": 10_000, "keep_alive": -1}

    async def measure(port: int) -> list[float]:
        work = request("/v1/audio/transcriptions", upload(100_000))
        waits = []
        async with Client(port) as busy, Client(port) as asking:
            job = asyncio.create_task(busy.ask(work))
            await asyncio.sleep(3)
            ends = time.monotonic() + seconds
            while time.monotonic() < ends:
                waits.append((await asking.ask(request("/health/live")))[1] * 1000)
                await asyncio.sleep(0.01)
            job.cancel()
        return waits

    with server("worker", deployments={"fake": burning}) as (port, _):
        waits = sorted(asyncio.run(measure(port)))
    return {
        "live p50 ms": statistics.median(waits),
        "live p99 ms": waits[int(len(waits) * 0.99)],
        "live requests": len(waits),
    }


def start(repeats: int) -> dict[str, float]:
    """Seconds from the start of the interpreter to the first /health/live, and resident memory then."""
    seconds, cpu, rss = [], [], []
    for _ in range(repeats + 1):
        begun = time.perf_counter()
        with server("worker") as (_, process):
            seconds.append(time.perf_counter() - begun)
            cpu.append(sum(process.cpu_times()[:2]))
            time.sleep(1)
            rss.append(process.memory_info().rss / 1e6)
    # The first start compiles the byte code, which an installed program has already.
    return {
        "start s": min(seconds[1:]),
        "start s, median": statistics.median(seconds[1:]),
        "start CPU s": statistics.median(cpu[1:]),
        "rss MB": max(rss),
    }


def overload(clients: int, seconds: float) -> dict[str, float]:
    """Impatient clients (they come back after 0.1 to 0.3 s) against one deployment that can serve a few of them."""
    dice = random.Random(1)
    slow = {"backend": "fake", "task": "transcription", "delay": 0.05, "steps": 4, "max_batch": 2, "keep_alive": -1}
    message = request("/v1/audio/transcriptions", upload(64_000))
    statuses: Counter[int] = Counter()
    refusals: list[float] = []

    async def one(port: int, ends: float) -> None:
        async with Client(port) as client:
            await asyncio.sleep(dice.random() * 0.3)
            while time.monotonic() < ends:
                status, took = await client.ask(message)
                statuses[status] += 1
                if status in (429, 503):
                    refusals.append(took * 1000)
                    await asyncio.sleep(0.1 + 0.2 * dice.random())

    async def all_of_them(port: int, length: float) -> None:
        ends = time.monotonic() + length
        await asyncio.gather(*(one(port, ends) for _ in range(clients)))

    with server("worker", deployments={"fake": slow}, limits={"queue_jobs": 8}) as (port, process):
        asyncio.run(all_of_them(port, min(5.0, seconds)))
        statuses.clear()
        refusals.clear()
        before = _resources(process)
        asyncio.run(all_of_them(port, seconds))
        time.sleep(1)
        after = _resources(process)
    refusals.sort()
    return {
        "served": statuses[200],
        "refused": statuses[429],
        "planned 503": statuses[503],
        "other answers": sum(count for status, count in statuses.items() if status not in (200, 429, 503)),
        "refusal p50 ms": statistics.median(refusals) if refusals else 0.0,
        "refusal p99 ms": refusals[int(len(refusals) * 0.99)] if refusals else 0.0,
        **{f"{name} before": value for name, value in before.items()},
        **{f"{name} after": value for name, value in after.items()},
    }


def _resources(process: psutil.Process) -> dict[str, float]:
    handles = process.num_handles() if sys.platform == "win32" else process.num_fds()
    return {"gateway MB": process.memory_info().rss / 1e6, "open files": handles, "processes": len(process.children())}


def _table(results: dict[str, dict[str, float]]) -> str:
    lines = [f"{'measured':<24}{'value':>10}{'goal':>10}"]
    for values in results.values():
        for name, value in values.items():
            goal = f"<= {GOALS[name]:g}" if name in GOALS else ""
            lines.append(f"{name:<24}{value:>10.2f}{goal:>10}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "what", nargs="*", choices=["cost", "live", "start", "overload", "serve", []], help="default: all"
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--requests", type=int, default=40, help="per round")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=30.0, help="of overload; a third of it for live")
    parser.add_argument("--kind", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--tables", type=json.loads, default={}, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.what == ["serve"]:
        serve(given.kind, given.port, given.tables)
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    measurements = {
        "cost": lambda: cost(given.rounds, given.requests),
        "live": lambda: live(given.seconds / 3),
        "start": lambda: start(5),
        "overload": lambda: overload(given.clients, given.seconds),
    }
    with tempfile.TemporaryDirectory() as byte_code:
        os.environ["PYTHONPYCACHEPREFIX"] = byte_code
        results = {name: measurements[name]() for name in given.what or measurements}
    print(_table(results))
    print(json.dumps(results))


if __name__ == "__main__":
    main()
