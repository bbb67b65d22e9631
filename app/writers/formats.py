"""Names, content types and rates of the audio formats that requests and answers name. A leaf: imports nothing."""

from __future__ import annotations

OUTPUT_RATE = 24_000  # Hz, of every format that is sent
# Formats of spoken answers and their content types.
MEDIA_TYPES = {
    "mp3": "audio/mpeg",
    "opus": "audio/opus",
    "aac": "audio/aac",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm": "audio/pcm",
}
# The same as a chat request names them.
CHAT_FORMATS = ("wav", "mp3", "aac", "flac", "opus", "pcm16")
# Formats that the part input_audio of a chat request may name; the bytes decide what it is.
INPUT_FORMATS = ("wav", "mp3", "flac", "ogg", "opus", "oga", "m4a", "mp4", "mpeg", "mpga", "aac", "webm")
