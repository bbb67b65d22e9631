"""Speech and chat over HTTP with real worker processes: the embedded voice, hang-ups, kills."""

from __future__ import annotations

import base64
import io
import json
import os
import time
from collections.abc import Iterator
from typing import Any

import av
import httpx
import numpy as np
import openai
import pytest
import soundfile

from app.serving.pool import WorkerPool
from tests.support.server import Running, server_fixture
from tests.support.waiting import LIMIT, wait_until

TEXT = "The quick brown fox jumps over the lazy dog."
SLOW = {"backend": "fake", "task": "speech", "delay": 0.1}
LONG = "One sentence of some length. " * 60


server = server_fixture(
    deployments={
        "slow-tts": SLOW,
        "talker": {"backend": "fake", "task": "chat", "audio_deployment": "embedded-tts"},
        "two-voices": {"backend": "fake", "task": "speech"},
        "permissive": {"backend": "voices", "permissive_licences_only": True},
    },
    real=True,
)


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="k", max_retries=0) as client:
        yield client


def pool_of(server: Running) -> WorkerPool:
    assert isinstance(server.gateway.pool, WorkerPool)
    return server.gateway.pool


def seconds_of(data: bytes, name: str) -> float:
    if name == "pcm":
        return len(data) / 48_000
    with av.open(io.BytesIO(data)) as file:
        frames = list(file.decode(audio=0))
    assert np.abs(frames[len(frames) // 2].to_ndarray()).max() > 0
    return sum(frame.samples / frame.sample_rate for frame in frames)


def speak(client: openai.OpenAI, **fields: Any) -> bytes:
    wanted: Any = {"model": "embedded-tts", "voice": "alloy", "input": TEXT, "response_format": "wav", **fields}
    return client.audio.speech.create(**wanted).read()


def test_the_embedded_voice_in_every_format(client: openai.OpenAI) -> None:
    wav = speak(client)
    length = soundfile.info(io.BytesIO(wav)).duration
    assert 2.0 < length < 6.0
    for name in ("mp3", "opus", "aac", "flac", "pcm"):
        assert seconds_of(speak(client, response_format=name), name) == pytest.approx(length, abs=0.15)


@pytest.mark.parametrize(
    "fields",
    [{"response_format": name} for name in ("mp3", "opus", "aac", "flac", "wav", "pcm")] + [{"stream_format": "sse"}],
)
def test_that_espeak_speaks_is_told_ahead_of_the_sound(client: openai.OpenAI, fields: dict[str, Any]) -> None:
    """In the headers, which a text this long sends before its last sentence is spoken."""
    answer = client.audio.speech.with_raw_response.create(model="permissive", voice="alloy", input=LONG, **fields)
    note = "espeak-ng spoke: there is no neural voice for English with a permissive licence"
    assert answer.headers["x-gateway-note"] == note


def test_a_faster_voice_needs_less_time(client: openai.OpenAI) -> None:
    normal, fast = (len(speak(client, speed=speed, response_format="pcm")) for speed in (1.0, 2.0))
    assert 0.4 < fast / normal < 0.65


def test_openais_voices_are_the_backends_in_a_fixed_order(client: openai.OpenAI) -> None:
    """The double has two voices and refuses all other names. As pcm: a wav's header holds the length of what was
    ready when it was sent."""
    spoken = {
        voice: speak(client, model="two-voices", voice=voice, response_format="pcm")
        for voice in ("alloy", "ballad", "fake-low", "ash")
    }
    assert spoken["alloy"] == spoken["ballad"] == spoken["fake-low"]
    assert spoken["alloy"] != spoken["ash"]


def test_an_unknown_voice(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        speak(client, voice="nobody")
    assert error.value.param == "voice"


def test_voices_are_listed_once_the_model_was_loaded(server: Running, client: openai.OpenAI) -> None:
    speak(client, model="two-voices")
    headers = {"api-key": "k"}
    listed = httpx.get(f"{server.url}/v1/audio/voices?model=two-voices", headers=headers).json()["voices"]
    assert {"id": "fake-high", "name": "High tone"} in listed


def test_a_client_that_hangs_up_stops_the_work(server: Running) -> None:
    body = {"model": "slow-tts", "input": LONG, "voice": "fake-low", "response_format": "mp3"}
    with httpx.stream(
        "POST", f"{server.url}/v1/audio/speech", json=body, headers={"api-key": "k"}, timeout=LIMIT
    ) as answer:
        next(answer.iter_raw())
        assert pool_of(server).status()["slow-tts"].jobs_active == 1
    wait_until(lambda: pool_of(server).status()["slow-tts"].jobs_active == 0)
    wait_until(lambda: server.gateway.in_flight == 0)


@pytest.mark.parametrize("stream_format", ["sse", "audio"])
def test_a_worker_killed_in_the_middle_costs_one_answer(server: Running, stream_format: str) -> None:
    body = {
        "model": "slow-tts",
        "input": LONG,
        "voice": "fake-low",
        "response_format": "pcm",
        "stream_format": stream_format,
    }
    post = httpx.stream("POST", f"{server.url}/v1/audio/speech", json=body, headers={"api-key": "k"}, timeout=LIMIT)
    with post as answer:
        pieces = answer.iter_raw()
        told = next(pieces)
        os.kill(worker_of(server, "slow-tts"), 9)
        if stream_format == "sse":
            told += b"".join(pieces)
            last = told.strip().rsplit(b"data: ", 1)[-1]
            assert json.loads(last)["error"]["code"] == "worker_lost"
        else:
            with pytest.raises(httpx.RemoteProtocolError):
                list(pieces)
    short = {**body, "input": "Again.", "stream_format": "audio"}
    while (
        again := httpx.post(f"{server.url}/v1/audio/speech", json=short, headers={"api-key": "k"})
    ).status_code == 503:
        time.sleep(float(again.headers["retry-after-ms"]) / 1000)
    assert again.status_code == 200


def worker_of(server: Running, name: str) -> int:
    worker = pool_of(server).dispatchers[name].supervisor.worker
    assert worker is not None
    return worker.pid


def test_a_chat_answer_spoken_by_the_embedded_voice(client: openai.OpenAI) -> None:
    clip = base64.b64encode(speak(client)).decode()
    content: Any = [
        {"type": "input_audio", "input_audio": {"data": clip, "format": "wav"}},
        {"type": "text", "text": "Hm?"},
    ]
    messages: Any = [{"role": "user", "content": content}]
    answer = client.chat.completions.create(
        model="talker", messages=messages, modalities=["text", "audio"], audio={"voice": "alloy", "format": "wav"}
    )
    audio = answer.choices[0].message.audio
    assert audio is not None
    assert audio.transcript.startswith("I heard")
    assert audio.transcript.endswith("You said: Hm?")
    assert soundfile.info(io.BytesIO(base64.b64decode(audio.data))).duration > 1.5
    with client.chat.completions.stream(
        model="talker", messages=messages, modalities=["text", "audio"], audio={"voice": "alloy", "format": "pcm16"}
    ) as stream:
        for _ in stream:
            pass
        spoken = stream.get_final_completion().choices[0].message.audio
    assert spoken is not None
    assert spoken.transcript == audio.transcript
    assert len(base64.b64decode(spoken.data, validate=True)) > 1.5 * 48_000
