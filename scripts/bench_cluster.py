"""What a cluster costs over a gateway with workers of its own, measured in one run on this machine (extra `cluster`).

    python scripts/bench_cluster.py [--requests 100] [--streams 10] [--json FILE]

The same requests go to both servers in turn: small ones, streams with an event every 20 ms, and bursts of events. Told
are wall and CPU milliseconds, memory (proportional set size, Linux) of the engine's processes, seconds until ready, and
requests per second of one and of two replicas. The models are fake and sleep, so that what is left is the way to them.
CPU is that of all processes of a server, less what they use when nothing is asked.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.support.audio import wav_of  # noqa: E402
from tests.support.ray_cluster import gateway_on, machines  # noqa: E402
from tests.support.server import server_process  # noqa: E402

CONFIGURATION = """
offline = true
[limits]
queue_jobs = 100
[deployments.small]
backend = "fake"
preload = true
cluster = { cpus = 0.1 }
[deployments.paced]
backend = "fake"
delay = 0.02
preload = true
cluster = { cpus = 0.1 }
[deployments.one]
backend = "fake"
steps = 10
delay = 0.05
max_batch = 4
preload = true
cluster = { cpus = 0.1 }
[deployments.two]
backend = "fake"
steps = 10
delay = 0.05
max_batch = 4
preload = true
cluster = { replicas = 2, cpus = 0.1 }
"""
SETTLE_SECONDS, IDLE_SECONDS = 20.0, 10.0  # Ray goes on working for some seconds after its start
BLOCK = 20  # small requests between two looks at the processor's clock
CLIENTS, JOBS = 16, 64  # of the throughput
HEADERS = {"api-key": "k"}


@dataclass
class Server:
    """One of the two. roots: processes whose children count too; samples: measured values by what they are."""

    name: str
    url: str
    roots: list[psutil.Process]
    client: httpx.Client
    idle: float = 0.0
    samples: dict[str, list[float]] = field(default_factory=dict)

    def processes(self) -> list[psutil.Process]:
        found = {one for root in self.roots for one in (root, *root.children(recursive=True))}
        return [one for one in found if one.pid != os.getpid()]

    def cpu(self) -> float:
        """Seconds that the processes which run now have used."""
        total = 0.0
        for process in self.processes():
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += times.user + times.system
        return total

    def measure(self, name: str, work: Callable[[], int], times: int) -> None:
        """Wall milliseconds of one unit of the work, each time that it is done, and CPU milliseconds of all of it.

        work: returns how many units it was.
        """
        units, cpu, began = 0, self.cpu(), time.perf_counter()
        for _ in range(times):
            start = time.perf_counter()
            done = work()
            self.samples.setdefault(f"{name}_ms", []).append(1000 * (time.perf_counter() - start) / done)
            units += done
        seconds = time.perf_counter() - began
        spent = self.cpu() - cpu - self.idle * seconds
        self.samples.setdefault(f"{name}_cpu_ms", []).append(1000 * spent / units)

    def ask(self, model: str, audio: bytes, *, stream: bool = False) -> int:
        """Send one request and read its answer; returns how many events came."""
        data = {"model": model, **({"stream": "true"} if stream else {})}
        where = f"{self.url}/v1/audio/transcriptions"
        with self.client.stream("POST", where, headers=HEADERS, data=data, files={"file": audio}) as answer:
            events = sum(line.startswith("data:") for line in answer.iter_lines())
        if answer.status_code != 200:
            raise RuntimeError(f"{self.name}: {answer.status_code}")
        return events

    def throughput(self, model: str) -> float:
        """Requests per second of many clients."""
        audio, began = wav_of(1), time.perf_counter()
        with ThreadPoolExecutor(CLIENTS) as threads:
            list(threads.map(lambda _: self.ask(model, audio), range(JOBS)))
        return JOBS / (time.perf_counter() - began)


@contextmanager
def servers(folder: Path) -> Iterator[tuple[Server, Server, dict[str, float]]]:
    """Both of them, ready, and the seconds that took."""
    config, me = folder / "gateway.toml", psutil.Process()
    config.write_text(CONFIGURATION, encoding="utf-8")
    with ExitStack() as stack:
        client = stack.enter_context(httpx.Client(timeout=120))
        began = time.perf_counter()
        url = stack.enter_context(server_process(folder / "alone.txt", "--config", str(config)))
        _until_ready(client, url)
        seconds = {"gateway": time.perf_counter() - began}
        plain = Server("gateway alone", url, me.children(), client)
        began = time.perf_counter()
        cluster = stack.enter_context(machines(second=False))
        seconds["ray"] = time.perf_counter() - began
        url = stack.enter_context(gateway_on(cluster, config, folder / "cluster.txt"))
        _until_ready(client, url)
        seconds["gateway and replicas on it"] = time.perf_counter() - began - seconds["ray"]
        known = set(plain.processes())
        others = [child for child in me.children() if child not in known]
        yield plain, Server("over a cluster", url, others, client), seconds


def _until_ready(client: httpx.Client, url: str) -> None:
    while client.get(f"{url}/health/ready").status_code != 200:
        time.sleep(0.1)


def measure(both: tuple[Server, Server], requests: int, streams: int) -> None:
    """All of it, in turn, so that whatever else the machine does meets both."""
    second, talk = wav_of(1), wav_of(50)
    for server in both:
        server.ask("small", second)
    time.sleep(SETTLE_SECONDS)
    for server in both:
        before, began = server.cpu(), time.perf_counter()
        time.sleep(IDLE_SECONDS)
        server.idle = (server.cpu() - before) / (time.perf_counter() - began)

    def small(server: Server) -> int:
        server.ask("small", second)
        return 1

    for _ in range(requests // BLOCK):
        for server in both:
            server.measure("request", lambda server=server: small(server), BLOCK)
    for _ in range(streams):
        for server in both:
            for name, model in (("paced_event", "paced"), ("burst_event", "small")):
                server.measure(name, lambda server=server, model=model: server.ask(model, talk, stream=True), 1)


def memory(server: Server) -> dict[str, float]:
    """Megabytes by what the processes are for."""
    found: dict[str, float] = {}
    for process in server.processes():
        try:
            size, name = process.memory_full_info().pss / 1e6, _purpose(process)
        except psutil.NoSuchProcess:
            continue
        found[name] = found.get(name, 0.0) + size
    return {name: round(size) for name, size in sorted(found.items())}


def _purpose(process: psutil.Process) -> str:
    words = " ".join(process.cmdline())
    for sign, purpose in (
        ("backends.worker", "workers"),
        ("app.media", "gateway"),
        ("ServedReplica", "replicas"),
        ("ServeController", "Ray Serve"),
        ("ServeReplica", "replicas"),
        ("ProxyActor", "Ray Serve"),
        ("-m app", "gateway"),
    ):
        if sign in words:
            return purpose
    return "Ray" if "ray" in words else "gateway"


def result(both: tuple[Server, Server], seconds: dict[str, float]) -> dict[str, Any]:
    rows = []
    for server in both:
        row: dict[str, Any] = {"server": server.name, "idle_cores": round(server.idle, 3)}
        for name, values in server.samples.items():
            row[name] = round(statistics.median(values), 3)
            if name == "request_ms":
                row["request_p95_ms"] = round(sorted(values)[int(0.95 * len(values))], 3)
        row["requests_per_second_one"] = round(server.throughput("one"), 2)
        row["requests_per_second_two"] = round(server.throughput("two"), 2)
        row["memory_mb"] = memory(server)
        rows.append(row)
    return {"seconds_until_ready": {name: round(value, 1) for name, value in seconds.items()}, "servers": rows}


def table(found: dict[str, Any]) -> str:
    """Markdown: a line for each value, a column for each server."""
    plain, cluster = found["servers"]
    lines = [f"| | {plain['server']} | {cluster['server']} |", "|---|---|---|"]
    lines += [f"| {name} | {plain[name]} | {cluster[name]} |" for name in plain if name != "server"]
    return "\n".join([*lines, f"Seconds until ready: {found['seconds_until_ready']}"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=100)
    parser.add_argument("--streams", type=int, default=10)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        servers(Path(folder)) as (plain, cluster, seconds),
    ):
        measure((plain, cluster), given.requests, given.streams)
        found = result((plain, cluster), seconds)
    print(table(found))
    print(json.dumps(found))
    if given.json:
        given.json.write_text(json.dumps(found, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
