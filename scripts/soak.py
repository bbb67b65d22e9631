"""Mixed traffic over several models that do not fit together: what clients wait, what is refused, what is left behind.

    python scripts/soak.py                                     a server of its own: four test doubles, memory for two
    python scripts/soak.py --config examples/all-tiny.toml --minutes 10
    python scripts/soak.py --url http://127.0.0.1:8000 --deployments whisper-1 csm-1b

The clients are real ones (the openai package). They transcribe, speak and ask in random order; some hang up half-way.
At the end everything is unloaded, and memory, processes, open files and temporary files are compared with the start.
Prints a table and a line of JSON; the exit status is 1 if a promise was broken (an unplanned error, something left behind,
a device over its budget).
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
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil

ROOT = Path(__file__).resolve().parents[1]
MIB = 1 << 20
OVER_BUDGET = 1.05  # measured memory may exceed a budget by this factor between two looks of the pool
SETTLE_SECONDS = 20.0  # after the last request, for cancelled work to end and workers to go
GROWTH_MIB = 60.0  # of the gateway's own memory that is no leak: caches, allocator, encoders loaded at first use
HANG_UP = 0.08  # share of requests whose client leaves half-way

DOUBLES = """
offline = true
[devices]
memory_budget = { cpu = "230MiB" }
[limits]
queue_seconds = 20
queue_jobs = 8
"""
DOUBLE = """
[deployments."double-{name}"]
backend = "fake"
task = "{task}"
memory = 67108864
allocate = true
delay = {delay}
load_seconds = {load}
"""


def doubles() -> str:
    """Configuration of four test doubles of about 100 MiB each, with memory for two of them."""
    rows = (
        ("hear", "transcription", 0.05, 0.3),
        ("speak", "speech", 0.03, 0.2),
        ("ask", "chat", 0.02, 0.6),
        ("hear2", "transcription", 0.1, 0.1),
    )
    return DOUBLES + "".join(DOUBLE.format(name=n, task=t, delay=d, load=s) for n, t, d, s in rows)


# --- The server ----------------------------------------------------------------------------------------------------------


@contextmanager
def own_server(config: Path, folder: Path) -> Iterator[tuple[str, psutil.Process]]:
    """A gateway with its own folder for temporary files."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    temporary = folder / "temporary"
    temporary.mkdir()
    environment = {**os.environ, "TMPDIR": str(temporary), "TEMP": str(temporary), "TMP": str(temporary), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "app.cli", "serve", "--port", str(port), "--config", str(config)]
    with (folder / "server.log").open("w", encoding="utf-8") as log:
        child = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=ROOT)
        try:
            yield f"http://127.0.0.1:{port}", psutil.Process(child.pid)
        finally:
            child.terminate()
            try:
                child.wait(40)
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


# --- The clients ---------------------------------------------------------------------------------------------------------


@dataclass
class Tally:
    """What happened to the requests of one deployment. seconds: of those that were answered; refusals: 429 and 503."""

    outcomes: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    queued: list[float] = field(default_factory=list)
    refusals: list[float] = field(default_factory=list)
    unplanned: list[str] = field(default_factory=list)


