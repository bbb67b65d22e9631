"""openai-python, as OpenAI and as Azure OpenAI: URL WAV."""

import sys

from openai import AzureOpenAI, OpenAI

url, wav = sys.argv[1:]
clients = [
    OpenAI(base_url=f"{url}/v1", api_key="any"),
    AzureOpenAI(azure_endpoint=url, api_version="2025-04-01-preview", api_key="any"),
]
for client in clients:
    with open(wav, "rb") as file:  # noqa: PTH123 (as its documentation shows)
        assert client.audio.transcriptions.create(model="whisper-1", file=file).text
    with open(wav, "rb") as file:  # noqa: PTH123
        verbose = client.audio.transcriptions.create(
            model="whisper-1", file=file, response_format="verbose_json", timestamp_granularities=["word"]
        )
    assert verbose.words
    with open(wav, "rb") as file:  # noqa: PTH123
        events = list(client.audio.transcriptions.create(model="gpt-4o-transcribe", file=file, stream=True))
    assert events[-1].type == "transcript.text.done"
    speech = client.audio.speech.with_streaming_response
    with speech.create(model="tts-1", voice="alloy", input="Good morning.") as said:
        assert said.read()
    chat = client.chat.completions.create(
        model="gpt-4o-audio-preview", messages=[{"role": "user", "content": "hi"}], stream=True
    )
    assert "".join(part.choices[0].delta.content or "" for part in chat if part.choices)
print("OK")
