"""LangChain: Whisper parser and chat with audio: URL WAV."""

import base64
import sys
from pathlib import Path

from langchain_community.document_loaders.parsers.audio import AzureOpenAIWhisperParser
from langchain_core.documents.base import Blob
from langchain_openai import AzureChatOpenAI, ChatOpenAI

url, wav = sys.argv[1:]
parser = AzureOpenAIWhisperParser(
    azure_endpoint=url, api_version="2024-10-21", api_key="any", deployment_name="whisper-1"
)
assert next(parser.lazy_parse(Blob.from_path(wav))).page_content
audio = {"data": base64.b64encode(Path(wav).read_bytes()).decode(), "format": "wav"}
question = [("user", [{"type": "text", "text": "hi"}, {"type": "input_audio", "input_audio": audio}])]
models = [
    ChatOpenAI(base_url=f"{url}/v1", api_key="any", model="gpt-4o-audio-preview"),
    AzureChatOpenAI(
        azure_endpoint=url, api_version="2024-10-21", api_key="any", azure_deployment="gpt-4o-audio-preview"
    ),
]
for model in models:
    assert model.invoke(question).content
    assert "".join(str(part.content) for part in model.stream(question))
print("OK")
