"""AG2: speech in both directions through its voice services: URL WAV."""

import asyncio
import io
import sys
from pathlib import Path
from types import SimpleNamespace

from ag2.live import openai as live
from openai import AsyncOpenAI

url, wav = sys.argv[1:]
sound = Path(wav).read_bytes()


class Context:
    """Takes the events that a session would."""

    async def send(self, event: object) -> None:
        self.last = event


async def main() -> None:
    client = AsyncOpenAI(base_url=f"{url}/v1", api_key="any")
    live.voice_to_wav_buffer = lambda voice: ("a.wav", io.BytesIO(voice.data), "audio/wav")
    voice = SimpleNamespace(data=sound)
    assert await live.STTConfig("gpt-4o-transcribe", client=client).transcribe(voice, Context())
    assert await live.TTSConfig("tts-1", client=client).synthesize("Good morning.")


asyncio.run(main())
print("OK")
