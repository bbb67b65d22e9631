"""A window on its way through the network: what it is part of, and how its answer is to be decoded.

Owns these values only; `engine` works on them. Knows no network.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from backends.whisper.decoding import WindowResult
from backends.whisper.network import EncoderOutput
from backends.whisper.transcription import Window, WordTimes


@dataclass(frozen=True, slots=True)
class DecodingOptions:
    """What one transcription asks for.

    language: Whisper's code or None (detect); languages: among which it is detected, () = all; keywords: words to
    expect; temperatures: tried in turn; max_tokens: of one window; timestamps: the model tells times; forced: tokens
    that the window's answer begins with.
    """

    language: str | None = None
    languages: tuple[str, ...] = ()
    task: str = "transcribe"
    prompt: str = ""
    keywords: tuple[str, ...] = ()
    temperatures: tuple[float, ...] = (0.0,)
    words: bool = False
    max_tokens: int = 448
    timestamps: bool = True
    forced: tuple[int, ...] = ()


class Recording(Protocol):
    """What a window is part of: a `Transcription`, or the open turn of live audio.

    zero_filled: its windows are filled up as openai-whisper does it.
    """

    @property
    def zero_filled(self) -> bool: ...

    def audio(self, window: Window) -> NDArray[np.float32]: ...

    def skip(self, window: Window) -> None: ...

    def accept(self, window: Window, result: WindowResult, words: WordTimes = ()) -> None: ...


@dataclass(slots=True)
class ActiveWindow:
    """A window of some recording with what its job asks for. encoder_output: the encoded audio; prompt_left_out: it was
    decoded without the prompt, which hid what was said; frames: encoded of it, 0: as many as the model was trained on,
    whatever there is to hear."""

    recording: Recording
    window: Window
    decoding_options: DecodingOptions
    encoder_output: EncoderOutput | None = field(default=None)
    prompt_left_out: bool = False
    frames: int = 0
