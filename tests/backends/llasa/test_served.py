"""A tiny LLASA over HTTP with a real worker: formats, voices, cloning, streaming, many clients; dataset and
fine-tuning."""

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
import pytest
import soundfile

from app.config.settings import Settings
from backends.llasa.training import dataset, finetune
from tests.backends.llasa.folders import quiet, write_adapter
from tests.support.server import Running, running
from tests.support.waiting import LIMIT

SENTENCES = ("The first clip says this.", "Another clip says that.", "A third one ends the set.")
QUICK = {"max_new_tokens": 40}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, lm_folder: Path) -> Path:
    """A models folder with an adapter and a voice whose transcript is still missing."""
    models = tmp_path_factory.mktemp("served") / "models"
    write_adapter(models / "lora", lm_folder, seed=9)
    voice = models / "voices" / "anna"
    voice.mkdir(parents=True)
    time = np.arange(16_000) / 16_000
    soundfile.write(voice / "clip.wav", 0.3 * np.sin(2 * np.pi * 200 * time), 16_000)
    return models


@pytest.fixture(scope="module")
def server(place: Path, lm_folder: Path, codec_folder: Path) -> Iterator[Running]:
    llasa = {
        "backend": "llasa",
        "model": str(lm_folder),
        "codec_model": str(codec_folder),
        "device": "cpu",
        "dtype": "float32",
    }
    deployments = {
        "llasa": {**llasa, "adapters": {"lora": "lora"}, "retries": 0},
        "trained": {**llasa, "adapters": {"mine": "trained"}, "retries": 0},
    }
    settings = {"offline": True, "models_dir": str(place), "deployments": deployments}
    with running(Settings.model_validate(settings), real=True) as server:
        # The transcript comes only now: the worker has started without the encoder, and the first clip brings it.
        assert speak(server, input="Hello.").status_code == 200
        (place / "voices" / "anna" / "transcript.txt").write_text("The quick brown fox.", encoding="utf-8")
        yield server


def speak(server: Running, **body: Any) -> httpx.Response:
    body = {"model": "llasa", "voice": "default", "response_format": "wav", "seed": 1, "options": QUICK, **body}
    return httpx.post(f"{server.url}/v1/audio/speech", json=body, headers={"api-key": "x"}, timeout=LIMIT)


def samples(answer: httpx.Response) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    data, rate = soundfile.read(io.BytesIO(answer.content), dtype="float32")
    assert rate == 16_000 or rate == 24_000
    return data


def test_a_first_clone_and_the_streams_beside_it(server: Running) -> None:
    stream = {"input": "Hello there, you.", "options": {"max_new_tokens": 150}, "response_format": "pcm", "seed": 4}
    with ThreadPoolExecutor(4) as pool:
        streams = [pool.submit(speak, server, **stream) for _ in range(2)]
        clones = [pool.submit(speak, server, input="Hello there.", voice="anna", stream=False) for _ in range(2)]
    assert len({samples(clone.result()).tobytes() for clone in clones}) == 1
    assert {answer.result().content for answer in streams} == {speak(server, **stream).content}


@pytest.mark.parametrize("form", ["wav", "mp3", "flac", "opus", "aac", "pcm"])
def test_every_format(server: Running, form: str) -> None:
    answer = speak(server, input="Hello there.", response_format=form)
    assert answer.status_code == 200, answer.text
    assert len(answer.content) > 500
    if form != "pcm":
        with av.open(io.BytesIO(answer.content)) as file:
            assert sum(frame.samples for frame in file.decode(audio=0)) > 8000


def test_base_adapter_and_folder_voices_differ(server: Running) -> None:
    answers = {voice: speak(server, input="Hello there.", voice=voice) for voice in ("default", "lora", "anna")}
    assert len({samples(answer).tobytes() for answer in answers.values()}) == 3
    whole = speak(server, input="Hello there.", stream=False)
    assert float(whole.headers["x-gateway-model-ms"]) > 0
    listed = httpx.get(
        f"{server.url}/v1/audio/voices", params={"model": "llasa"}, headers={"api-key": "x"}, timeout=LIMIT
    ).json()
    assert {"default", "lora", "anna"} <= {voice["id"] for voice in listed["voices"]}


