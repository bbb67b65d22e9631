"""Long live sessions, faster than real time: silence, speech and conversation must not grow memory.

    python scripts/soak_realtime.py                                  20 minutes of audio for each session
    python scripts/soak_realtime.py --minutes 60 --seconds 300       at most; says how much it was

A gateway process and its workers, the miniature Whisper of the tests writing down what the built-in voice says. A
session counts time by the audio that it was given, which is worked off as fast as can be. Memory of gateway and
recognizer is looked at while the sessions run; after a warm-up it must stay. In the end the gateway must hold what it
held before. Prints a line of JSON; the exit status is 1 if a promise was broken.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import math
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import soundfile
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect
from websockets.sync.connection import Connection

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from scripts.stress.gateway_process import WatchedGateway, watched_gateway  # noqa: E402
from scripts.stress.result import finish  # noqa: E402
from scripts.stress.traffic import spoken  # noqa: E402

CONFIG = """
offline = true
[deployments.hear]
backend = "whisper"
model = "{data}/whisper_tiny"
device = "cpu"
keep_alive = -1
[deployments.think]
backend = "fake"
task = "chat"
[deployments.speak]
backend = "fake"
task = "speech"
[realtime]
transcription = "hear"
chat = "think"
speech = "speak"
"""
RATE = 16_000
PIECE_SECONDS = 1.0
WARM_SHARE = 0.3  # of the run, after which memory has to stay
GROWTH_MIB = 12.0  # after that: the allocator's own, not a part of each second of audio
LOOK_SECONDS = 1.0
PATIENCE_SECONDS = 300.0
MIB = 1 << 20


@dataclass
class LongSession:
    """One session. sound: what it is given over and over, 16-bit PCM."""

    name: str
    target: str
    sound: bytes
    kind: str = "transcription"
    seconds: float = 0.0
    events: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)

    def run(self, port: int, seconds: float, ends: float) -> None:
        """Feed so much audio, or until then, and end when everything that was committed is written down."""
        with self._noting():
            url = f"ws://127.0.0.1:{port}{self.target}"
            with connect(url, additional_headers={"api-key": "soak"}, max_size=None, proxy=None) as socket:
                self._talk(socket, seconds, ends)

    @contextmanager
    def _noting(self) -> Iterator[None]:
        """A session that breaks off is a broken promise."""
        try:
            yield
        except (OSError, WebSocketException) as error:
            self.errors.append(f"{type(error).__name__}: {error}")

    def _talk(self, socket: Connection, seconds: float, ends: float) -> None:
        def send(kind: str, **fields: Any) -> None:
            socket.send(json.dumps({"type": kind, **fields}))

        inputs = {"format": {"type": "audio/pcm", "rate": RATE}, "transcription": {"model": "hear"}}
        send("session.update", session={"type": self.kind, "audio": {"input": inputs}})
        reader = threading.Thread(target=self._read, args=[socket], daemon=True)
        reader.start()
        size, place = int(PIECE_SECONDS * RATE) * 2, 0
        while self.seconds < seconds and time.monotonic() < ends and reader.is_alive():
            piece = (self.sound + self.sound)[place : place + size]
            place = (place + size) % len(self.sound)
            send("input_audio_buffer.append", audio=base64.b64encode(piece).decode())
            self.seconds += PIECE_SECONDS
        send("input_audio_buffer.clear")
        reader.join(PATIENCE_SECONDS)
        if reader.is_alive():
            self.errors.append("it did not end")

    def _read(self, socket: Connection) -> None:
        owed: set[str] = set()
        with self._noting():
            while "input_audio_buffer.cleared" not in self.events or owed:
                event = json.loads(socket.recv(PATIENCE_SECONDS))
                self.events[event["type"]] += 1
                match event["type"].rpartition(".")[2]:
                    case "error" | "failed":
                        self.errors.append(str(event.get("error"))[:200])
                    case "committed":
                        owed.add(event["item_id"])
                    case "completed":
                        owed.discard(event["item_id"])


def pcm() -> bytes:
    """A sentence of the built-in voice, and a pause in which its turn ends."""
    samples, _ = soundfile.read(io.BytesIO(spoken(1)), dtype="int16")
    return bytes(samples.tobytes()) + bytes(2 * RATE)


def memory(gateway: WatchedGateway) -> dict[str, float]:
    """MiB of the gateway and of the recognizer's process."""
    pids = {"gateway": gateway.process.pid, "recognizer": gateway.holdings()["pids"]["hear"]}
    return {name: psutil.Process(pid).memory_info().rss / MIB for name, pid in pids.items()}


def soak(gateway: WatchedGateway, seconds: float, limit: float) -> dict[str, Any]:
    """All sessions at once, each in a thread; what they gave and what memory did. limit: seconds of the clock."""
    quiet, transcription = bytes(2 * RATE * 10), "/v1/realtime?intent=transcription"
    sessions = [
        LongSession("silence", transcription, quiet),
        LongSession("speech", transcription, pcm()),
        LongSession("conversation", "/v1/realtime?model=think", pcm(), kind="realtime"),
    ]
    LongSession("warm-up", transcription, pcm()).run(gateway.port, 10.0, math.inf)
    before, began = gateway.settled(), time.monotonic()
    threads = [
        threading.Thread(target=one.run, args=(gateway.port, seconds, began + limit), daemon=True) for one in sessions
    ]
    for thread in threads:
        thread.start()
    looks = [memory(gateway)]
    while any(thread.is_alive() for thread in threads):
        looks.append(memory(gateway))
        time.sleep(LOOK_SECONDS)
    took, remains = time.monotonic() - began, gateway.remains(before)
    warm = looks[int(WARM_SHARE * len(looks)) :]
    quarter = max(1, len(warm) // 4)
    grown = {name: _mean(warm[-quarter:], name) - _mean(warm[:quarter], name) for name in looks[0]}
    return {
        "seconds_of_audio": {one.name: one.seconds for one in sessions},
        "seconds": round(took, 1),
        "events": {one.name: dict(one.events) for one in sessions},
        "memory_mib": {name: [round(look[name], 1) for look in looks[:: max(1, len(looks) // 12)]] for name in grown},
        "grown_mib": {name: round(value, 1) for name, value in grown.items()},
        "broken": [f"{one.name}: {error}" for one in sessions for error in one.errors]
        + [f"{one.name}: nothing was written down" for one in sessions[1:] if not _completed(one)]
        + [f"the memory of {name} grew by {value:.0f} MiB" for name, value in grown.items() if value > GROWTH_MIB]
        + [f"left behind: {what}" for what in remains]
        + gateway.problems(),
    }


def _completed(session: LongSession) -> int:
    return session.events["conversation.item.input_audio_transcription.completed"]


def _mean(looks: list[dict[str, float]], name: str) -> float:
    return sum(look[name] for look in looks) / len(looks)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--minutes", type=float, default=20.0, help="of audio for each session")
    parser.add_argument("--seconds", type=float, default=math.inf, help="of the clock, after which no more is said")
    parser.add_argument("--output", type=Path, help="file for the JSON")
    options = parser.parse_args()
    config = CONFIG.format(data=(ROOT / "tests" / "data").as_posix())
    with tempfile.TemporaryDirectory() as folder, watched_gateway(config, Path(folder)) as gateway:
        figures = soak(gateway, options.minutes * 60, options.seconds)
    return finish(figures, options.output)


if __name__ == "__main__":
    sys.exit(main())
