"""A spoken conversation over a real socket: how soon the answer is heard, and how soon it falls silent.

Used by `bench_realtime --conversation`. A gateway process with its workers: Whisper writes down, a test double that
answers at once with what was said stands for the language model, and a voice speaks. Speech comes at real-time pace;
where it begins and ends is what turn detection told.
"""

from __future__ import annotations

import base64
import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from websockets.sync.client import connect
from websockets.sync.connection import Connection

from backends.interface import ASR_SAMPLE_RATE
from scripts.stress.gateway_process import ROOT, WatchedGateway, watched_gateway

CONFIG = """
offline = true
[deployments.hear]
backend = "whisper"
model = "{model}"
device = "cpu"
engine = "onnx"
dtype = "int8"
preload = true
[deployments.think]
backend = "fake"
task = "chat"
preload = true
[deployments.csm]
backend = "csm"
model = "{data}/csm/tiny_deployment"
watermark_model = "{data}/csm/silentcipher_tiny"
device = "cpu"
dtype = "float32"
[realtime]
transcription = "hear"
chat = "think"
speech = "{voice}"
"""
VOICES = {"embedded voice": "embedded-tts", "tiny CSM": "csm"}
PIECE = ASR_SAMPLE_RATE // 10
SILENCE_MS, PADDING_MS = 500, 300
# In front, for the padding of the turn; behind, in which it ends and the answer comes.
BEFORE, BEHIND = np.zeros(ASR_SAMPLE_RATE, np.float32), np.zeros(60 * ASR_SAMPLE_RATE, np.float32)
TURNS = {"type": "server_vad", "silence_duration_ms": SILENCE_MS, "prefix_padding_ms": PADDING_MS}
INPUT = {
    "format": {"type": "audio/pcm", "rate": ASR_SAMPLE_RATE},
    "transcription": {"model": "hear", "language": "en"},
    "turn_detection": TURNS,
}
LONG_TEXT = " ".join(f"This is sentence {number} of an answer that nobody wants to end." for number in range(300))
GIVE_UP_SECONDS = 120.0

Event = Mapping[str, Any]


def utterances(audio: np.ndarray) -> list[np.ndarray]:
    """The pieces of a recording between its pauses of more than a second."""
    loud = np.flatnonzero(np.abs(audio) > 1e-4)
    parts = np.split(loud, np.flatnonzero(np.diff(loud) > ASR_SAMPLE_RATE) + 1)
    return [audio[part[0] : part[-1] + 1] for part in parts]


def converse(voice: str, model: str, clips: Sequence[np.ndarray]) -> tuple[list[float], list[float], list[float]]:
    """Seconds for each clip: from the end of speech to the first sound of the answer; where it interrupts a long
    answer, from the beginning of speech to `speech_started` and to the last sound that was sent."""
    config = CONFIG.format(model=model, data=(ROOT / "tests" / "data").as_posix(), voice=VOICES[voice])
    with tempfile.TemporaryDirectory() as folder, watched_gateway(config, Path(folder)) as gateway:
        _answered(gateway, clips[0])  # waits for the models, and loads the voice
        answered = [_answered(gateway, clip) for clip in clips]
        cut = [_interrupted(gateway, clip) for clip in clips]
    return answered, [told for told, _ in cut], [last for _, last in cut]


def _answered(gateway: WatchedGateway, clip: np.ndarray) -> float:
    end = 0.0
    with _session(gateway) as session:
        for event, at in _saying(session, np.concatenate([BEFORE, clip, BEHIND])):
            if event["type"] == "input_audio_buffer.speech_stopped":
                end = (event["audio_end_ms"] - SILENCE_MS) / 1000
            elif event["type"] == "response.output_audio.delta":
                return at - end
    raise SystemExit("there was no answer")


def _interrupted(gateway: WatchedGateway, clip: np.ndarray) -> tuple[float, float]:
    with _session(gateway) as session:
        content = [{"type": "input_text", "text": LONG_TEXT}]
        _send(session, "conversation.item.create", item={"type": "message", "role": "user", "content": content})
        _send(session, "response.create")
        _wait_for(session, "response.output_audio.delta")
        began = told = last = 0.0
        for event, at in _saying(session, np.concatenate([BEFORE, clip, BEHIND])):
            if event["type"] == "input_audio_buffer.speech_started" and not told:
                began, told = (event["audio_start_ms"] + PADDING_MS) / 1000, at
            elif event["type"] == "response.output_audio.delta":
                last = at
            elif event["type"] == "response.done":
                if event["response"]["status"] != "cancelled":
                    raise SystemExit(f"the answer was {event['response']['status']} before it was interrupted")
                return told - began, last - began
    raise SystemExit("the answer did not end")


@contextmanager
def _session(gateway: WatchedGateway) -> Iterator[Connection]:
    url = f"ws://127.0.0.1:{gateway.port}/v1/realtime?model=think"
    with connect(url, additional_headers={"api-key": "bench"}, max_size=None, proxy=None) as connection:
        _send(connection, "session.update", session={"type": "realtime", "audio": {"input": INPUT}})
        _wait_for(connection, "session.updated")
        yield connection


def _send(connection: Connection, kind: str, **fields: Any) -> None:
    connection.send(json.dumps({"type": kind, **fields}))


def _received(connection: Connection, seconds: float) -> Event:
    """The next event. Raises TimeoutError."""
    event: Event = json.loads(connection.recv(seconds))
    if event["type"] == "error":
        raise SystemExit(event["error"])
    return event


def _wait_for(connection: Connection, kind: str) -> None:
    while _received(connection, GIVE_UP_SECONDS)["type"] != kind:
        pass


def _saying(connection: Connection, audio: np.ndarray) -> Iterator[tuple[Event, float]]:
    """Each event that comes while this is said, and the seconds since its first sample."""
    pcm = (np.clip(audio, -1, 1) * 32_767).astype("<i2")
    began = time.perf_counter()
    for first in range(0, len(pcm), PIECE):
        piece = pcm[first : first + PIECE]
        due = began + (first + len(piece)) / ASR_SAMPLE_RATE
        while (left := due - time.perf_counter()) > 0:
            with suppress(TimeoutError):
                yield _received(connection, left), time.perf_counter() - began
        _send(connection, "input_audio_buffer.append", audio=base64.b64encode(piece.tobytes()).decode())