def test_a_voice_is_cloned_from_a_clip_at_another_rate(server: Running) -> None:
    buffer = io.BytesIO()
    time = np.arange(44_100) / 44_100
    soundfile.write(buffer, np.stack([0.2 * np.sin(2 * np.pi * 150 * time)] * 2, 1), 44_100, format="FLAC")
    clip = base64.b64encode(buffer.getvalue()).decode()
    cloned = speak(server, input="Hello there.", reference_audio=clip, reference_text="What the clip says.")
    assert samples(cloned).tobytes() != samples(speak(server, input="Hello there.")).tobytes()
    refused = speak(server, input="Hello there.", reference_audio=clip)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "reference_text"


@pytest.mark.parametrize("form", [{}, {"stream": False}, {"stream_format": "sse", "response_format": "pcm"}])
def test_a_clip_that_leaves_no_room_is_refused_before_any_audio(server: Running, form: dict[str, Any]) -> None:
    answer = speak(server, input="Hi.", voice="anna", options={"max_length": 110}, **form)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == "input"
    assert "text and reference clip take" in answer.json()["error"]["message"]


def test_a_stream_comes_in_pieces_and_the_whole_is_whole(server: Running) -> None:
    options = {"max_new_tokens": 150, "repetition_penalty": 1.3}
    body = {"input": "Hello there, you.", "options": options, "response_format": "pcm", "seed": 4}
    whole = speak(server, **body, stream=False)
    again = speak(server, **body, stream=False)
    streamed = speak(server, **body)
    assert whole.content == again.content
    assert len(streamed.content) == len(whole.content)
    one, other = (np.frombuffer(answer.content, np.int16).astype(float) for answer in (streamed, whole))
    assert np.corrcoef(one, other)[0, 1] > 0.9
    assert whole.headers["x-gateway-seed"] == "4"


@pytest.mark.parametrize("text", ["!!!", "\U0001f642"])
def test_marks_alone_are_a_short_silence_with_a_note(server: Running, text: str) -> None:
    answer = speak(server, input=text)
    assert answer.status_code == 200
    assert "only marks" in answer.headers["x-gateway-note"]


def test_eight_clients_at_once(server: Running) -> None:
    texts = [f"Client number {number} speaks." for number in range(8)]
    alone = [samples(speak(server, input=text, stream=False)) for text in texts[:2]]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda text: samples(speak(server, input=text, stream=False)), texts))
    assert all(len(answer) for answer in answers)
    for one, other in zip(alone, answers, strict=False):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": "Hi.", "voice": "nobody"}, "voice"),
        ({"input": ""}, "input"),
        ({"input": "Hi.", "options": {"top_p": 7.0}}, "options.top_p"),
        ({"input": "Hi.", "options": {"max_length": 64}, "voice": "anna"}, "input"),
    ],
)
def test_bad_requests_name_the_field(server: Running, body: dict[str, Any], param: str) -> None:
    answer = speak(server, **body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


@pytest.mark.slow
def test_from_clips_to_a_served_adapter(
    server: Running, tmp_path: Path, lm_folder: Path, codec_folder: Path, place: Path
) -> None:
    """Clips by the embedded voice, a dataset, two steps of training, and the adapter speaks beside the base voice."""
    clips = tmp_path / "clips"
    clips.mkdir()
    for number, text in enumerate(SENTENCES):
        body = {"model": "embedded-tts", "voice": "alloy", "input": text, "response_format": "wav"}
        answer = httpx.post(f"{server.url}/v1/audio/speech", json=body, headers={"api-key": "x"}, timeout=LIMIT)
        assert answer.status_code == 200, answer.text
        (clips / f"{number}.wav").write_bytes(answer.content)
    texts = tmp_path / "texts.txt"
    texts.write_text("".join(f"{number}:{text}\n" for number, text in enumerate(SENTENCES)), encoding="utf-8")
    data = tmp_path / "data.jsonl"
    # Trimming is left out here: importing librosa takes longer than all the rest (test_dataset.py has it).
    assert (
        dataset.main(
            [str(clips), str(texts), "-o", str(data), "--codec", str(codec_folder), "--trim-db", "0", "--bf16"]
        )
        == 0
    )
    assert len(data.read_text(encoding="utf-8").splitlines()) == 3
    steps = ["--steps", "2", "--accumulation", "1", "--save-every", "1", "--device", "cpu"]
    assert quiet(finetune.main)([str(data), "--model", str(lm_folder), "-o", str(place / "trained"), *steps]) == 0
    assert (place / "trained" / "loss.png").is_file()
    for voice in ("default", "mine", "mine-checkpoint-1"):
        assert len(samples(speak(server, input="Hello.", voice=voice, model="trained")))