def tone(seconds: float) -> bytes:
    """A wav file, 16 kHz."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(16_000)
        out.writeframes(bytes(random.Random(1).randbytes(200)) * int(160 * seconds))
    return buffer.getvalue()


async def request(client: openai.AsyncOpenAI, name: str, task: str, chance: random.Random) -> float:
    """One request of a random size; returns the seconds it waited in the queue, as the server tells."""
    if task == "transcription":
        audio = ("clip.wav", tone(chance.choice([0.5, 2, 5, 15])))
        raw = await client.audio.transcriptions.with_raw_response.create(model=name, file=audio)
    elif task == "speech":
        text = "Every good boy deserves fudge. " * chance.choice([1, 2, 6])
        raw = await client.audio.speech.with_raw_response.create(model=name, voice="alloy", input=text, response_format="wav")
    else:
        words = " ".join(chance.choices(["what", "is", "said", "here"], k=chance.choice([3, 10])))
        raw = await client.chat.completions.with_raw_response.create(
            model=name, messages=[{"role": "user", "content": [{"type": "text", "text": words}, spoken(1.0)]}], max_tokens=24
        )
    return float(raw.headers.get("x-gateway-queue-ms", 0)) / 1000


def spoken(seconds: float) -> Any:
    """A part of a chat message that holds audio."""
    import base64

    return {"type": "input_audio", "input_audio": {"data": base64.b64encode(tone(seconds)).decode(), "format": "wav"}}


async def one(client: openai.AsyncOpenAI, name: str, task: str, chance: random.Random, tally: Tally) -> float:
    """Send a request, or leave half-way; returns how long to pause before the next one."""
    began = time.perf_counter()
    patience = chance.uniform(0.005, 1.0) if chance.random() < HANG_UP else 300.0
    try:
        async with asyncio.timeout(patience):
            tally.queued.append(await request(client, name, task, chance))
        tally.outcomes["answered"] += 1
        tally.seconds.append(time.perf_counter() - began)
    except TimeoutError:
        tally.outcomes["left" if patience < 300 else "no answer"] += 1
        if patience == 300.0:
            tally.unplanned.append("no answer in 300 s")
    except openai.APIStatusError as error:
        planned = error.status_code in (429, 503) and "retry-after" in error.response.headers
        tally.outcomes[str(error.status_code)] += 1
        if planned:
            tally.refusals.append(time.perf_counter() - began)
            return min(float(error.response.headers["retry-after"]), 2.0)
        tally.unplanned.append(f"{error.status_code} {error.message[:200]}")
    except openai.APIConnectionError as error:
        tally.outcomes["connection"] += 1
        tally.unplanned.append(f"connection: {error.__cause__!r}")
    return chance.uniform(0.0, 0.05)


async def client_loop(url: str, key: str, seed: int, tasks: dict[str, str], tallies: dict[str, Tally], end: float) -> None:
    """One client with its own key and connections. It stays with a model for a while, as people do."""
    chance = random.Random(seed)
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key or f"client-{seed}", max_retries=0, timeout=320) as client:
        name = chance.choice(sorted(tasks))
        while time.monotonic() < end:
            if chance.random() < 0.2:
                name = chance.choice(sorted(tasks))
            await asyncio.sleep(await one(client, name, tasks[name], chance, tallies[name]))


# --- What is watched -------------------------------------------------------------------------------------------------------


@dataclass
class Watch:
    """Once a second: state of the models, memory against budget, processes."""

    process: psutil.Process | None
    loads: Counter[str] = field(default_factory=Counter)
    workers: set[str] = field(default_factory=set)
    most_used: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    over_budget: list[str] = field(default_factory=list)
    gateway_mib: list[float] = field(default_factory=list)
    most_loaded: int = 0
    slowest_health: float = 0.0

    async def run(self, http: httpx.AsyncClient) -> None:
        before: dict[str, str] = {}
        while True:
            began = time.perf_counter()
            health = (await http.get("/health")).json()
            self.slowest_health = max(self.slowest_health, time.perf_counter() - began)
            before = self._look(health, before)
            await asyncio.sleep(1.0)

    def _look(self, health: dict[str, Any], before: dict[str, str]) -> dict[str, str]:
        loaded = {n: str(row["state"]) in ("ready", "busy") for n, row in health["deployments"].items()}
        self.loads.update(n for n, now in loaded.items() if now and before.get(n) != "loaded")
        self.most_loaded = max(self.most_loaded, sum(loaded.values()))
        for device in health["devices"]:
            used, budget = device["memory_used_bytes"], device["budget_bytes"]
            self.most_used[device["id"]] = max(self.most_used[device["id"]], used / MIB)
            if budget and used > budget * OVER_BUDGET:
                self.over_budget.append(f"{device['id']}: {used / MIB:.0f} of {budget / MIB:.0f} MiB")
        if self.process is not None:
            self.gateway_mib.append(self.process.memory_info().rss / MIB)
        return {n: "loaded" if now else "" for n, now in loaded.items()}


@dataclass
class Remains:
    """What a server holds when nobody wants anything."""

    in_flight: int
    jobs: int
    device_mib: float
    gateway_mib: float
    files: int
    children: int
    temporary: int

    @classmethod
    async def look(cls, http: httpx.AsyncClient, process: psutil.Process | None, temporary: Path | None) -> Remains:
        health = (await http.get("/health")).json()
        rows = health["deployments"].values()
        return cls(
            in_flight=health["in_flight"],
            jobs=sum(row["jobs_active"] + row["queue_depth"] for row in rows),
            device_mib=sum(device["memory_used_bytes"] for device in health["devices"]) / MIB,
            gateway_mib=process.memory_info().rss / MIB if process else 0.0,
            files=process.num_fds() if process and hasattr(process, "num_fds") else 0,
            children=len(process.children(recursive=True)) if process else 0,
            temporary=count_files(temporary) if temporary else 0,
        )


def count_files(folder: Path) -> int:
    return sum(1 for file in folder.rglob("*") if file.is_file())


async def unload_all(http: httpx.AsyncClient) -> None:
    """Let the last cancelled work end, then end all workers by hand."""
    end = time.monotonic() + SETTLE_SECONDS
    while time.monotonic() < end:
        rows = (await http.get("/health")).json()["deployments"]
        loaded = [n for n, row in rows.items() if row["state"] in ("ready", "busy", "loading")]
        if not loaded:
            return
        for name in loaded:
            await http.post(f"/admin/unload/{name}")
        await asyncio.sleep(0.5)


async def warm(url: str, key: str, tasks: dict[str, str]) -> list[str]:
    """One request per model, in turn: loads everything that loads once, and shows early what cannot work at all."""
    wrong = []
    for name, task in tasks.items():
        tally = Tally()
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key or "warm", max_retries=3, timeout=600) as client:
            try:
                await request(client, name, task, random.Random(0))
            except openai.APIError as error:
                wrong.append(f"{name}: {error}")
        del tally
    return wrong


async def tasks_of(http: httpx.AsyncClient, chosen: list[str]) -> dict[str, str]:
    """Deployment -> task, of those that are chosen, or of all that could run."""
    rows = (await http.get("/health")).json()["deployments"]
    models = {m["id"]: m["capabilities"] for m in (await http.get("/v1/models")).json()["data"]}
    found = {}
    for name, row in rows.items():
        if name in chosen or (not chosen and row["state"] not in ("absent", "pulling")):
            can = models[name]
            found[name] = "transcription" if can["transcription"] else "speech" if can.get("speech") else "chat"
    return found


# --- The report ------------------------------------------------------------------------------------------------------------


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else 0.0


def report(tallies: dict[str, Tally], watch: Watch, before: Remains, after: Remains, seconds: float) -> dict[str, Any]:
    """The figures, and which promises were broken."""
    rows = {
        name: {
            **dict(t.outcomes),
            "p50_seconds": round(percentile(t.seconds, 0.5), 3),
            "p95_seconds": round(percentile(t.seconds, 0.95), 3),
            "p95_queue_seconds": round(percentile(t.queued, 0.95), 3),
            "p95_refusal_seconds": round(percentile(t.refusals, 0.95), 3),
            "loads": watch.loads[name],
        }
        for name, t in tallies.items()
    }
    refusals = [s for t in tallies.values() for s in t.refusals]
    waits = [s for t in tallies.values() for s in t.queued]
    return {
        "seconds": round(seconds, 1),
        "requests": sum(sum(t.outcomes.values()) for t in tallies.values()),
        "deployments": rows,
        "p95_wait_seconds": round(percentile(waits, 0.95), 3),
        "p95_refusal_seconds": round(percentile(refusals, 0.95), 3),
        "most_loaded_at_once": watch.most_loaded,
        "most_used_mib": {k: round(v) for k, v in watch.most_used.items()},
        "slowest_health_seconds": round(watch.slowest_health, 3),
        "gateway_mib": {
            "first_minute": round(statistics.median(watch.gateway_mib[:60]), 1) if watch.gateway_mib else 0,
            "last_minute": round(statistics.median(watch.gateway_mib[-60:]), 1) if watch.gateway_mib else 0,
        },
        "before": vars(before),
        "after": vars(after),
        "broken": broken(tallies, watch, before, after),
    }


def broken(tallies: dict[str, Tally], watch: Watch, before: Remains, after: Remains) -> list[str]:
    wrong = [f"{name}: {text}" for name, t in tallies.items() for text in t.unplanned[:5]]
    wrong += [f"{name} never answered" for name, t in tallies.items() if not t.outcomes["answered"]]
    wrong += watch.over_budget[:5]
    for what in ("in_flight", "jobs", "device_mib"):
        if getattr(after, what):
            wrong.append(f"{what} is {getattr(after, what)} at the end")
    for what, spare in (("files", 2), ("children", 0), ("temporary", 0), ("gateway_mib", GROWTH_MIB)):
        if getattr(after, what) > getattr(before, what) + spare:
            wrong.append(f"{what} grew from {getattr(before, what):.0f} to {getattr(after, what):.0f}")
    return wrong


def print_table(figures: dict[str, Any]) -> None:
    outcomes = sorted(
        {key for row in figures["deployments"].values() for key in row if not key.startswith("p") and key != "loads"}
    )
    heads = ["deployment", *outcomes, "p50 s", "p95 s", "p95 queue s", "p95 refusal s", "loads"]
    lines = [heads]
    for name, row in figures["deployments"].items():
        numbers = [row["p50_seconds"], row["p95_seconds"], row["p95_queue_seconds"], row["p95_refusal_seconds"], row["loads"]]
        lines.append([name, *(str(row.get(o, 0)) for o in outcomes), *map(str, numbers)])
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)))
    print(f"{figures['requests']} requests in {figures['seconds']} s; most models at once: {figures['most_loaded_at_once']}")
    print(f"p95 of waits {figures['p95_wait_seconds']} s, of refusals {figures['p95_refusal_seconds']} s")
    print(f"before {figures['before']}\nafter  {figures['after']}")
    print("broken: " + ("; ".join(figures["broken"]) or "nothing"))


# --- All of it -------------------------------------------------------------------------------------------------------------


async def soak(url: str, options: argparse.Namespace, process: psutil.Process | None, temporary: Path | None) -> dict[str, Any]:
    """Warm up, measure the baseline, run the traffic, unload, measure again."""
    async with connection(url, options.key) as http:
        await until_alive(http)
        tasks = await tasks_of(http, options.deployments)
        if not tasks:
            raise SystemExit("no deployment can run")
        print(f"{len(tasks)} deployments: {', '.join(f'{n} ({t})' for n, t in tasks.items())}", flush=True)
        if wrong := await warm(url, options.key, tasks):
            print("at the first request: " + "; ".join(wrong), flush=True)
        await unload_all(http)
        before = await Remains.look(http, process, temporary)
        tallies, watch = {name: Tally() for name in tasks}, Watch(process)
        watcher = asyncio.create_task(watch.run(http))
        began = time.monotonic()
        end = began + 60 * options.minutes
        seeds = range(options.seed, options.seed + options.clients)
        await asyncio.gather(*(client_loop(url, options.key, seed, tasks, tallies, end) for seed in seeds))
        seconds = time.monotonic() - began
        await unload_all(http)
        watcher.cancel()
        await asyncio.gather(watcher, return_exceptions=True)
        await asyncio.sleep(1.0)
        after = await Remains.look(http, process, temporary)
        return report(tallies, watch, before, after, seconds)


@asynccontextmanager
async def connection(url: str, key: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=url, headers={"api-key": key or "soak"}, timeout=60) as http:
        yield http


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--url", default="", help="a server that runs already; default: one of its own")
    parser.add_argument("--config", type=Path, help="configuration of the server of its own; default: four test doubles")
    parser.add_argument("--key", default="")
    parser.add_argument("--deployments", nargs="*", default=[])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--clients", type=int, default=12)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, help="file for the JSON")
    options = parser.parse_args()
    if options.url:
        figures = asyncio.run(soak(options.url, options, None, None))
    else:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            config = options.config.resolve() if options.config else folder / "doubles.toml"
            if not options.config:
                config.write_text(doubles(), encoding="utf-8")
                options.deployments = options.deployments or ["double-hear", "double-speak", "double-ask", "double-hear2"]
            with own_server(config, folder) as (url, process):
                figures = asyncio.run(soak(url, options, process, folder / "temporary"))
    print_table(figures)
    print(json.dumps(figures))
    if options.output:
        options.output.write_text(json.dumps(figures, indent=1), encoding="utf-8")
    return 1 if figures["broken"] else 0


if __name__ == "__main__":
    sys.exit(main())
