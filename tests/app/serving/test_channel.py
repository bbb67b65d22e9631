"""What a worker writes to stderr, as lines of the log."""

from __future__ import annotations

import asyncio
import types

import pytest

from app.serving import channel as channels
from app.serving.channel import Channel, _readable

# The form of onnxruntime's lines on Windows: UTF-16 with colours.
NATIVE = "\x1b[1;31m2026-11-25 10:00:00.1 [E:onnxruntime:, inference_session.cc:2544] \u4e0a Invalid graph\x1b[m\n"


class _Pipes:
    """A process of which only stderr is looked at."""

    pid = 7

    def __init__(self, written: bytes) -> None:
        self.stderr = asyncio.StreamReader()
        self.stderr.feed_data(written)
        self.stderr.feed_eof()


async def test_utf_16_with_colours_becomes_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """The letter U+4E0A holds the byte of a newline, where the line is split."""
    texts: list[str] = []
    log = types.SimpleNamespace(info=lambda event, *, text, **_: texts.append(text))
    monkeypatch.setattr(channels, "_log", log)
    channel = Channel("whisper-1", _Pipes(b"starting\n" + 2 * NATIVE.encode("utf-16-le")))  # type: ignore[arg-type]
    await channel._stderr
    assert texts[0] == "starting"
    assert sum("inference_session.cc:2544]" in text for text in texts) == 2
    assert sum("Invalid graph" in text for text in texts) == 2
    assert not any(character in text for text in texts for character in "\0\x1b")


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b"plain\n", "plain"),
        ("上の句\n".encode(), "上の句"),
        (b"\x1b[31mred\x1b[0m and \x1b]0;title\x07plain\r\n", "red and plain"),
        ("both [E:onnx]\n".encode("utf-16-le")[:-1], "both [E:onnx]"),  # split at the newline's first byte
        (b"\0" + "next [W:onnx]\n".encode("utf-16-le")[:-1], "next [W:onnx]"),  # begins with its second
        (b"\0", ""),
        (b"a\tb \xff\n", "a\tb \N{REPLACEMENT CHARACTER}"),
        (b"x" * 5000, "x" * 1000),
    ],
)
def test_one_line(line: bytes, text: str) -> None:
    assert _readable(line) == text
