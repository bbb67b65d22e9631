"""openai-python's realtime connection, as OpenAI and as Azure OpenAI: words written down, and an answer: URL WAV."""

import base64
import sys
import wave

from openai import AzureOpenAI, OpenAI

COMPLETED = "conversation.item.input_audio_transcription.completed"


def until(connection, kind):
    seen = []
    while not seen or seen[-1].type != kind:
        seen.append(connection.recv())
        assert seen[-1].type != "error", seen[-1]
    return seen


def write_down(client, sound, azure):
    with client.realtime.connect(
        extra_query={"intent": "transcription"}, **({"model": "whisper-1"} if azure else {})
    ) as connection:
        audio = {"input": {"transcription": {"model": "gpt-4o-transcribe", "language": "en"}}}
        audio["input"]["turn_detection"] = None
        connection.session.update(session={"type": "transcription", "audio": audio})
        connection.input_audio_buffer.append(audio=base64.b64encode(sound).decode())
        connection.input_audio_buffer.commit()
        seen = until(connection, COMPLETED)
        print(seen[-1].transcript)
        assert seen[-1].transcript
        assert seen[-1].usage.type == "duration"


def converse(client, sound):
    with client.realtime.connect(model="gpt-realtime") as connection:
        connection.session.update(session={"type": "realtime", "output_modalities": ["audio"]})
        connection.input_audio_buffer.append(audio=base64.b64encode(sound).decode())
        kinds = {event.type for event in until(connection, "response.done")}
        assert {"input_audio_buffer.speech_stopped", "response.output_audio.delta"} <= kinds
        said = [{"type": "input_text", "text": "Hello."}]
        connection.conversation.item.create(item={"type": "message", "role": "user", "content": said})
        connection.response.create(response={"output_modalities": ["text"]})
        done = until(connection, "response.done")[-1].response
        print(done.output[0].content[0].text)
        assert done.status == "completed"


url = sys.argv[1]
with wave.open(sys.argv[2]) as file:
    pcm = file.readframes(file.getnframes())
azure = AzureOpenAI(
    azure_endpoint=url,
    api_version="2025-04-01-preview",
    api_key="any",
    websocket_base_url=url.replace("http", "ws", 1) + "/openai",
)
for one in (OpenAI(base_url=f"{url}/v1", api_key="any"), azure):
    write_down(one, pcm, one is azure)
    converse(one, pcm)
print("OK")
