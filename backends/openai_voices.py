"""The voice names of OpenAI's audio API, which its clients send to any model.

Owns the one list of them. A name's place in it decides which of a model's own voices stands for it, so a new name goes
to the end. Knows no model.
"""

from __future__ import annotations

OPENAI_VOICES = (
    "alloy", "ash", "ballad", "coral", "echo", "fable", "onyx", "nova", "sage", "shimmer", "verse", "marin", "cedar",
)  # fmt: skip
PLAIN_VOICE = OPENAI_VOICES[0]
"""The name for requests whose client names no voice."""
