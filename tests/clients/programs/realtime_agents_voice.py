"""openai-agents' voice pipeline on streamed audio, over OpenAI's and Azure's address: URL WAV."""

import asyncio
import sys
import wave

import numpy as np
from agents import set_tracing_disabled
from agents.voice import (
    OpenAIVoiceModelProvider,
    StreamedAudioInput,
    VoicePipeline,
    VoicePipelineConfig,
    VoiceWorkflowBase,
)
from openai import AsyncAzureOpenAI, AsyncOpenAI

STEP = 2400  # samples: 100 ms


class Echo(VoiceWorkflowBase):
    """Says again what was said."""

    def __init__(self):
        self.transcripts = []

    async def run(self, transcription):
        self.transcripts.append(transcription)
        yield transcription + ". "


async def converse(client, pcm):
    workflow, given = Echo(), StreamedAudioInput()
    provider = OpenAIVoiceModelProvider(openai_client=client)
    pipeline = VoicePipeline(workflow=workflow, config=VoicePipelineConfig(model_provider=provider))
    result = await pipeline.run(given)
    for _ in range(2):
        for start in range(0, len(pcm), STEP):
            await given.add_audio(pcm[start : start + STEP])
    await given.add_audio(None)
    kinds = [event.type async for event in result.stream()]
    print(workflow.transcripts)
    assert len(workflow.transcripts) == 2
    assert "voice_stream_event_audio" in kinds
    assert "voice_stream_event_error" not in kinds


with wave.open(sys.argv[2]) as file:
    sound = np.frombuffer(file.readframes(file.getnframes()), np.int16)
set_tracing_disabled(True)
url = sys.argv[1]
azure = AsyncAzureOpenAI(
    azure_endpoint=url,
    api_version="2025-04-01-preview",
    api_key="any",
    websocket_base_url=url.replace("http", "ws", 1) + "/openai",
)
for one in (AsyncOpenAI(base_url=f"{url}/v1", api_key="any"), azure):
    asyncio.run(asyncio.wait_for(converse(one, sound), 120))
print("OK")
