"""The documents of chat answers: whole completions, stream chunks, usage. Knows no job and no connection."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from backends.interface import Done, Usage

PCM_CUT = 6  # bytes: whole samples (2), and whole groups of base64 (3), so that clients may join the texts


@dataclass(slots=True)
class Completion:
    """What all documents of one answer share. usage: of the text; speech: of its spoken form."""

    id: str
    model: str
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, done: Done, text: str, audio: dict[str, Any] | None, speech: Usage | None) -> dict[str, Any]:
        """The answer to a request that is not streamed. audio: the spoken answer, which holds the text then."""
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None, "annotations": []}
        if audio is not None:
            message |= {"content": None, "audio": audio}
        choice = {"index": 0, "message": message, "finish_reason": done.finish_reason, "logprobs": None}
        return {**self._head("chat.completion"), "choices": [choice], "usage": usage_document(done.usage, speech)}

    def chunk(self, delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        """One piece of a streamed answer."""
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason, "logprobs": None}
        return {**self._head("chat.completion.chunk"), "choices": [choice], "usage": None}

    def usage_chunk(self, usage: Usage, speech: Usage | None) -> dict[str, Any]:
        """The last chunk where stream_options.include_usage asks for it."""
        return {**self._head("chat.completion.chunk"), "choices": [], "usage": usage_document(usage, speech)}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model, "system_fingerprint": None}


def usage_document(usage: Usage, speech: Usage | None = None) -> dict[str, Any]:
    """Token counts; the tokens of a spoken answer count as its output too."""
    spoken = speech.output_audio_tokens or speech.output_tokens if speech is not None else 0
    audio_out = usage.output_audio_tokens + spoken
    output = usage.output_tokens + spoken
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": output,
        "total_tokens": usage.input_tokens + output,
        "prompt_tokens_details": {
            "audio_tokens": usage.input_audio_tokens,
            "text_tokens": max(0, usage.input_tokens - usage.input_audio_tokens),
            "cached_tokens": 0,
            "image_tokens": 0,
        },
        "completion_tokens_details": {
            "audio_tokens": audio_out,
            "text_tokens": max(0, output - audio_out),
            "reasoning_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


class PcmCutter:
    """Cuts a stream of PCM bytes at multiples of PCM_CUT; only the last piece may be shorter."""

    def __init__(self) -> None:
        self._rest = b""

    def push(self, data: bytes) -> bytes:
        """What can be sent now; may be empty."""
        data = self._rest + data
        end = len(data) - len(data) % PCM_CUT
        self._rest = data[end:]
        return data[:end]

    def finish(self) -> bytes:
        rest, self._rest = self._rest, b""
        return rest
