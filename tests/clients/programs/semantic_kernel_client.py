"""Semantic Kernel: OpenAI's services over http, Azure's, which insist on https: URL WAV."""

import asyncio
import sys

from openai import AsyncOpenAI
from semantic_kernel.connectors.ai.open_ai import (
    AzureAudioToText,
    AzureTextToAudio,
    OpenAIAudioToText,
    OpenAITextToAudio,
)
from semantic_kernel.contents import AudioContent

url, wav = sys.argv[1:]


async def main() -> None:
    client = AsyncOpenAI(base_url=f"{url}/v1", api_key="any")
    services = [
        (
            OpenAIAudioToText(ai_model_id="whisper-1", async_client=client),
            OpenAITextToAudio(ai_model_id="tts-1", async_client=client),
        ),
        (
            AzureAudioToText(deployment_name="whisper-1", endpoint=url, api_key="any", api_version="2024-10-21"),
            AzureTextToAudio(deployment_name="tts-1", endpoint=url, api_key="any", api_version="2025-04-01-preview"),
        ),
    ]
    for listener, speaker in services:
        contents = await listener.get_text_contents(AudioContent.from_audio_file(wav))
        assert contents[0].text
        assert (await speaker.get_audio_contents("Good morning."))[0].data


asyncio.run(main())
print("OK")
