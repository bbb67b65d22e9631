"""Clients of realtime sessions, unchanged, each in an environment of its own, against a running server.

`make test-realtime-clients` runs these; make test does not. The models are test doubles that take a tone for speech.
"""

from __future__ import annotations

import wave
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.environments import Environment, check, command
from tests.support.live_pool import RATE, realtime_server, silence, tone
from tests.support.server import Running

pytestmark = [pytest.mark.realtime_clients, pytest.mark.slow]

PROGRAMS = Path(__file__).parent / "programs"
NAMES = {
    "whisper-1": {"backend": "fake", "task": "transcription"},
    "tts-1": {"backend": "fake", "task": "speech"},
    "gpt-4o-audio-preview": {"backend": "fake", "task": "chat", "audio_deployment": "tts-1"},
}
ROLES = {"transcription": "whisper-1", "speech": "tts-1", "chat": "gpt-4o-audio-preview"}
OPENAI = Environment("openai-realtime", ("openai[realtime]>=3,<4",))
PIPECAT = Environment("pipecat-realtime", ("pipecat-ai[openai]>=1.14,<2",))
LIVEKIT = Environment("livekit-realtime", ("livekit-plugins-openai[realtime]>=1.8,<2",))
AGENTS = Environment("openai-agents", ("openai-agents[realtime,voice]>=0.24,<1",))
CLIENTS = {
    "realtime_openai.py": OPENAI,
    "realtime_pipecat.py": PIPECAT,
    "realtime_pipecat_llm.py": PIPECAT,
    "realtime_livekit.py": LIVEKIT,
    "realtime_livekit_model.py": LIVEKIT,
    "realtime_agents_voice.py": AGENTS,
    "realtime_agents.py": AGENTS,
    "realtime_agents.mjs": Environment("agents-realtime-node", ("@openai/agents-realtime@0.20", "zod@4"), python=None),
}


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with realtime_server(deployments=NAMES, realtime=ROLES) as one:
        yield one


@pytest.fixture(scope="module")
def wav(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sound") / "turn.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(silence(0.5) + tone(1.0) + silence(1.0))
    return path


@pytest.mark.parametrize("program", CLIENTS)
def test_the_client_works(program: str, server: Running, wav: Path) -> None:
    check([*command(CLIENTS[program], PROGRAMS / program), server.url, str(wav)])
