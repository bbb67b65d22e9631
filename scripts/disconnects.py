"""Clients that leave at any point of a request: what is left of them afterwards, and how soon their work stops.

    python scripts/disconnects.py                        500 clients of test doubles and of the four tiny models
    python scripts/disconnects.py --count 60 --doubles   test doubles alone
    python scripts/disconnects.py --seed 2 --output FILE

Raw sockets against a real gateway process with real worker processes. A client leaves in the middle of its head or
body, while it is queued, while its audio is decoded, while the model loads or works, between events, in the middle of
its audio or of a realtime session; it closes in order (FIN) or at once (RST). Afterwards the gateway must hold what it
held before: no task, open file, slot, place, session, temporary file or process more. Prints a table and a line of
JSON; the exit status is 1 if anything was left.
"""

from __future__ import annotations

import argparse
import random
import socket
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from scripts.stress.fuzzing import sessions  # noqa: E402
from scripts.stress.fuzzing.ordinary import LOAD_SECONDS, chat, ordinary, speech, tiny_models, upload, whole  # noqa: E402
from scripts.stress.gateway_process import Holdings, WatchedGateway, watched_gateway  # noqa: E402
from scripts.stress.result import finish  # noqa: E402

PATIENCE_SECONDS = 20.0  # of a client that waits for something to arrive before it leaves
UNANSWERED = ", not closed in return"
STEP_SECONDS = 0.2  # of the model whose steps are counted
MOST_STEPS_AFTER = 1  # the step that runs when the client leaves is computed to its end

DOUBLES = """
offline = true
[limits]
queue_jobs = 200
[deployments.hear]
backend = "fake"
task = "transcription"
delay = 0.01
[deployments.slow]
backend = "fake"
task = "transcription"
delay = 0.05
steps = 30
[deployments.narrow]
backend = "fake"
task = "transcription"
delay = 0.02
steps = 10
max_batch = 1
[deployments.cold]
backend = "fake"
task = "transcription"
load_seconds = 0.3
keep_alive = 0
[deployments.speak]
backend = "fake"
task = "speech"
delay = 0.01
[deployments.ask]
backend = "fake"
task = "chat"
delay = 0.005
audio_deployment = "speak"
[deployments.steps]
backend = "fake"
task = "chat"
delay = %s
[realtime]
transcription = "hear"
chat = "ask"
speech = "speak"
"""


def configuration(*, tiny: bool) -> str:
    """TOML of the test doubles, and of the four families' tiny models if asked for."""
    return DOUBLES % STEP_SECONDS + (tiny_models() if tiny else "")


# --- Where clients leave ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Point:
    """A place to leave. send: what is sent; receive: bytes to take before leaving (None: a moment's pause);
    moment: the longest pause, seconds; tiny: one of the four tiny models is asked."""

    name: str
    send: Callable[[random.Random], bytes]
    receive: Callable[[random.Random], int] | None = None
    moment: float = 0.03
    tiny: bool = False


def _cut(
    of: Callable[[random.Random], bytes], low: Callable[[bytes], int], high: Callable[[bytes], int]
) -> Callable[..., bytes]:
    def send(chance: random.Random) -> bytes:
        message = of(chance)
        return message[: chance.randint(low(message), high(message))]

    return send


def _head_end(message: bytes) -> int:
    return message.index(b"\r\n\r\n") + 4


def _bytes(low: int, high: int) -> Callable[[random.Random], int]:
    return lambda chance: chance.randint(low, high)


def _any_request(chance: random.Random) -> bytes:
    request = chance.choice([upload("hear", 3), speech("speak", "Hello there."), chat("ask", "What is this?", 1)])
    return whole(request, chunked=chance.random() < 0.4)


def _session(target: str, *messages: str) -> Callable[[random.Random], bytes]:
    return lambda _: sessions.opening(target, *messages)


def _dictation(chance: random.Random) -> bytes:
    sound = [sessions.append(chance.randbytes(4800)) for _ in range(20)] + [sessions.append(bytes(4800))] * 15
    commit = sessions.event("input_audio_buffer.commit")
    return sessions.opening("/v1/realtime?intent=transcription", *sound, commit, *sound)


