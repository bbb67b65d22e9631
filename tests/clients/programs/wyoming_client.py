"""wyoming-openai, the bridge of Home Assistant: URL WAV."""

import asyncio
import socket
import subprocess
import sys
import time
import wave

from wyoming.asr import Transcribe, Transcript
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncTcpClient

url, wav = sys.argv[1:]
with socket.create_server(("127.0.0.1", 0)) as probe:
    port = probe.getsockname()[1]
options = {
    "uri": f"tcp://127.0.0.1:{port}", "languages": "en", "stt-openai-url": f"{url}/v1", "stt-openai-key": "any",
    "stt-models": "whisper-1", "tts-openai-url": f"{url}/v1", "tts-openai-key": "any", "tts-models": "tts-1",
    "tts-voices": "alloy",
}  # fmt: skip


async def transcript() -> str:
    async with AsyncTcpClient("127.0.0.1", port) as client:
        with wave.open(wav) as sound:
            shape = (sound.getframerate(), sound.getsampwidth(), sound.getnchannels())
            data = sound.readframes(sound.getnframes())
        await client.write_event(Transcribe(language="en").event())
        await client.write_event(AudioStart(*shape).event())
        await client.write_event(AudioChunk(*shape, data).event())
        await client.write_event(AudioStop().event())
        while event := await client.read_event():
            if Transcript.is_type(event.type):
                return Transcript.from_event(event).text
    return ""


arguments = [part for name in options for part in (f"--{name}", options[name])]
bridge = subprocess.Popen([sys.executable, "-m", "wyoming_openai", *arguments])
try:
    deadline = time.monotonic() + 120
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            break
        except OSError:
            assert bridge.poll() is None, "the bridge has ended"
            assert time.monotonic() < deadline, "the bridge does not start"
            time.sleep(0.1)
    assert asyncio.run(transcript())
finally:
    bridge.terminate()
    bridge.wait()
print("OK")
