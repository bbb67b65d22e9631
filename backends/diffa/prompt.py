"""The prompt: the messages of a conversation as ids, with the indices at which audio embeddings are spliced in.

Owns the wording and the splice rule of the published inference scripts. Knows nothing of tensors.

A message is header + content + end of turn, content untrimmed; before the first one stands the start token, after the
last one the assistant's header. A clip of audio is written as "This is the audio: <audio>. ", which stays in the
prompt; its embeddings go right after the colon. The model was trained with the audio before the question, so the only
audio of a message is moved to its front; several stay where they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from backends.diffa.tokens import BOS, EOT, HEADER_END, HEADER_START, Tokenizer
from backends.interface import AudioPart, Message, Samples, TextPart

_BEFORE_AUDIO = "This is the audio: "
_AFTER_AUDIO = "<audio>. "


@dataclass(frozen=True, slots=True)
class Prompt:
    """ids: the whole prompt; splices: per clip of audio, the index in `ids` before which its embeddings stand."""

    ids: tuple[int, ...]
    splices: tuple[int, ...] = ()


@dataclass(slots=True)
class _Draft:
    """The prompt's text so far, where special strings in it are cut apart, and where audio comes (character
    positions)."""

    text: str = ""
    cuts: list[int] = field(default_factory=list)
    audio: list[int] = field(default_factory=list)

    def quote(self, tokenizer: Tokenizer, text: str) -> None:
        """Add text that somebody else wrote."""
        self.cuts += tokenizer.special_cuts(text, len(self.text))
        self.text += text


def build_prompt(tokenizer: Tokenizer, messages: Sequence[Message]) -> Prompt:
    """The ids of a conversation whose next message is the assistant's."""
    draft = _Draft(BOS)
    for message in messages:
        draft.text += _header(message.role)
        _write_content(draft, tokenizer, message)
        draft.text += EOT
    draft.text += _header("assistant")
    ids = tokenizer.encode(draft.text, draft.cuts)
    # The last token of the prefix is the lone space after the colon: it belongs behind the embeddings.
    splices = (len(tokenizer.encode(draft.text[:index], draft.cuts)) - 1 for index in draft.audio)
    return Prompt(tuple(ids), tuple(splices))


def question_messages(question: str, system_prompt: str, samples: Samples | None) -> tuple[Message, ...]:
    """The conversation of one question about at most one clip of audio."""
    parts = (TextPart(question),) if samples is None else (AudioPart(samples), TextPart(question))
    system = (Message("system", (TextPart(system_prompt),)),) if system_prompt else ()
    return (*system, Message("user", parts))


def ordered_parts(message: Message) -> tuple[TextPart | AudioPart, ...]:
    """The parts as they are written: the only audio of a message first, otherwise as given."""
    audio = [part for part in message.parts if isinstance(part, AudioPart)]
    if len(audio) != 1:
        return message.parts
    return (audio[0], *(part for part in message.parts if isinstance(part, TextPart)))


def _header(role: str) -> str:
    return f"{HEADER_START}{role}{HEADER_END}\n\n"


def _write_content(draft: _Draft, tokenizer: Tokenizer, message: Message) -> None:
    after_text = False
    for part in ordered_parts(message):
        draft.text += "\n" if after_text else ""
        if isinstance(part, AudioPart):
            draft.text += _BEFORE_AUDIO
            draft.audio.append(len(draft.text))
            draft.text += _AFTER_AUDIO
        else:
            draft.quote(tokenizer, part.text)
        after_text = isinstance(part, TextPart)
