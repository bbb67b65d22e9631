"""A chat request as the model needs it: checked messages, audio in prompt order, and notes for the client about it.

Knows requests and prompts; no tensors and no denoising.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from backends.diffa.prompt import ordered_parts
from backends.interface import ASR_SAMPLE_RATE, AudioPart, ChatRequest, InvalidInput, Message, Samples, TextPart

_ROLES = ("system", "user", "assistant")


def prompt_messages(request: ChatRequest, system_prompt: str) -> tuple[Message, ...]:
    """The messages to write into the prompt; without a system message the deployment's stands first.

    Raises InvalidInput for roles the model does not know and for a request without audio and text from the user.
    """
    for message in request.messages:
        if message.role not in _ROLES:
            raise InvalidInput(f"messages of role {message.role!r} are not supported by this model", param="messages")
    if not any(message.role == "user" and _says_something(message) for message in request.messages):
        raise InvalidInput("the conversation has neither audio nor text from the user", param="messages")
    if any(message.role == "system" for message in request.messages) or not system_prompt:
        return request.messages
    return (Message("system", (TextPart(system_prompt),)), *request.messages)


def audio_of(messages: Sequence[Message]) -> list[Samples]:
    """All audio in the order in which the prompt mentions it."""
    return [part.samples for message in messages for part in ordered_parts(message) if isinstance(part, AudioPart)]


@dataclass(frozen=True, slots=True)
class AudioLengths:
    """Lengths of all audio of a request, in samples, and how the audio side will cut it."""

    samples: tuple[int, ...]
    piece_samples: int
    shortest_samples: int

    @property
    def seconds(self) -> float:
        return sum(self.samples) / ASR_SAMPLE_RATE

    def notes(self) -> tuple[str, ...]:
        """What was done to audio that is not of the length the model was trained on."""
        remarks = []
        for length in self.samples:
            seconds = length / ASR_SAMPLE_RATE
            if length > self.piece_samples:
                pieces = -(-length // self.piece_samples)
                window = self.piece_samples / ASR_SAMPLE_RATE
                remarks.append(f"audio of {seconds:.1f} s was heard as {pieces} pieces of at most {window:.0f} s")
            elif length < self.shortest_samples:
                remarks.append(f"audio of {1000 * seconds:.0f} ms was lengthened with silence to 80 ms")
        return tuple(remarks)


def _says_something(message: Message) -> bool:
    return any(isinstance(part, AudioPart) or part.text.strip() for part in message.parts)
