"""livekit's speech recognition over realtime, with the server's turns and with its own detector: URL WAV."""

import asyncio
import sys
import wave

from livekit import rtc
from livekit.agents import stt, utils
from livekit.plugins import openai

STEP = 2400  # samples: 100 ms


async def write_down(url, pcm, model, turns):
    utils.http_context._new_session_ctx()
    recognizer = openai.STT(base_url=f"{url}/v1", api_key="any", model=model, use_realtime=True, language="en")
    stream = recognizer.stream()
    finals, kinds = [], []

    async def listen():
        async for event in stream:
            kinds.append(event.type)
            if event.type == stt.SpeechEventType.FINAL_TRANSCRIPT:
                finals.append(event.alternatives[0].text)
            if len(finals) == turns and event.type == stt.SpeechEventType.RECOGNITION_USAGE:
                return

    async def talk():
        for _ in range(turns):
            for start in range(0, len(pcm), 2 * STEP):
                part = pcm[start : start + 2 * STEP]
                stream.push_frame(rtc.AudioFrame(part, 24_000, 1, len(part) // 2))
                await asyncio.sleep(0.02)  # its sending is to begin before all is said

    await asyncio.wait_for(asyncio.gather(listen(), talk()), 120)
    await stream.aclose()
    await recognizer.aclose()
    await utils.http_context._close_http_ctx()
    print(finals)
    assert all(finals)
    assert stt.SpeechEventType.START_OF_SPEECH in kinds
    assert stt.SpeechEventType.INTERIM_TRANSCRIPT in kinds


with wave.open(sys.argv[2]) as file:
    sound = file.readframes(file.getnframes())
asyncio.run(write_down(sys.argv[1], sound, "gpt-4o-mini-transcribe", 2))
print("OK")