LONG_TEXT = "Every good boy deserves fudge, and all cows eat grass. " * 30
CONVERSATION = "/v1/realtime?model=ask"
_SAID = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": LONG_TEXT}]}
ANSWER = (sessions.event("conversation.item.create", item=_SAID), sessions.event("response.create"))
POINTS = (
    Point("connected", lambda _: b""),
    Point("head", _cut(_any_request, lambda _: 1, lambda m: _head_end(m) - 1)),
    Point("body", _cut(_any_request, _head_end, lambda m: len(m) - 1)),
    Point("decode", lambda _: whole(upload("hear", 120)), moment=0.06),
    Point("decode inline", lambda _: whole(chat("ask", "Well?", 60)), moment=0.06),
    Point("queued", lambda _: whole(upload("narrow", 1)), moment=0.3),
    Point("loading", lambda _: whole(upload("cold", 1)), moment=0.5),
    Point("working", lambda _: whole(upload("slow", 5)), moment=0.4),
    Point("events", lambda _: whole(upload("slow", 60, stream="true")), _bytes(1, 900)),
    Point("chat events", lambda _: whole(chat("ask", LONG_TEXT, 1, stream=True)), _bytes(1, 5000)),
    Point(
        "chat audio",
        lambda _: whole(
            chat(
                "ask", LONG_TEXT, stream=True, modalities=["text", "audio"], audio={"voice": "alloy", "format": "pcm16"}
            )
        ),
        _bytes(1, 60_000),
    ),
    Point(
        "audio",
        lambda c: whole(speech("speak", LONG_TEXT, response_format=c.choice(("pcm", "mp3", "opus")))),
        _bytes(1, 30_000),
    ),
    Point("audio whole", lambda _: whole(speech("speak", LONG_TEXT, response_format="flac", stream=False)), moment=0.3),
    Point("audio events", lambda _: whole(speech("speak", LONG_TEXT, stream_format="sse")), _bytes(1, 40_000)),
    Point("unread audio", lambda _: whole(speech("speak", LONG_TEXT, response_format="pcm")), moment=1.0),
    Point("answered", lambda _: whole(upload("hear", 1)), _bytes(1, 400)),
    Point("two at once", lambda c: _any_request(c) + _any_request(c), moment=0.1),
    Point("session head", _cut(_session(CONVERSATION), lambda _: 1, lambda m: len(m) - 1)),
    Point("session", _session(CONVERSATION), _bytes(1, 600)),
    Point("session frame", _cut(_dictation, _head_end, lambda m: len(m) - 1), moment=0.2),
    Point("session words", _dictation, _bytes(1, 3000)),
    Point("session answer", _session(CONVERSATION, *ANSWER), _bytes(1, 90_000)),
    Point("session unread", _session(CONVERSATION, *ANSWER), moment=0.5),
    Point("whisper", lambda c: whole(upload("whisper", c.choice((2, 40)), stream="true")), moment=0.3, tiny=True),
    Point("diffa", lambda _: whole(chat("diffa", "What is said?", 2, stream=True)), moment=0.3, tiny=True),
    Point(
        "llasa", lambda _: whole(speech("llasa", LONG_TEXT[:160], response_format="pcm")), _bytes(1, 9000), tiny=True
    ),
    Point("csm", lambda _: whole(speech("csm", LONG_TEXT[:160], response_format="pcm")), _bytes(1, 9000), tiny=True),
)


def disconnect(port: int, point: Point, seed: int) -> str:
    """One client. Returns how it left, and what it had been told by then."""
    chance = random.Random(seed)
    at_once = chance.random() < 0.5
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS) as connection:
        if point.name == "unread audio":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        with suppress(ConnectionError):
            connection.sendall(point.send(chance))
        received = b""
        if point.receive is not None:
            received = _receive(connection, point.receive(chance))
        else:
            time.sleep(chance.uniform(0.0, point.moment))
        closed = _leave(connection, at_once=at_once)
    status = f" {received[9:12].decode()}" if received else ""
    return f"{'RST' if at_once else 'FIN'}{status}{'' if closed else UNANSWERED}"


def _receive(connection: socket.socket, wanted: int) -> bytes:
    received = b""
    with suppress(TimeoutError, ConnectionError):
        while len(received) < wanted and (piece := connection.recv(min(4096, wanted - len(received)))):
            received += piece
    return received


def _leave(connection: socket.socket, *, at_once: bool) -> bool:
    """RST: whatever was not sent or read is thrown away. FIN: False if the server does not close its side in return."""
    if at_once:
        linger = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        return True
    ends = time.monotonic() + PATIENCE_SECONDS
    with suppress(ConnectionError):
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65_536):
            if time.monotonic() > ends:
                return False
    return True


# --- What is measured -------------------------------------------------------------------------------------------------


def steps_after(gateway: WatchedGateway, seed: int, before: int) -> tuple[int, int]:
    """Steps that a model computes for a client that has left, and its counter now. Its stream tells the client the
    steps."""
    chance = random.Random(seed)
    leaves_at = chance.randint(1, 4)
    request = whole(chat("steps", "word " * 100, stream=True), b"x-gateway-progress: 1")
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=PATIENCE_SECONDS) as connection:
        connection.sendall(request)
        received, seen = b"", f": progress {leaves_at}/".encode()
        while seen not in received:
            received += connection.recv(4096)
        _leave(connection, at_once=chance.random() < 0.5)
    now = int(gateway.settled()["steps"]["steps"])
    return now - before - 2 - leaves_at, now  # starting and closing a job are counted as well


