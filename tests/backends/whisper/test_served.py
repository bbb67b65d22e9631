"""The miniature behind the real server: pulled, deployed, asked by curl and by the OpenAI clients."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import soundfile
import soxr

from tests.backends.whisper.spoken import RATE, Recording, error_rate, record
from tests.support.audio import by_soundfile
from tests.support.hub import running_hub
from tests.support.server import server_process
from tests.support.waiting import LIMIT

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
MINIATURE = ROOT / "tests" / "data" / "whisper_tiny"


def own_home(folder: Path) -> dict[str, str]:
    names = ("HOME", "USERPROFILE", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "LOCALAPPDATA")
    return os.environ | {name: str(folder) for name in names} | {"PYTHONPATH": str(ROOT)}


def command_line(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "app.cli", *arguments],
        cwd=folder,
        env=own_home(folder) | environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=LIMIT,
        check=False,
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder into which whisper-1 was pulled from a stick."""
    folder = tmp_path_factory.mktemp("home")
    stick = folder / "stick" / "openai--whisper-small"
    shutil.copytree(MINIATURE, stick)
    pulled = command_line(folder, "pull", "whisper-1", "--from", str(stick))
    assert pulled.returncode == 0, pulled.stderr
    shutil.rmtree(folder / "stick")
    return folder


@pytest.fixture(scope="module")
def url(home: Path) -> Iterator[str]:
    (home / "gateway.toml").write_text("offline = true\n", encoding="utf-8")
    log, config = home / "log.txt", home / "gateway.toml"
    with server_process(log, "--config", str(config), folder=home, environment=own_home(home)) as address:
        yield address


@pytest.fixture(scope="module")
def clip() -> Recording:
    return record(3, seed=700)


def wav(samples: np.ndarray, rate: int = RATE) -> bytes:
    return by_soundfile(samples, rate, "WAV", "PCM_16")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, clip: Recording) -> Path:
    path = tmp_path_factory.mktemp("clip") / "three sentences.wav"
    path.write_bytes(wav(clip.samples))
    return path


def curl(url: str, file: Path, *fields: str, route: str = "transcriptions") -> tuple[str, str]:
    """Content type and body."""
    form = [part for field in ("model=whisper-1", *fields) for part in ("-F", field)]
    command = ["curl", "-sS", "-w", "\n%{content_type}", "-H", "api-key: any", "-F", f"file=@{file}", *form]
    done = subprocess.run([*command, f"{url}/v1/audio/{route}"], capture_output=True, check=True, timeout=LIMIT)
    body, _, kind = done.stdout.decode("utf-8").rpartition("\n")
    return kind, body


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0, timeout=LIMIT) as one:
        yield one


def test_json(url: str, file: Path, clip: Recording) -> None:
    kind, body = curl(url, file)
    assert kind == "application/json"
    assert json.loads(body)["text"] == clip.text


def test_text(url: str, file: Path, clip: Recording) -> None:
    kind, body = curl(url, file, "response_format=text")
    assert kind == "text/plain; charset=utf-8"
    assert body == clip.text + "\n"


def test_srt(url: str, file: Path, clip: Recording) -> None:
    _, body = curl(url, file, "response_format=srt")
    cues = [cue.split("\n") for cue in body.strip().split("\n\n")]
    assert [cue[0] for cue in cues] == [str(number) for number in range(1, len(cues) + 1)]
    assert all(re.fullmatch(r"\d\d:\d\d:\d\d,\d{3} --> \d\d:\d\d:\d\d,\d{3}", cue[1]) for cue in cues)
    assert " ".join(cue[2] for cue in cues) == clip.text
    begins = [int(cue[1][6:8]) + int(cue[1][9:12]) / 1000 for cue in cues]
    assert begins == pytest.approx([start for start, _ in clip.times], abs=0.5)


def test_vtt(url: str, file: Path, clip: Recording) -> None:
    _, body = curl(url, file, "response_format=vtt")
    assert body.startswith("WEBVTT\n\n00:00:0")
    assert all(sentence in body for sentence in clip.sentences)


def test_verbose_json_with_words(url: str, file: Path, clip: Recording) -> None:
    fields = ("response_format=verbose_json", "timestamp_granularities[]=word", "timestamp_granularities[]=segment")
    document = json.loads(curl(url, file, *fields)[1])
    assert document["language"] == "english"
    assert document["duration"] == pytest.approx(len(clip.samples) / RATE, abs=0.01)
    assert [segment["text"].strip() for segment in document["segments"]] == list(clip.sentences)
    assert [word["word"] for word in document["words"]] == clip.text.split()
    assert all(segment["tokens"] and segment["avg_logprob"] < 0 for segment in document["segments"])


def test_german_is_found_and_translated(url: str, tmp_path: Path) -> None:
    clip = record(2, seed=710, language="de")
    path = tmp_path / "german.wav"
    path.write_bytes(wav(clip.samples))
    document = json.loads(curl(url, path, "response_format=verbose_json")[1])
    assert document["language"] == "german"
    assert error_rate(clip.text, document["text"]) < 0.2
    translated = json.loads(curl(url, path, route="translations")[1])["text"]
    assert error_rate(" ".join(clip.translations), translated) < 0.2


