"""Mixed traffic over several models that do not fit together: what clients wait, what is refused, what is left behind.

    python scripts/soak.py                             10 minutes of examples/all-tiny.toml
    python scripts/soak.py --minutes 2 --output FILE   less of it, and the figures in a file
    python scripts/soak.py --config FILE --clients 30

Starts a server of its own with a cache and a folder for temporary files of its own. First several requests for each
cold model are sent at once, which must load it once. Then real clients transcribe, speak and ask in random order; some
hang up half-way. At the end everything is unloaded, and memory, processes, open files and temporary files are compared
with the start. Prints tables and a line of JSON; the exit status is 1 if a promise was broken: an unplanned error, a
job that lost its worker, a model loaded twice, a device over its budget, something left behind.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from backends import children  # noqa: E402
from scripts.stress.result import finish  # noqa: E402
from scripts.stress.traffic import Chance, Tally, client_loop, new_client, one  # noqa: E402

MIB = 1 << 20
OVER_BUDGET = 1.0  # times its budget: what a device may hold whenever somebody looks
OVER_BUDGET_REAL = 1.05  # the same for the processes, which grow a little between two looks of the server
SETTLE_SECONDS = 60.0  # after the last request, for cancelled work to end and workers to go
GROWTH_MIB = 60.0  # of the gateway's own memory that is no leak: caches, allocator, encoders loaded at first use
AT_ONCE = 4  # requests for a cold model
LOADED = ("ready", "busy")


# --- The server -------------------------------------------------------------------------------------------------------


@dataclass
class Server:
    """A gateway of our own. log: one JSON document per line; temporary: its folder for temporary files."""

    url: str
    process: psutil.Process
    log: Path
    temporary: Path

    def events(self, name: str) -> list[dict[str, Any]]:
        """Its log lines of this name so far."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return [json.loads(line) for line in lines if f'"event":"{name}"' in line]

    def loads(self) -> Counter[str]:
        return Counter(event["deployment"] for event in self.events("pool.loaded"))

    def evictions(self) -> Counter[str]:
        events = self.events("pool.unloading")
        return Counter(event["deployment"] for event in events if event["reason"].startswith("evicted"))

    def workers(self) -> list[psutil.Process]:
        """Processes that hold a model, or load one."""
        found = []
        for child in self.process.children():
            with suppress(psutil.Error):
                if "backends.worker" in child.cmdline():
                    found.append(child)
        return found

    def worker_bytes(self) -> int:
        total = 0
        for worker in self.workers():
            with suppress(psutil.Error):
                total += worker.memory_info().rss
        return total


@contextmanager
def own_server(config: Path, folder: Path) -> Iterator[Server]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    temporary = folder / "temporary"
    temporary.mkdir()
    environment = children.environment(extra={"SPEECH_GATEWAY_LOG__FORMAT": "json"})
    environment |= dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(temporary))
    environment |= dict.fromkeys(("XDG_CACHE_HOME", "LOCALAPPDATA"), str(folder / "cache"))
    command = children.command("app", "serve", "--port", str(port), "--config", str(config))
    log = folder / "server.log"
    with log.open("w", encoding="utf-8") as out:
        child = subprocess.Popen(command, env=environment, stdout=out, stderr=out, cwd=ROOT)
        try:
            yield Server(f"http://127.0.0.1:{port}", psutil.Process(child.pid), log, temporary)
        finally:
            child.terminate()
            try:
                child.wait(60)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


async def until_alive(http: httpx.AsyncClient) -> None:
    for _ in range(300):
        with suppress(httpx.TransportError):
            if (await http.get("/health/live")).status_code == 200:
                return
        await asyncio.sleep(0.1)
    raise SystemExit("the server did not start")


async def tasks_of(http: httpx.AsyncClient) -> dict[str, str]:
    """Deployment -> task, of all that could run."""
    rows = (await http.get("/health")).json()["deployments"]
    models = {m["id"]: m["capabilities"] for m in (await http.get("/v1/models")).json()["data"]}
    names = [name for name, row in rows.items() if row["state"] not in ("absent", "pulling")]
    tasks = ("transcription", "speech", "chat")
    return {name: next(task for task in tasks if task == "chat" or models[name].get(task)) for name in names}


async def unload_all(http: httpx.AsyncClient) -> None:
    """Let the last cancelled work end, then end all workers by hand."""
    end = time.monotonic() + SETTLE_SECONDS
    while time.monotonic() < end:
        rows = (await http.get("/health")).json()["deployments"]
        loaded = [n for n, row in rows.items() if row["state"] in (*LOADED, "loading")]
        if not loaded:
            return
        for name in loaded:
            await http.post(f"/admin/unload/{name}", timeout=SETTLE_SECONDS)
        await asyncio.sleep(0.5)


