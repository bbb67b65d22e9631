"""A conversation with the models themselves, tiny ones in processes of their own: what each is given."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.serving.reservation import PoolReservation
from backends.interface import ASR_SAMPLE_RATE, AudioPart, ChatRequest, Done, Event, Request, SpeechRequest
from scripts.fixtures.tiny_csm import make_tiny_csm
from tests.backends.diffa.folders import DATA
from tests.support.live_pool import connected, silence, tone
from tests.support.server import fake_settings, running

pytestmark = pytest.mark.slow

CONVERSATION = "/v1/realtime?model=gpt-realtime"
SPEECH = silence(0.5) + tone(1.0) + silence(1.0)
ASR = {"backend": "fake", "task": "transcription"}
Worked = list[tuple[Request, Done]]


@pytest.fixture
def worked(monkeypatch: pytest.MonkeyPatch) -> Worked:
    """What models were asked and how each ended, in order; live jobs left out."""
    done: Worked = []
    run = PoolReservation.run

    async def watched(request: Request, events: AsyncIterator[Event]) -> AsyncIterator[Event]:
        async for event in events:
            if isinstance(event, Done):
                done.append((request, event))
            yield event

    async def recorded(self: PoolReservation, request: Any) -> Any:
        events = await run(self, request)
        return watched(request, events) if isinstance(request, ChatRequest | SpeechRequest) else events

    monkeypatch.setattr(PoolReservation, "run", recorded)
    return done


def test_csm_is_reminded_of_what_both_said(tmp_path: Path, worked: Worked) -> None:
    """Its own answers by their ids, which the model's process still knows, and the user's turns as audio."""
    csm = {
        "backend": "csm",
        "model": str(make_tiny_csm(tmp_path / "csm")),
        "device": "cpu",
        "watermark": False,
        "max_seconds": 1.0,
        "voices": {"alloy": "0"},
    }
    chat = {"backend": "fake", "task": "chat"}
    names = {"transcription": "asr", "speech": "csm", "chat": "chat"}
    settings = fake_settings(deployments={"asr": ASR, "csm": csm, "chat": chat}, realtime=names)
    with running(settings, real=True) as server, connected(server, CONVERSATION) as socket:
        for _ in range(2):
            socket.append(SPEECH)
            assert socket.until("response.done")["response"]["status"] == "completed"
    spoken = [(request, done) for request, done in worked if isinstance(request, SpeechRequest)]
    assert [len(request.context) for request, _ in spoken] == [1, 3], "and never refused, which is one without"
    assert all(done.usage.output_tokens for _, done in spoken)
    (first, _), (second, _) = spoken
    before, said, after = second.context
    assert (said.speaker, said.text, said.answer_id) == (first.voice, first.text, first.answer_id)
    assert said.samples is None
    for turn in (first.context[0], before, after):
        assert turn.speaker != first.voice
        assert turn.text
        assert turn.samples is not None
        assert np.abs(turn.samples).max() == pytest.approx(0.3, abs=0.03)
    assert first.context[0].samples is not None
    assert np.array_equal(first.context[0].samples, before.samples)  # type: ignore[arg-type]


def test_diffa_gets_the_audio_itself(worked: Worked) -> None:
    folders = {"model": "llm", "whisper_model": "whisper", "adapter_model": "adapter"}
    diffa = {"backend": "diffa", "dtype": "float32", "device": "cpu"}
    diffa |= {key: str(DATA / folder) for key, folder in folders.items()}
    names = {"transcription": "asr", "speech": "fake-tts", "chat": "diffa"}
    speech = {"backend": "fake", "task": "speech"}
    settings = fake_settings(deployments={"asr": ASR, "diffa": diffa, "fake-tts": speech}, realtime=names)
    with running(settings, real=True) as server, connected(server, CONVERSATION) as socket:
        socket.update("realtime", output_modalities=["text"], max_output_tokens=16)
        socket.append(SPEECH)
        done = socket.until("response.done")["response"]
    ((request, end),) = worked
    assert isinstance(request, ChatRequest)
    ((part,),) = [message.parts for message in request.messages]
    assert isinstance(part, AudioPart), "and no transcript beside it"
    assert np.abs(part.samples).max() == pytest.approx(0.3, abs=0.03)
    begun, ended = (socket.of(kind)[0] for kind in ("speech_started", "speech_stopped"))
    seconds = (ended["audio_end_ms"] - begun["audio_start_ms"]) / 1000
    assert len(part.samples) / ASR_SAMPLE_RATE == pytest.approx(seconds, abs=0.01)
    assert done["usage"]["input_token_details"]["audio_tokens"] == end.usage.input_audio_tokens > 0
