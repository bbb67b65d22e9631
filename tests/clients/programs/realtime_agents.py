"""openai-agents' RealtimeAgent in text and in audio, by OpenAI's and by Azure's address: URL WAV."""

import asyncio
import sys
import wave

from agents import set_tracing_disabled
from agents.realtime import RealtimeAgent, RealtimeRunner

STEP = 4800  # bytes: 100 ms


async def until(session, seen, ends):
    async for event in session:
        seen.append(event)
        assert event.type != "error", event.error
        if ends(event):
            return


def answered(event):
    return event.type == "agent_end"


def raw(seen):
    return {
        event.data.raw_event_type if hasattr(event.data, "raw_event_type") else event.data.type
        for event in seen
        if event.type == "raw_model_event"
    }


async def converse(url, headers, modality, sound):
    agent = RealtimeAgent(name="Assistant", instructions="Be nice.")
    settings = {"model_name": "gpt-realtime", "output_modalities": [modality]}
    runner = RealtimeRunner(agent, config={"model_settings": settings})
    config = {"url": url, "headers": headers, "api_key": "any"}
    async with await runner.run(model_config=config) as session:
        seen = []
        await session.send_message("Good morning.")
        await until(session, seen, answered)
        assert ("audio" in {event.type for event in seen}) == (modality == "audio")
        for start in range(0, len(sound), STEP):
            await session.send_audio(sound[start : start + STEP])
        await until(session, seen, answered)
        history = [event for event in seen if event.type == "history_updated"][-1].history
        print(modality, sorted({event.type for event in seen}), [(one.role, one.content) for one in history])
        assert [one.role for one in history] == ["user", "assistant"] * 2
        spoken = history[2].content[0]
        assert spoken.type == "input_audio"
        assert spoken.transcript


set_tracing_disabled(True)
with wave.open(sys.argv[2]) as file:
    pcm = file.readframes(file.getnframes())
base = sys.argv[1].replace("http", "ws", 1)
for modality in ("text", "audio"):
    target = f"{base}/v1/realtime?model=gpt-realtime"
    asyncio.run(asyncio.wait_for(converse(target, {"Authorization": "Bearer any"}, modality, pcm), 120))
target = f"{base}/openai/realtime?api-version=2025-04-01-preview&deployment=gpt-realtime"
asyncio.run(asyncio.wait_for(converse(target, {"api-key": "any"}, "audio", pcm), 120))
print("OK")
