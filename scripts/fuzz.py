"""Everything that a client can get wrong, thousands of times: no answer may be a 500, hang, or have another shape.

    python scripts/fuzz.py                                 3 minutes, test doubles
    python scripts/fuzz.py --minutes 10 --seed 7 --tiny    with the four tiny models too
    python scripts/fuzz.py --groups containers forms --keep FOLDER
    python scripts/fuzz.py --groups greedy                 two keys, one hostile: what the other's requests take

A gateway process of its own with real worker processes; groups: described (schemathesis over the OpenAPI document),
forms (multipart), containers (damaged audio files), media (those whose length and loss are known: words are read, or
the loss is told), json, base64, versions, names, heads, sessions (realtime), page
(the web page, where it is installed). After every hundred requests an ordinary one must be answered. At last two keys
ask at once, and one of them takes all it can get: every request of the other must be answered. In the end the gateway
must hold what it held before. Prints a table and a line of JSON; the exit status is 1 if a promise was broken. --keep
writes each request that broke one to a file.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from statistics import median
from typing import Any, TypeVar

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from scripts.stress.fuzzing import (  # noqa: E402
    addresses,
    bodies,
    containers,
    described,
    forms,
    greedy,
    media,
    page,
    sessions,
)
from scripts.stress.fuzzing.exchange import KEY, Case, Outcome, ask  # noqa: E402
from scripts.stress.fuzzing.ordinary import LOAD_SECONDS, ordinary, tiny_models  # noqa: E402
from scripts.stress.gateway_process import WatchedGateway, watched_gateway  # noqa: E402
from scripts.stress.result import finish  # noqa: E402

CLIENTS = 3  # requests at the same time
CHECK_EVERY = 100  # requests, after which an ordinary one is tried
SHARES = {"described": 3, "containers": 3, "media": 2, "forms": 2}  # of the time; the others get one each
SPEAKER = "embedded-tts"  # speaks the answers of the built-in chat deployment, and is loaded for the first
NOT_RAW = ("described", "sessions", "greedy")  # groups that make no raw requests
POLITE_REQUESTS = 40  # beside a greedy client
MOST_PRINTED = 20  # findings of a group that are printed

DOUBLES = f"""
offline = true
[server]
admin_key = "{KEY}"
api_keys = [{{ name = "ordinary", key = "{greedy.HONEST}" }}, {{ name = "greedy", key = "{greedy.GREEDY}" }}]
[limits]
audio_seconds = 600
total_body_bytes = 52428800
queue_jobs = 16
[deployments.hear]
backend = "fake"
task = "transcription"
diarization = true
[deployments.speak]
backend = "fake"
task = "speech"
[deployments.ask]
backend = "fake"
task = "chat"
audio_deployment = "speak"
[deployments.contested]
backend = "fake"
task = "speech"
delay = 0.02
steps = 5
max_batch = 3
[realtime]
transcription = "hear"
chat = "ask"
speech = "speak"
"""
Source = Callable[[Random], Iterator[Case]]
Kind = TypeVar("Kind", Case, sessions.Session)


@dataclass
class Tally:
    """What came of the requests of a group. told: further figures of it."""

    statuses: Counter[int] = field(default_factory=Counter)
    slowest: tuple[float, str] = (0.0, "")
    findings: list[str] = field(default_factory=list)
    seconds: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def tell(self, note: str, outcome: Outcome) -> None:
        """Count one request."""
        with self._lock:
            self.statuses[outcome.status] += 1
            self.slowest = max(self.slowest, (round(outcome.seconds, 2), note[:100]))
            if outcome.finding:
                self.findings.append(f"{note[:200]}: {outcome.finding}")

    @property
    def count(self) -> int:
        return sum(self.statuses.values())


def sources(*, tiny: bool) -> dict[str, Source]:
    """Makers of raw requests by group; `described` makes its own."""
    made = bodies.BodyBudget(("speak", "csm", "llasa"), ("ask", "diffa")) if tiny else bodies.BodyBudget()
    return {
        "forms": forms.cases,
        "containers": containers.cases,
        "media": media.cases,
        "json": made.json_cases,
        "base64": made.base64_cases,
        "versions": addresses.version_cases,
        "names": addresses.name_cases,
        "heads": addresses.head_cases,
        "page": page.cases,
    }


def send(
    port: int,
    cases: Iterator[Kind],
    ask: Callable[[int, Kind], Outcome],
    ends: float,
    most: int,
    tally: Tally,
    keep: Path | None = None,
) -> None:
    """Send cases until the clock says `ends` or `most` were sent; several clients, an ordinary request now and then."""
    lock, left = threading.Lock(), [most]

    def take() -> tuple[Kind, int] | None:
        with lock:
            if time.monotonic() >= ends or left[0] <= 0:
                return None
            left[0] -= 1
            return next(cases), left[0]

    def client() -> None:
        while (taken := take()) is not None:
            case, number = taken
            outcome = ask(port, case)
            tally.tell(case.note, outcome)
            if outcome.finding and keep is not None and isinstance(case, Case):
                (keep / f"{number}.request").write_bytes(case.raw)
            if number % CHECK_EVERY == 0:
                check_service(port, tally)

    with ThreadPoolExecutor(CLIENTS) as pool:
        for done in [pool.submit(client) for _ in range(CLIENTS)]:
            done.result()


def check_service(port: int, tally: Tally) -> None:
    """An ordinary request must be answered, whatever came before."""
    status, _ = ordinary(port, "hear")
    if status != 200:
        tally.findings.append(f"an ordinary request was answered with {status}")


def fuzz(gateway: WatchedGateway, options: argparse.Namespace) -> dict[str, Any]:
    """All groups in turn, each for its share of the time."""
    names = ["hear", "speak", "ask", *(["whisper", "csm", "llasa", "diffa", SPEAKER] if options.tiny else [])]
    answers = {name: ordinary(gateway.port, name, LOAD_SECONDS)[0] for name in [*names, greedy.SLOW]}
    made = sources(tiny=options.tiny)
    groups = options.groups or ["described", "sessions", *made, "greedy"]
    if importlib.util.find_spec("gradio") is None and "page" in groups:
        groups.remove("page")
    if "page" in groups:
        page.open_it(gateway.port)
    before = gateway.settled()
    tallies: dict[str, Tally] = {}
    shares = {group: SHARES.get(group, 1) for group in groups}
    for group in groups:
        began = time.monotonic()
        tally = tallies[group] = Tally()
        ends = began + 60 * options.minutes * shares[group] / sum(shares.values())
        if group == "greedy":
            tally = tallies[group] = beside_a_greedy_client(gateway.port, options.seed)
        elif group == "described":
            described.run(gateway.port, options.seed, ends, names, tally.tell)
        elif group == "sessions":
            made_sessions = sessions.cases(Random(f"{group} {options.seed}"))
            send(gateway.port, made_sessions, sessions.hold, ends, options.most, tally)
        else:
            chance = Random(f"{group} {options.seed}")
            send(gateway.port, made[group](chance), ask, ends, options.most, tally, options.keep)
        check_service(gateway.port, tally)
        tally.seconds = time.monotonic() - began
    remains = gateway.remains(before)
    answers |= {f"{name} afterwards": ordinary(gateway.port, name)[0] for name in names}
    after = gateway.settled()
    return report(options, tallies, before, after, remains, answers, gateway.problems())


def beside_a_greedy_client(port: int, seed: int) -> Tally:
    """A client with one key takes all it can get; every request of another key must be answered."""
    tally = Tally()
    count = greedy.run(port, Random(seed), POLITE_REQUESTS)
    tally.statuses, tally.findings = count.greedy, count.findings
    tally.findings += [
        f"the other key's request was answered with {status}" for status in count.honest if status != 200
    ]
    tally.facts = {
        f"{what}_seconds": {"p50": round(median(seconds), 3), "slowest": round(max(seconds), 3)}
        for what, seconds in (("alone", count.alone), ("beside", count.beside))
    }
    return tally


def report(
    options: argparse.Namespace,
    tallies: dict[str, Tally],
    before: dict[str, Any],
    after: dict[str, Any],
    remains: list[str],
    answers: dict[str, int],
    problems: list[str],
) -> dict[str, Any]:
    """The figures, and which promises were broken."""
    rows = {
        group: {
            "requests": tally.count,
            "seconds": round(tally.seconds, 1),
            "statuses": {str(status): n for status, n in sorted(tally.statuses.items())},
            "slowest_seconds": tally.slowest[0],
            "slowest": tally.slowest[1],
            "findings": len(tally.findings),
            **tally.facts,
        }
        for group, tally in tallies.items()
    }
    wrong = [f"{group}: {text}" for group, tally in tallies.items() for text in tally.findings[:MOST_PRINTED]]
    wrong += [f"left behind: {what}" for what in remains]
    wrong += [
        f"{name}: an ordinary request was answered with {status}" for name, status in answers.items() if status != 200
    ]
    return {
        "seed": options.seed,
        "tiny": options.tiny,
        "requests": sum(tally.count for tally in tallies.values()),
        "groups": rows,
        "decoders_replaced": before["pids"]["decoders"] != after["pids"]["decoders"],
        "gateway_mib": [before["rss_mib"], after["rss_mib"]],
        "broken": wrong + sorted(set(problems))[:MOST_PRINTED],
    }


def print_table(figures: dict[str, Any]) -> None:
    for group, row in figures["groups"].items():
        statuses = ", ".join(f"{n} x {status}" for status, n in row["statuses"].items())
        print(
            f"{group:10}  {row['requests']:6} requests in {row['seconds']:6} s, "
            f"slowest {row['slowest_seconds']:6} s  {statuses}"
        )
        for what in ("alone_seconds", "beside_seconds") if group == "greedy" else ():
            print(f"    the polite client's requests, {what}: p50 {row[what]['p50']}, slowest {row[what]['slowest']}")
    print(f"{figures['requests']} requests; memory of the gateway before and after: {figures['gateway_mib']} MiB")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--most", type=int, default=1_000_000, help="requests of a group")
    parser.add_argument("--groups", nargs="*", default=[], choices=[*NOT_RAW, *sources(tiny=False)])
    parser.add_argument("--tiny", action="store_true", help="ask the four tiny models as well")
    parser.add_argument("--keep", type=Path, help="folder for requests that broke a promise")
    parser.add_argument("--output", type=Path, help="file for the JSON")
    options = parser.parse_args()
    if options.keep:
        options.keep.mkdir(parents=True, exist_ok=True)
    config = DOUBLES + (tiny_models() if options.tiny else "")
    with tempfile.TemporaryDirectory() as folder, watched_gateway(config, Path(folder)) as gateway:
        figures = fuzz(gateway, options)
    print_table(figures)
    return finish(figures, options.output)


if __name__ == "__main__":
    sys.exit(main())