# --- What is watched --------------------------------------------------------------------------------------------------


@dataclass
class Watch:
    """Once a second: memory against budget, as the server books it and as the system tells; the gateway's own
    memory."""

    server: Server
    most_used: Counter[str] = field(default_factory=Counter)
    most_real: int = 0
    over_budget: list[str] = field(default_factory=list)
    gateway: list[int] = field(default_factory=list)
    most_loaded: int = 0
    slowest_health: float = 0.0

    async def run(self, http: httpx.AsyncClient) -> None:
        while True:
            began = time.perf_counter()
            health = (await http.get("/health")).json()
            self.slowest_health = max(self.slowest_health, time.perf_counter() - began)
            self.look(health)
            await asyncio.sleep(1.0)

    def look(self, health: dict[str, Any]) -> None:
        self.most_loaded = max(self.most_loaded, sum(row["state"] in LOADED for row in health["deployments"].values()))
        self.gateway.append(self.server.process.memory_info().rss)
        real = self.server.worker_bytes()
        self.most_real = max(self.most_real, real)
        for device in health["devices"]:
            name, used, budget = device["id"], device["memory_used_bytes"], device["budget_bytes"]
            self.most_used[name] = max(self.most_used[name], used)
            if budget and used > budget * OVER_BUDGET:
                self.over_budget.append(f"{name} holds {used / MIB:.0f} of {budget / MIB:.0f} MiB")
            if budget and name == "cpu" and real > budget * OVER_BUDGET_REAL:
                self.over_budget.append(f"the workers really hold {real / MIB:.0f} of {budget / MIB:.0f} MiB")

    def most_by_quarter(self) -> list[int]:
        """MiB of the gateway itself at most, in each quarter of the run: what leaks grows in all of them."""
        quarter = max(1, -(-len(self.gateway) // 4))
        return [round(max(self.gateway[at : at + quarter]) / MIB) for at in range(0, len(self.gateway), quarter)]


@dataclass
class Remains:
    """What a server holds when nobody wants anything."""

    in_flight: int
    jobs: int
    device_mib: float
    worker_mib: float
    gateway_mib: float
    files: int
    children: int
    temporary: int

    @classmethod
    async def look(cls, http: httpx.AsyncClient, server: Server) -> Remains:
        health = (await http.get("/health")).json()
        process = server.process
        return cls(
            in_flight=health["in_flight"],
            jobs=sum(row["jobs_active"] + row["queue_depth"] for row in health["deployments"].values()),
            device_mib=round(sum(device["memory_used_bytes"] for device in health["devices"]) / MIB, 1),
            worker_mib=round(server.worker_bytes() / MIB, 1),
            gateway_mib=round(process.memory_info().rss / MIB, 1),
            files=process.num_fds() if hasattr(process, "num_fds") else 0,
            children=len(process.children(recursive=True)),
            temporary=await asyncio.to_thread(count_files, server.temporary),
        )


def count_files(folder: Path) -> int:
    return sum(1 for file in folder.rglob("*") if file.is_file())


# --- All of it --------------------------------------------------------------------------------------------------------


async def load_once(server: Server, http: httpx.AsyncClient, tasks: dict[str, str]) -> list[str]:
    """Several requests at once for each cold model; what was wrong with its loads or answers."""
    wrong = []
    for name, task in tasks.items():
        await unload_all(http)
        before, tally = server.loads(), Tally()
        async with new_client(server.url, "first") as client:
            await asyncio.gather(*(one(client, name, task, Chance(seed), tally, hang_up=0) for seed in range(AT_ONCE)))
        wrong += [f"{name}, cold: {text}" for text in tally.unplanned]
        for other, times in (server.loads() - before).items():
            if times > 1:
                wrong.append(f"{other} was loaded {times} times for {AT_ONCE} requests")
    return wrong


async def soak(server: Server, options: argparse.Namespace) -> dict[str, Any]:
    """Load each model once, take the baseline, run the traffic, unload, look again."""
    async with httpx.AsyncClient(base_url=server.url, headers={"api-key": "soak"}, timeout=60) as http:
        await until_alive(http)
        tasks = await tasks_of(http)
        print(f"{len(tasks)} deployments: {', '.join(f'{n} ({t})' for n, t in tasks.items())}", flush=True)
        wrong = await load_once(server, http, tasks)
        await unload_all(http)
        before = await Remains.look(http, server)
        tallies, watch = {name: Tally() for name in tasks}, Watch(server)
        watcher = asyncio.create_task(watch.run(http))
        began = time.monotonic()
        seeds = range(options.seed, options.seed + options.clients)
        end = began + 60 * options.minutes
        await asyncio.gather(*(client_loop(server.url, seed, tasks, tallies, end) for seed in seeds))
        seconds = time.monotonic() - began
        await unload_all(http)
        watcher.cancel()
        await asyncio.gather(watcher, return_exceptions=True)
        await asyncio.sleep(1.0)
        after = await Remains.look(http, server)
    figures = report(server, tallies, watch, seconds)
    figures |= {"before": vars(before), "after": vars(after), "clients": options.clients}
    return figures | {"broken": wrong + broken(server, tallies, watch, before, after)}


# --- The report -------------------------------------------------------------------------------------------------------


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """p50, p95, p99 in seconds, 0 without values."""
    ordered = sorted(values) or [0.0]
    return {f"p{p}": round(ordered[min(len(ordered) - 1, p * len(ordered) // 100)], 3) for p in (50, 95, 99)}


def report(server: Server, tallies: dict[str, Tally], watch: Watch, seconds: float) -> dict[str, Any]:
    """The figures."""
    loads, evictions = server.loads(), server.evictions()
    every = list(tallies.values())
    return {
        "seconds": round(seconds, 1),
        "requests": sum(sum(t.outcomes.values()) for t in every),
        "outcomes": dict(sum((t.outcomes for t in every), Counter())),
        "kinds": dict(sum((t.kinds for t in every), Counter())),
        "deployments": {
            name: {**t.outcomes, "seconds": percentiles(t.seconds), "loads": loads[name], "evictions": evictions[name]}
            for name, t in tallies.items()
        },
        "wait_seconds": percentiles([s for t in every for s in t.queued]),
        "refusal_seconds": percentiles([s for t in every for s in t.refusals]),
        "load_seconds": percentiles([event["seconds"] for event in server.events("pool.loaded")]),
        "loads": loads.total(),
        "evictions": evictions.total(),
        "jobs_hit": sum(t.worker_lost for t in every),
        "worker_restarts": len(server.events("pool.worker_lost")),
        "grew_over_budget": dict(Counter(event["deployment"] for event in server.events("pool.over_budget"))),
        "most_loaded_at_once": watch.most_loaded,
        "most_used_mib": {name: round(used / MIB) for name, used in watch.most_used.items()},
        "most_real_mib": round(watch.most_real / MIB),
        "gateway_mib_by_quarter": watch.most_by_quarter(),
        "slowest_health_seconds": round(watch.slowest_health, 3),
    }


def broken(server: Server, tallies: dict[str, Tally], watch: Watch, before: Remains, after: Remains) -> list[str]:
    """Every promise that was not kept."""
    wrong = [f"{name}: {text}" for name, t in tallies.items() for text in t.unplanned[:5]]
    wrong += [f"{name} never answered" for name, t in tallies.items() if not t.outcomes["answered"]]
    wrong += watch.over_budget[:5]
    wrong += [f"{event['deployment']}: {event['error']}" for event in server.events("pool.worker_lost")[:5]]
    for what in ("in_flight", "jobs", "device_mib", "worker_mib"):
        if getattr(after, what):
            wrong.append(f"{what} is {getattr(after, what)} at the end")
    for what, spare in (("files", 2), ("children", 0), ("temporary", 0), ("gateway_mib", GROWTH_MIB)):
        if getattr(after, what) > getattr(before, what) + spare:
            wrong.append(f"{what} grew from {getattr(before, what):.0f} to {getattr(after, what):.0f}")
    return wrong


def print_tables(figures: dict[str, Any]) -> None:
    outcomes = sorted(figures["outcomes"])
    lines = [["deployment", *outcomes, "p50 s", "p95 s", "p99 s", "loads", "evictions"]]
    for name, row in figures["deployments"].items():
        numbers = [*(row.get(o, 0) for o in outcomes), *row["seconds"].values(), row["loads"], row["evictions"]]
        lines.append([name, *map(str, numbers)])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)))
    for name, value in figures.items():
        if name not in ("deployments", "broken"):
            print(f"{name.replace('_', ' ')}: {value}")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--config", type=Path, default=ROOT / "examples" / "all-tiny.toml", help="of the server")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--clients", type=int, default=12)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, help="file for the JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, own_server(options.config.resolve(), Path(name)) as server:
        figures = asyncio.run(soak(server, options))
    print_tables(figures)
    return finish(figures, options.output)


if __name__ == "__main__":
    sys.exit(main())
