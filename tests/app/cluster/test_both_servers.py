"""The same requests to a gateway with workers of its own and to one over a cluster: the same answers.

`--server=uvicorn` or `--server=cluster` names one of them.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import soundfile
from openai import AzureOpenAI, OpenAI

from tests.support.audio import wav_of
from tests.support.waiting import LIMIT

KEY = {"api-key": "k"}


def _clients(url: str) -> dict[str, OpenAI]:
    options: dict[str, Any] = {"api_key": "k", "max_retries": 0, "timeout": LIMIT}
    return {
        "azure": AzureOpenAI(azure_endpoint=url, api_version="2024-10-21", **options),
        "v1": OpenAI(base_url=f"{url}/openai/v1/", **options),
        "plain": OpenAI(base_url=f"{url}/v1", **options),
    }


@pytest.mark.parametrize("scheme", ["azure", "v1", "plain"])
def test_a_transcript_on_every_scheme(gateway: str, scheme: str) -> None:
    with _clients(gateway)[scheme] as client:
        answer = client.audio.transcriptions.create(model="asr", file=("a.wav", wav_of(2)))
        assert answer.text == "one two three four"


def test_a_transcript_as_it_comes(gateway: str) -> None:
    with _clients(gateway)["plain"] as client:
        events = list(client.audio.transcriptions.create(model="asr", file=("a.wav", wav_of(30)), stream=True))
        deltas = [event.delta for event in events if event.type == "transcript.text.delta"]
        assert events[-1].type == "transcript.text.done"
        assert "".join(deltas).strip() == events[-1].text.strip()
        assert len(deltas) > 1


@pytest.mark.parametrize("form", ["verbose_json", "srt", "vtt", "text"])
def test_a_transcript_in_every_form(gateway: str, form: str) -> None:
    data = {"model": "asr", "response_format": form}
    answer = httpx.post(f"{gateway}/v1/audio/transcriptions", headers=KEY, data=data, files={"file": wav_of(2)})
    assert answer.status_code == 200
    assert "four" in answer.text


@pytest.mark.parametrize("form", ["wav", "pcm", "mp3"])
def test_speech(gateway: str, form: str) -> None:
    body = {"model": "tts", "voice": "fake-low", "input": "Hello there. " * 20, "response_format": form}
    answer = httpx.post(f"{gateway}/v1/audio/speech", headers=KEY, json=body)
    assert answer.status_code == 200
    assert len(answer.content) > 1000


def test_an_answer_and_the_same_as_it_comes(gateway: str) -> None:
    messages: Any = [{"role": "user", "content": "what is this"}]
    with _clients(gateway)["plain"] as client:
        whole = client.chat.completions.create(model="chat", messages=messages, modalities=["text"])
        parts = list(client.chat.completions.create(model="chat", messages=messages, modalities=["text"], stream=True))
        text = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
        assert text == whole.choices[0].message.content
        assert "what is this" in text


def test_a_question_with_an_hour_of_audio_behind_it(gateway: str) -> None:
    """FLAC keeps the upload small; what is decoded are 230 MB of samples."""
    flac = io.BytesIO()
    soundfile.write(flac, np.zeros(3600 * 16_000, np.int16), 16_000, format="FLAC")
    data = {"model": "asr", "response_format": "verbose_json"}
    files = {"file": ("hour.flac", flac.getvalue())}
    answer = httpx.post(f"{gateway}/v1/audio/transcriptions", headers=KEY, data=data, files=files)
    assert answer.status_code == 200, answer.text
    assert answer.json()["duration"] == pytest.approx(3600, abs=1)
    assert len(answer.json()["text"].split()) == 7200


def test_refusals(gateway: str) -> None:
    with _clients(gateway)["plain"] as client:
        with pytest.raises(openai.NotFoundError):
            client.audio.transcriptions.create(model="nobody", file=("a.wav", wav_of(1)))
        with pytest.raises(openai.BadRequestError):
            client.audio.transcriptions.create(model="asr", file=("a.wav", b"no audio"))
        with pytest.raises(openai.BadRequestError):
            client.audio.transcriptions.create(model="bad", file=("a.wav", wav_of(1)))
        with pytest.raises(openai.InternalServerError) as caught:
            client.audio.transcriptions.create(model="broken", file=("a.wav", wav_of(1)))
        assert caught.value.status_code == 500
    assert httpx.post(f"{gateway}/v1/audio/speech", json={"model": "tts"}).status_code == 400


def test_health_and_metrics(gateway: str) -> None:
    assert httpx.get(f"{gateway}/health/live").status_code == 200
    assert httpx.get(f"{gateway}/health/ready").status_code == 200
    deep = httpx.get(f"{gateway}/health?deep=1").json()
    assert deep["deployments"]["asr"]["state"] in ("ready", "busy")
    assert deep["deployments"]["asr"]["error"] is None
    assert "gateway_requests_total" in httpx.get(f"{gateway}/metrics").text


def test_the_request_id_is_in_the_answer_once(gateway: str) -> None:
    files = {"file": wav_of(1)}
    answer = httpx.post(f"{gateway}/v1/audio/transcriptions", headers=KEY, data={"model": "asr"}, files=files)
    assert len(answer.headers.get_list("x-request-id")) == 1


def test_more_than_there_is_room_for_is_429_and_nothing_else(gateway: str, tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def one(_: int) -> int:
        data, files = {"model": "narrow"}, {"file": wav_of(2)}
        answer = httpx.post(f"{gateway}/v1/audio/transcriptions", headers=KEY, data=data, files=files)
        if answer.status_code == 429:
            assert int(answer.headers["retry-after"]) >= 1
        return answer.status_code

    with ThreadPoolExecutor(24) as threads:
        statuses = set(threads.map(one, range(24)))
    assert statuses == {200, 429}
