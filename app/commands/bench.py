"""`speech-gateway bench`: latency and throughput of one deployment of a server, as clients see them.

Owns the load and the arithmetic. Whatever the server does inside is read from its x-gateway headers.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from app.commands.client import Answer, CallFailed, Client, deployment_path
from app.commands.connection import Config, Key, Server, session
from app.commands.console import FAILED, messages, output, print_table
from backends.openai_voices import PLAIN_VOICE

_STAGES = ("queue", "decode", "model", "encode")
_TEXT = "The quick brown fox jumps over the lazy dog, and then it sleeps under the old oak tree by the river."


@dataclass(frozen=True, slots=True)
class Call:
    """One request. seconds: until the last byte; stages: milliseconds as the server reports them; error: "" if it went
    well."""

    seconds: float
    stages: dict[str, float]
    error: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """Figures of all requests. Times in seconds over those that succeeded; stage_ms: means."""

    requests: int
    failed: int
    clients: int
    wall: float
    per_second: float
    median: float
    p95: float
    slowest: float
    stage_ms: dict[str, float]


def bench(
    model: Annotated[str, typer.Option("--model", "-m", help="Deployment or alias.")] = "embedded-tts",
    file: Annotated[
        Path | None,
        typer.Option(help="Transcribe this file; without one, text is spoken.", exists=True, dir_okay=False),
    ] = None,
    text: Annotated[str, typer.Option(help="Text to speak.", show_default=False)] = _TEXT,
    requests: Annotated[int, typer.Option(min=1, help="Number of requests in all.")] = 20,
    clients: Annotated[int, typer.Option(min=1, max=256, help="Number of requests at the same time.")] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    server: Server = "",
    key: Key = "",
    config: Config = None,
) -> None:
    """Measure latency and throughput of a deployment."""
    with session(server, key, config) as client:
        call = _caller(client, model, file, text)
        messages().print("One request to warm up ...")
        first = call()
        if first.error:
            raise CallFailed(first.error)
        begun = time.perf_counter()
        with ThreadPoolExecutor(clients) as pool:
            calls = list(pool.map(lambda _: call(), range(requests)))
    result = summary(calls, clients, time.perf_counter() - begun)
    _print(result, as_json)
    for error in sorted({one.error for one in calls if one.error}):
        messages().print(f"refused or failed: {error}")
    if result.failed == result.requests:
        raise typer.Exit(FAILED)


def _caller(client: Client, model: str, file: Path | None, text: str) -> Callable[[], Call]:
    def once() -> Answer:
        if file is not None:
            return client.post_file(deployment_path(model, "audio/transcriptions"), file, {"response_format": "json"})
        document: dict[str, Any] = {"input": text, "voice": PLAIN_VOICE, "response_format": "wav"}
        return client.post_json(deployment_path(model, "audio/speech"), document)

    def timed() -> Call:
        begun = time.perf_counter()
        try:
            answer = once()
        except CallFailed as error:
            return Call(time.perf_counter() - begun, {}, str(error))
        return Call(time.perf_counter() - begun, _stages(answer))

    return timed


def _stages(answer: Answer) -> dict[str, float]:
    return {stage: float(ms) for stage in _STAGES if (ms := answer.headers.get(f"x-gateway-{stage}-ms"))}


def summary(calls: Sequence[Call], clients: int, wall: float) -> Result:
    """Summarise the requests. wall: seconds that all of them took together."""
    good = sorted(call.seconds for call in calls if not call.error)
    stages = {stage: [call.stages[stage] for call in calls if stage in call.stages] for stage in _STAGES}
    return Result(
        requests=len(calls),
        failed=len(calls) - len(good),
        clients=clients,
        wall=wall,
        per_second=len(good) / wall if wall else 0.0,
        median=_rank(good, 0.5),
        p95=_rank(good, 0.95),
        slowest=good[-1] if good else 0.0,
        stage_ms={stage: statistics.fmean(values) for stage, values in stages.items() if values},
    )


def _rank(ordered: Sequence[float], share: float) -> float:
    """Return the nearest-rank percentile of ascending values; 0 for none."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def _print(result: Result, as_json: bool) -> None:
    if as_json:
        output().print(json.dumps(asdict(result), indent=1))
        return
    rows = [
        ("requests", f"{result.requests}, {result.clients} at a time, {result.failed} refused or failed"),
        ("throughput", f"{result.per_second:.2f} per second"),
        ("latency", f"median {result.median:.3f} s, p95 {result.p95:.3f} s, slowest {result.slowest:.3f} s"),
        ("of which", ", ".join(f"{stage} {ms:.1f} ms" for stage, ms in result.stage_ms.items()) or "not reported"),
    ]
    print_table(("measure", "value"), rows)
