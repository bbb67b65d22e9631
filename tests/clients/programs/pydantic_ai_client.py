"""pydantic-ai: a question about audio, over OpenAI and Azure providers: URL WAV."""

import sys
from pathlib import Path

from pydantic_ai import Agent, BinaryContent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.azure import AzureProvider
from pydantic_ai.providers.openai import OpenAIProvider

url, wav = sys.argv[1:]
audio = BinaryContent(Path(wav).read_bytes(), media_type="audio/wav")
for provider in (
    OpenAIProvider(base_url=f"{url}/v1", api_key="any"),
    AzureProvider(azure_endpoint=url, api_version="2024-12-01-preview", api_key="any"),
):
    agent = Agent(OpenAIChatModel("gpt-4o-audio-preview", provider=provider))
    assert agent.run_sync(["What is said?", audio]).output
print("OK")
