"""What the clients of the soak ask for: real ones (the openai package), every task, format and way to stream.

Owns the requests and what is counted of them. Knows the server by its address only.
"""

from __future__ import annotations

import asyncio
import base64
import io
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import openai
import soundfile

from scripts.fixtures.tiny_speech import RATE, draw_sentence, speaker

HANG_UP = 0.08  # share of requests whose client leaves half-way
PATIENCE_SECONDS = 300.0  # of the others
PAUSE_SECONDS = 0.05  # longest, between two requests of a client
RETRY_SECONDS = 2.0  # longest pause that is made of what a refusal asks for

Chance = random.Random


@dataclass
class Tally:
    """What happened to the requests of one deployment. seconds: of those that were answered; queued: what they waited
    for a turn and a model, as the server tells; refusals: seconds until a 429 or 503; unplanned: everything else."""

    outcomes: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    queued: list[float] = field(default_factory=list)
    refusals: list[float] = field(default_factory=list)
    unplanned: list[str] = field(default_factory=list)
    worker_lost: int = 0


@cache
def spoken(sentences: int) -> bytes:
    """A wav file of so many sentences, 16 kHz: about 2.5 s each, of the vocabulary that the miniature Whisper knows."""
    chance = Chance(sentences)
    words = [draw_sentence(chance, unseen=True).text("en") for _ in range(sentences)]
    samples = np.concatenate([speaker().say(text, "gmw/en-US").samples for text in words])
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, RATE, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


# --- The requests: each returns the seconds that the server says it waited --------------------------------------------


def _queued(headers: Mapping[str, str]) -> float:
    return float(headers.get("x-gateway-queue-ms", 0)) / 1000


async def transcription(client: openai.AsyncOpenAI, name: str, chance: Chance) -> tuple[str, float]:
    form = chance.choice(["json", "text", "srt", "vtt", "verbose_json", "stream"])
    audio = ("clip.wav", spoken(chance.choice([1, 2, 5, 16])))
    options: dict[str, Any] = {"stream": True} if form == "stream" else {"response_format": form}
    async with client.audio.transcriptions.with_streaming_response.create(model=name, file=audio, **options) as answer:
        await _read(answer)
        return f"transcription {form}", _queued(answer.headers)


async def speech(client: openai.AsyncOpenAI, name: str, chance: Chance) -> tuple[str, float]:
    form = chance.choice(["wav", "mp3", "flac", "opus", "pcm", "sse"])
    options: dict[str, Any] = (
        {"stream_format": "sse", "response_format": "pcm"} if form == "sse" else {"response_format": form}
    )
    text = "Every good boy deserves fudge. " * chance.choice([1, 2, 4])
    async with client.audio.speech.with_streaming_response.create(
        model=name, voice="alloy", input=text, **options
    ) as answer:
        await _read(answer)
        return f"speech {form}", _queued(answer.headers)


async def chat(client: openai.AsyncOpenAI, name: str, chance: Chance) -> tuple[str, float]:
    form = chance.choice(["text", "stream", "audio"])
    words = " ".join(chance.choices(["what", "is", "said", "here"], k=chance.choice([3, 10])))
    audio = {"data": base64.b64encode(spoken(1)).decode(), "format": "wav"}
    parts = [{"type": "text", "text": words}, {"type": "input_audio", "input_audio": audio}]
    options: dict[str, Any] = {"stream": form == "stream"}
    if form == "audio":
        options |= {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"}}
    messages: Any = [{"role": "user", "content": parts}]
    create = client.chat.completions.with_streaming_response.create
    async with create(model=name, messages=messages, max_tokens=24, **options) as answer:
        await _read(answer)
        return f"chat {form}", _queued(answer.headers)


async def _read(answer: Any) -> None:
    """To its end; an error event inside a stream is an error."""
    last = b""
    async for chunk in answer.iter_bytes():
        last = chunk
    if b'"error":' in last:
        raise BrokenStream(last.decode("utf-8", "replace")[-300:])


class BrokenStream(Exception):
    """A stream that ended with an error event."""


ASK: Mapping[str, Callable[[openai.AsyncOpenAI, str, Chance], Awaitable[tuple[str, float]]]] = {
    "transcription": transcription,
    "speech": speech,
    "chat": chat,
}


# --- The clients ------------------------------------------------------------------------------------------------------


async def one(
    client: openai.AsyncOpenAI, name: str, task: str, chance: Chance, tally: Tally, hang_up: float = HANG_UP
) -> float:
    """Send a request, or leave half-way with this probability; returns how long to pause before the next one."""
    began = time.perf_counter()
    patience = chance.uniform(0.005, 1.0) if chance.random() < hang_up else PATIENCE_SECONDS
    try:
        async with asyncio.timeout(patience):
            kind, queued = await ASK[task](client, name, chance)
        tally.outcomes["answered"] += 1
        tally.kinds[kind] += 1
        tally.queued.append(queued)
        tally.seconds.append(time.perf_counter() - began)
    except TimeoutError:
        tally.outcomes["left" if patience < PATIENCE_SECONDS else "no answer"] += 1
        if patience == PATIENCE_SECONDS:
            tally.unplanned.append(f"no answer in {PATIENCE_SECONDS:g} s")
    except openai.APIStatusError as error:
        return _refused(error, time.perf_counter() - began, tally)
    except (openai.APIConnectionError, BrokenStream) as error:
        tally.outcomes["broken"] += 1
        tally.worker_lost += "worker_lost" in str(error)
        tally.unplanned.append(f"{type(error).__name__}: {error.__cause__ or error!r}")
    return chance.uniform(0.0, PAUSE_SECONDS)


def _refused(error: openai.APIStatusError, seconds: float, tally: Tally) -> float:
    """A refusal is planned if it says when to come back, and if it is not about a worker that somebody ended."""
    tally.outcomes[str(error.status_code)] += 1
    lost = error.code == "worker_lost"
    tally.worker_lost += lost
    if lost or error.status_code not in (429, 503) or "retry-after" not in error.response.headers:
        tally.unplanned.append(f"{error.status_code} {error.message[:200]}")
        return PAUSE_SECONDS
    tally.refusals.append(seconds)
    return min(float(error.response.headers["retry-after"]), RETRY_SECONDS)


def new_client(url: str, key: str) -> openai.AsyncOpenAI:
    """One that repeats nothing by itself, so that every refusal is seen."""
    return openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=PATIENCE_SECONDS + 20)


async def client_loop(url: str, seed: int, tasks: Mapping[str, str], tallies: Mapping[str, Tally], end: float) -> None:
    """One client with its own key and connections. It stays with a model for a while, as people do."""
    chance = Chance(seed)
    async with new_client(url, f"client-{seed}") as client:
        name = chance.choice(sorted(tasks))
        while time.monotonic() < end:
            if chance.random() < 0.2:
                name = chance.choice(sorted(tasks))
            await asyncio.sleep(await one(client, name, tasks[name], chance, tallies[name]))
