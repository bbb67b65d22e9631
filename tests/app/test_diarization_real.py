"""Real words of real voices: Whisper base and diarization behind the running server, by upload and live."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator

import numpy as np
import pytest
import soundfile
from openai import OpenAI

from backends.interface import ASR_SAMPLE_RATE as RATE
from backends.interface import Samples
from backends.model_sets import MODEL_SETS, problems
from tests.backends.diarization.conftest import voices  # noqa: F401 - a fixture
from tests.backends.diarization.conversations import Piece
from tests.support.live_pool import Socket, connected
from tests.support.server import Running, fake_settings, running

pytestmark = [pytest.mark.real_weights, pytest.mark.slow]

DIARIZE = "gpt-4o-transcribe-diarize"
T = "conversation.item.input_audio_transcription"
TABLES = {
    "embedded-asr": {"backend": "whisper", "model": "whisper-base", "engine": "onnx", "device": "cpu"},
    "diarize": {"backend": "diarization", "transcription_deployment": "embedded-asr"},
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("models")
    for name in ("whisper-base", "diarization-community-1"):
        if wrong := problems(MODEL_SETS[name], folder / name):
            pytest.skip(f"{wrong[0]}: python scripts/bootstrap.py weights")
    tables = {"deployments": TABLES, "aliases": {DIARIZE: "diarize"}, "models_dir": str(folder)}
    with running(fake_settings(**tables, realtime={"transcription": "embedded-asr"}), real=True) as one:
        yield one


def pause(seconds: float) -> Samples:
    return np.zeros(int(seconds * RATE), np.float32)


def wav(samples: Samples) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, RATE, format="WAV")
    return file.getvalue()


def joined(pieces: list[Piece]) -> Samples:
    """Pieces of speech with half a second between them."""
    return np.concatenate([part for piece in pieces for part in (piece.samples, pause(0.5))])


def test_words_of_two_people_and_one_of_them_known(
    server: Running,
    voices: dict[str, list[Piece]],  # noqa: F811
) -> None:
    reader, woman = voices["reader"], voices["woman"]
    talk = joined([reader[0], woman[0], reader[1]])
    clip = base64.b64encode(wav(joined(reader[2:4])[: 8 * RATE])).decode()
    with OpenAI(base_url=f"{server.url}/v1", api_key="k", _strict_response_validation=True) as client:
        answer = client.audio.transcriptions.create(
            model=DIARIZE,
            file=("talk.wav", wav(talk)),
            response_format="diarized_json",
            language="en",
            chunking_strategy="auto",
            extra_body={
                "known_speaker_names": ["Reader"],
                "known_speaker_references": [f"data:audio/wav;base64,{clip}"],
            },
        )
    assert {one.speaker for one in answer.segments} == {"Reader", "A"}
    assert answer.segments[0].speaker == answer.segments[-1].speaker == "Reader"
    said = " ".join(one.text for one in answer.segments if one.speaker == "Reader").lower()
    assert "best of times" in said
    starts = len(reader[0].samples) / RATE
    hers = [one for one in answer.segments if one.speaker == "A"]
    assert hers[0].start == pytest.approx(starts + 0.5, abs=0.8)
    assert hers[-1].end == pytest.approx(starts + 0.5 + len(woman[0].samples) / RATE, abs=0.8)


def spoken_turn(socket: Socket, samples: Samples) -> list[str]:
    """The speakers of a turn that the client commits."""
    before = len(socket.of(".segment"))
    socket.append((samples * 32_767).astype("<i2").tobytes(), piece=32_000)
    socket.send("input_audio_buffer.commit")
    socket.until(f"{T}.completed")
    return [event["speaker"] for event in socket.of(".segment")[before:]]


def test_live_turns_keep_their_letters(
    server: Running,
    voices: dict[str, list[Piece]],  # noqa: F811
) -> None:
    reader, woman = voices["reader"], voices["woman"]
    with connected(server, f"/v1/realtime?intent=transcription&model={DIARIZE}") as socket:
        form = {"type": "audio/pcm", "rate": RATE}
        socket.update(audio={"input": {"format": form, "turn_detection": None}})
        found = [spoken_turn(socket, joined([piece])) for piece in (reader[0], woman[0], reader[1])]
        assert not socket.of("error")
    assert [set(turn) for turn in found] == [{"A"}, {"B"}, {"A"}]