@pytest.mark.parametrize("kind", ["8 kHz", "8 channels", "44.1 kHz flac"])
def test_other_rates_and_channels(url: str, tmp_path: Path, clip: Recording, kind: str) -> None:
    path = tmp_path / "odd"
    if kind == "8 kHz":
        path.write_bytes(wav(soxr.resample(clip.samples, RATE, 8000), 8000))
    elif kind == "8 channels":
        path.write_bytes(wav(np.repeat(clip.samples[:, None], 8, axis=1)))
    else:
        soundfile.write(path, soxr.resample(clip.samples, RATE, 44_100), 44_100, format="FLAC")
    document = json.loads(curl(url, path, "language=en", "response_format=verbose_json")[1])
    assert document["duration"] == pytest.approx(len(clip.samples) / RATE, abs=0.01)
    assert document["text"]
    if kind != "8 kHz":  # a telephone's band was no part of the miniature's training
        assert error_rate(clip.text, document["text"]) < 0.1


@pytest.mark.parametrize("samples", [np.zeros(3 * RATE), np.random.default_rng(0).standard_normal(3 * RATE) * 0.1])
def test_silence_and_noise_are_empty(url: str, tmp_path: Path, samples: np.ndarray) -> None:
    path = tmp_path / "quiet.wav"
    path.write_bytes(wav(samples.astype(np.float32)))
    assert json.loads(curl(url, path)[1])["text"] == ""
    assert curl(url, path, "response_format=vtt")[1].strip() == "WEBVTT"


def test_an_unknown_language_is_the_callers_mistake(url: str, file: Path) -> None:
    error = json.loads(curl(url, file, "language=klingon")[1])["error"]
    assert error["param"] == "language"


def test_the_client_streams_segment_by_segment(client: openai.OpenAI, file: Path, clip: Recording) -> None:
    with file.open("rb") as stream:
        events = list(
            client.audio.transcriptions.create(
                model="gpt-4o-transcribe", file=stream, stream=True, language="en", include=["logprobs"]
            )
        )
    deltas = [event for event in events if event.type == "transcript.text.delta"]
    assert len(deltas) >= len(clip.sentences)
    assert events[-1].type == "transcript.text.done"
    assert events[-1].text == "".join(event.delta for event in deltas) == clip.text
    logprobs = [item for event in deltas for item in event.logprobs or ()]
    assert logprobs
    assert all(item.logprob <= 0 for item in logprobs)


def test_the_azure_client_gets_the_same(url: str, file: Path, clip: Recording) -> None:
    with openai.AzureOpenAI(azure_endpoint=url, api_key="any", api_version="2024-10-21", max_retries=0) as azure:
        answer = azure.audio.transcriptions.create(model="whisper-1", file=file, prompt="Anna buys two red boats.")
    assert answer.text == clip.text


def test_health_tells_engine_device_and_nodes(url: str, file: Path) -> None:
    curl(url, file)
    status = httpx.get(f"{url}/health").json()["deployments"]["whisper-1"]
    assert (status["state"], status["engine"], status["device"], status["dtype"]) == ("ready", "onnx", "cpu", "int8")
    assert status["detail"]["nodes"]["decoder"]["CPUExecutionProvider"] > 10


def test_doctor_explains_the_device(home: Path) -> None:
    told = command_line(home, "doctor")
    assert "whisper-1" in told.stdout
    assert "cpu" in told.stdout.lower()


def test_pull_from_a_hub(tmp_path: Path) -> None:
    with running_hub() as hub:
        content = {path.name: path.read_bytes() for path in MINIATURE.iterdir() if path.is_file()}
        hub.repositories["openai/whisper-small"] = content | {"pytorch_model.bin": b"pickle", "README.md": b"#"}
        pulled = command_line(tmp_path, "pull", "whisper-1", HF_ENDPOINT=hub.url, HF_HUB_OFFLINE="0")
    assert pulled.returncode == 0, pulled.stderr
    folder = tmp_path / "models" / "openai--whisper-small"
    assert (folder / "model.safetensors").read_bytes() == content["model.safetensors"]
    assert not (folder / "pytorch_model.bin").exists()


def call(url: str, **form: Any) -> httpx.Response:
    return httpx.post(f"{url}/v1/audio/transcriptions", headers={"api-key": "any"}, timeout=LIMIT, **form)


def test_eight_clients_at_once_get_their_own_words(url: str) -> None:
    from concurrent.futures import ThreadPoolExecutor

    clips = [record(1, seed=720 + number) for number in range(8)]

    def ask(one: Recording) -> str:
        answer = call(url, data={"model": "whisper-1", "language": "en"}, files={"file": ("a.wav", wav(one.samples))})
        return str(answer.json()["text"])

    with ThreadPoolExecutor(8) as pool:
        recognized = list(pool.map(ask, clips))
    assert error_rate(" ".join(one.text for one in clips), " ".join(recognized)) < 0.05
