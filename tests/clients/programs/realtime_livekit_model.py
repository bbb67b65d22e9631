"""livekit's realtime model in text and in audio: a written turn, then a spoken one: URL WAV."""

import asyncio
import sys
import wave

from livekit import rtc
from livekit.agents import utils
from livekit.plugins import openai
from openai.types.realtime import AudioTranscription
from openai.types.realtime.realtime_audio_input_turn_detection import ServerVad

STEP = 2400  # samples: 100 ms


async def read(generation):
    """The words and the seconds of audio of one answer."""
    text, seconds = "", 0.0
    async for message in generation.message_stream:
        modalities = await message.modalities

        async def listen(frames=message.audio_stream):
            return [frame.duration async for frame in frames]

        async def follow(pieces=message.text_stream):
            return [str(piece) async for piece in pieces]

        if "audio" in modalities:
            said, durations = await asyncio.gather(follow(), listen())
            seconds += sum(durations)
        else:
            said = await follow()
        text += "".join(said)
    return text, seconds


async def converse(url, pcm, modality):
    utils.http_context._new_session_ctx()
    model = openai.realtime.RealtimeModel(
        base_url=f"{url}/v1",
        api_key="any",
        model="gpt-realtime",
        modalities=[modality],
        turn_detection=ServerVad(type="server_vad"),
        input_audio_transcription=AudioTranscription(model="whisper-1"),
    )
    session = model.session()
    errors, transcripts, kinds = [], [], []
    answers = asyncio.Queue()
    session.on("error", errors.append)
    session.on("generation_created", answers.put_nowait)
    session.on(
        "input_audio_transcription_completed", lambda event: transcripts.append((event.is_final, event.transcript))
    )
    session.on("input_speech_started", lambda _: kinds.append("started"))
    session.on("input_speech_stopped", lambda _: kinds.append("stopped"))
    await session.update_instructions("Be nice.")
    context = session.chat_ctx.copy()
    context.add_message(role="user", content="Good morning.")
    await session.update_chat_ctx(context)
    asked = await asyncio.wait_for(session.generate_reply(instructions="Be short."), 60)
    written = await asyncio.wait_for(read(asked), 60)
    assert asked.user_initiated
    assert answers.get_nowait() is asked

    for start in range(0, len(pcm), 2 * STEP):
        part = pcm[start : start + 2 * STEP]
        session.push_audio(rtc.AudioFrame(part, 24_000, 1, len(part) // 2))
    spoken = await asyncio.wait_for(read(await asyncio.wait_for(answers.get(), 60)), 60)
    roles = [(item.role, item.text_content) for item in session.chat_ctx.items if item.type == "message"]
    print(modality, written, spoken, transcripts, kinds, roles)
    await session.aclose()
    await model.aclose()
    await utils.http_context._close_http_ctx()
    assert not errors, errors
    for text, seconds in (written, spoken):
        assert text
        assert (seconds > 0) == (modality == "audio")
    assert kinds == ["started", "stopped"]
    assert transcripts[-1][0], "the last is final"
    assert transcripts[-1][1]
    assert [role for role, _ in roles if role != "system"] == ["user", "assistant"] * 2


with wave.open(sys.argv[2]) as file:
    sound = file.readframes(file.getnframes())
for wanted in ("text", "audio"):
    asyncio.run(asyncio.wait_for(converse(sys.argv[1], sound, wanted), 120))
print("OK")