def storm(gateway: WatchedGateway, count: int, seed: int, clients: int, *, tiny: bool) -> Counter[tuple[str, str]]:
    """`count` clients that leave, `clients` at a time; how often each point and way occurred."""
    chance = random.Random(seed)
    points = [point for point in POINTS if tiny or not point.tiny]
    chosen = [points[number % len(points)] for number in range(count)]
    chance.shuffle(chosen)
    with ThreadPoolExecutor(clients) as pool:
        ways = pool.map(
            lambda job: disconnect(gateway.port, *job), [(point, chance.getrandbits(32)) for point in chosen]
        )
        return Counter(zip((point.name for point in chosen), ways, strict=True))


def measure(gateway: WatchedGateway, options: argparse.Namespace) -> dict[str, Any]:
    """Warm up, look, let clients leave, look again."""
    tiny = not options.doubles
    names = ["hear", "narrow", "speak", "ask", *(["whisper", "csm", "llasa", "diffa"] if tiny else [])]
    warm = {name: ordinary(gateway.port, name, LOAD_SECONDS) for name in [*names, "slow", "steps"]}
    before = gateway.settled()
    began = time.monotonic()
    tally = storm(gateway, options.count, options.seed, options.clients, tiny=tiny)
    seconds = time.monotonic() - began
    remains = gateway.remains(before)
    at_once = {name: ordinary(gateway.port, name) for name in names}
    after = gateway.settled()
    counted, steps = [], int(after["steps"]["steps"])
    for number in range(options.step_clients):
        extra, steps = steps_after(gateway, options.seed + number, steps)
        counted.append(extra)
    return {
        "clients": options.count,
        "seed": options.seed,
        "seconds": round(seconds, 1),
        "left": {f"{point}, {way}": n for (point, way), n in sorted(tally.items())},
        "seconds_of_an_ordinary_request": {name: round(took, 3) for name, (_, took) in at_once.items()},
        "steps_after_leaving": counted,
        "before": before,
        "after": after,
        "broken": broken(warm | at_once, tally, remains, _replaced(before, after), counted) + gateway.problems(),
    }


def _replaced(before: Holdings, after: Holdings) -> list[str]:
    """Models whose worker is another one now. Decoders are: one is ended with the upload that its client gave up."""
    return [name for name, pid in before["pids"].items() if name != "decoders" and after["pids"].get(name) != pid]


def broken(
    answers: dict[str, tuple[int, float]],
    tally: Counter[tuple[str, str]],
    remains: list[str],
    replaced: list[str],
    counted: list[int],
) -> list[str]:
    """Which promises were not kept."""
    wrong = [f"{name} answered {status}" for name, (status, _) in answers.items() if status != 200]
    wrong += [f"{point}: {way}" for point, way in tally if way.endswith(UNANSWERED)]
    wrong += [f"left behind: {what}" for what in remains]
    wrong += [f"the worker of {name} was replaced" for name in replaced]
    return wrong + [
        f"{extra} steps were computed for a client that had left" for extra in counted if extra > MOST_STEPS_AFTER
    ]


def print_table(figures: dict[str, Any]) -> None:
    rows = sorted({name.partition(", ")[0] for name in figures["left"]})
    for row in rows:
        ways = {name.partition(", ")[2]: n for name, n in figures["left"].items() if name.partition(", ")[0] == row}
        print(f"{row:14}  " + "  ".join(f"{way}: {n}" for way, n in ways.items()))
    print(f"{figures['clients']} clients left within {figures['seconds']} s")
    print(f"steps computed after leaving: {figures['steps_after_leaving']}")
    print(
        "an ordinary request right after: "
        + ", ".join(f"{n} {s} s" for n, s in figures["seconds_of_an_ordinary_request"].items())
    )
    print(f"before {figures['before']}\nafter  {figures['after']}")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--clients", type=int, default=10, help="at the same time")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--step-clients", type=int, default=10, help="clients whose model's steps are counted")
    parser.add_argument("--doubles", action="store_true", help="without the four tiny models")
    parser.add_argument("--output", type=Path, help="file for the JSON")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        watched_gateway(configuration(tiny=not options.doubles), Path(folder)) as gateway,
    ):
        figures = measure(gateway, options)
    print_table(figures)
    return finish(figures, options.output)


if __name__ == "__main__":
    sys.exit(main())
