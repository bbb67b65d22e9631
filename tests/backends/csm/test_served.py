"""A tiny CSM over HTTP with a real worker: formats, streaming, context, voices, watermark, many clients, a lost
worker."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import av
import httpx
import numpy as np
import psutil
import pytest
import soundfile

from app.config.settings import Settings
from tests.backends.csm.paths import KEY, MARK
from tests.support.server import Running, running
from tests.support.waiting import LIMIT

QUICK = {"max_seconds": 1.0}
HEADERS = {"api-key": "boss"}


@pytest.fixture(scope="module")
def server(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    models = tmp_path_factory.mktemp("served") / "models"
    voice = models / "voices" / "anna"
    voice.mkdir(parents=True)
    time = np.arange(16_000) / 16_000
    soundfile.write(voice / "clip.flac", 0.3 * np.sin(2 * np.pi * 200 * time), 16_000)
    (voice / "transcript.txt").write_text("This is Anna.", encoding="utf-8")
    csm = {"backend": "csm", "model": str(tiny), "device": "cpu", "voices": {"alloy": "anna"}}
    deployments = {
        "csm": {**csm, "watermark": False},
        "marked": {**csm, "watermark_model": str(MARK), "watermark_key": bytes(KEY).hex(), "watermark_sdr": 12.0},
        "unmarked": {**csm, "watermark_model": "nobody/here"},
    }
    settings = {"offline": True, "models_dir": str(models), "deployments": deployments, "server": {"admin_key": "boss"}}
    with running(Settings.model_validate(settings), real=True) as server:
        yield server


def speak(server: Running, **body: Any) -> httpx.Response:
    body = {
        "model": "csm",
        "input": "Hello there.",
        "voice": "0",
        "response_format": "wav",
        "seed": 1,
        "options": QUICK,
        **body,
    }
    return httpx.post(f"{server.url}/v1/audio/speech", json=body, headers=HEADERS, timeout=LIMIT)


def samples(answer: httpx.Response) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    data, rate = soundfile.read(io.BytesIO(answer.content), dtype="float32")
    assert rate == 24_000
    return data


@pytest.mark.parametrize("form", ["wav", "mp3", "flac", "opus", "aac", "pcm"])
def test_every_format(server: Running, form: str) -> None:
    answer = speak(server, response_format=form)
    assert answer.status_code == 200, answer.text
    assert len(answer.content) > 1000
    if form != "pcm":
        with av.open(io.BytesIO(answer.content)) as file:
            assert sum(frame.samples for frame in file.decode(audio=0)) > 20_000


def test_streamed_samples_equal_whole_ones(server: Running) -> None:
    streamed, whole = (speak(server, response_format="pcm", stream=stream) for stream in (True, False))
    assert len(streamed.content) > 40_000
    assert streamed.content == whole.content
    assert np.array_equal(samples(speak(server, stream=True)), samples(speak(server, stream=False)))


def test_two_speakers_with_context(server: Running) -> None:
    first = speak(server)
    answer_id = first.headers["x-gateway-answer-id"]
    tone = io.BytesIO()
    time = np.arange(44_100) / 44_100
    soundfile.write(tone, np.stack([np.sin(900 * time)] * 2, 1) * 0.3, 44_100, format="WAV")
    recorded = {"speaker": "1", "text": "A tone.", "audio": base64.b64encode(tone.getvalue()).decode()}
    earlier = {"speaker": "0", "text": "Hello there.", "answer_id": answer_id}
    alone = samples(speak(server, voice="1"))
    assert not np.array_equal(samples(speak(server, voice="1", context=[earlier])), alone)
    both = samples(speak(server, voice="1", context=[earlier, recorded]))
    assert not np.array_equal(both, alone)
    assert np.array_equal(samples(speak(server, voice="1", context=[earlier, recorded])), both)


def test_voice_folders_and_mapped_names(server: Running) -> None:
    anna = samples(speak(server, voice="anna"))
    assert np.array_equal(samples(speak(server, voice="alloy")), anna)
    assert not np.array_equal(anna, samples(speak(server, voice="0")))


def test_wrong_requests_name_their_field(server: Running) -> None:
    wrong = {
        "voice": {"voice": "nobody"},
        "input": {"input": ""},
        "context": {"context": [{"speaker": "0", "text": "x", "answer_id": "never"}]},
        "options": {"options": {"beams": 4}},
    }
    for param, body in wrong.items():
        answer = speak(server, **body)
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["param"] == param
    broken = {"speaker": "0", "text": "x", "audio": base64.b64encode(b"no audio at all").decode()}
    assert speak(server, context=[broken]).status_code == 400
    assert speak(server, input="x" * 4097).status_code == 400


@pytest.mark.parametrize("text", ["!!!", "\U0001f642"])
def test_marks_alone_are_a_short_silence_with_a_note(server: Running, text: str) -> None:
    answer = speak(server, input=text)
    assert answer.status_code == 200
    assert "only marks" in answer.headers["x-gateway-note"]


@pytest.mark.slow
def test_the_mark_is_found_on_what_was_spoken(server: Running) -> None:
    for stream in (True, False):
        spoken = speak(server, model="marked", stream=stream)
        upload = {"file": ("a.wav", spoken.content)}
        url = f"{server.url}/v1/audio/watermark/detect"
        found = httpx.post(url, files=upload, data={"model": "marked"}, headers=HEADERS, timeout=LIMIT)
        assert found.status_code == 200, found.text
        document = found.json()
        assert (document["status"], tuple(document["message"]), document["ours"]) == ("found", KEY, True)
    health = httpx.get(f"{server.url}/health", headers=HEADERS, timeout=LIMIT).json()
    assert "silentcipher" in health["deployments"]["marked"]["detail"]["watermark"]


def test_refuses_to_speak_without_its_mark(server: Running) -> None:
    answer = speak(server, model="unmarked")
    assert answer.status_code == 503
    assert "nobody--here" in answer.json()["error"]["message"]


def test_eight_clients_at_once_get_what_each_gets_alone(server: Running) -> None:
    bodies = [{"input": f"Number {i}.", "voice": str(i), "seed": i, "response_format": "pcm"} for i in range(8)]
    alone = [speak(server, **body).content for body in bodies]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda body: speak(server, **body).content, bodies))
    assert together == alone


def workers() -> list[psutil.Process]:
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            if "backends.worker" in child.cmdline():
                found.append(child)
        except psutil.Error:
            continue
    return found


def test_a_worker_lost_in_mid_stream(server: Running) -> None:
    """The stream breaks off, later requests are answered by a new worker."""
    speak(server)
    body = {
        "model": "csm",
        "input": "word " * 200,
        "voice": "0",
        "response_format": "pcm",
        "options": {"max_seconds": 30.0},
    }
    url = f"{server.url}/v1/audio/speech"
    with httpx.stream("POST", url, json=body, headers=HEADERS, timeout=LIMIT) as answer:
        pieces = answer.iter_raw()
        assert len(next(pieces)) > 0
        for worker in workers():
            worker.kill()
        with pytest.raises(httpx.RemoteProtocolError):
            for _ in pieces:
                pass
    assert samples(speak(server)).size > 20_000
