"""What the gateway and the media worker say to each other over the worker's stdin and stdout.

One message is a fixed head (length of the JSON part, length of the payload), a JSON part, and raw bytes. The gateway
sends `DecodeJob` with the upload as payload; the worker sends `Ready` once, then one `Decoding` per job, whose payload
is the samples when they are few (otherwise they are in the job's file). Knows neither decoder nor HTTP.
"""

from __future__ import annotations

import struct

import msgspec

HEAD = struct.Struct(">IQ")
INLINE_BYTES = 256 * 1024  # more samples than this (4 s at 16 kHz) travel in a file, which nobody has to copy


class DecodeJob(msgspec.Struct, frozen=True):
    """What to do with the payload. rate: of the samples, Hz; output: path for the samples if they are many; the rest
    are caps: seconds of audio, bytes of decoded float32 (frames x channels x 4), CPU seconds."""

    rate: int
    output: str
    max_seconds: float
    max_decoded_bytes: int
    cpu_seconds: int


class Decoding(msgspec.Struct, frozen=True):
    """The worker's answer. problem: why there are no samples ("" = there are), for the client to read; the rest
    describes the source. count: float32 samples, in `output` of the job if in_file, else in the payload. unexpected:
    for the log, what the decoder did not foresee (kind of exception and places in code, nothing of the file), "" where
    it did. note: what of the sound could not be read, for client and log, "" if nothing."""

    problem: str = ""
    count: int = 0
    in_file: bool = False
    duration: float = 0.0
    source_rate: int = 0
    channels: int = 0
    container: str = ""
    unexpected: str = ""
    note: str = ""


class Ready(msgspec.Struct, frozen=True):
    """The worker has imported its libraries and set its limits."""

    pid: int


def pack(message: msgspec.Struct, payload_length: int = 0) -> bytes:
    """Head and JSON part; the caller sends `payload_length` bytes right after it."""
    body = msgspec.json.encode(message)
    return HEAD.pack(len(body), payload_length) + body
