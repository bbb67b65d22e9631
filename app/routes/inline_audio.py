"""Audio that comes inside a JSON body: strict base64, capped before it is decoded.

Owns the rules for the text; what the bytes are is the media worker's matter.
"""

from __future__ import annotations

import base64
import binascii

from app.errors import InvalidRequest

AUDIO_BYTES = 20 * 1024 * 1024  # of one piece of inline audio, the limit of the real service
_LINE_ENDS = str.maketrans("", "", "\r\n")


def audio_bytes(data: object, where: str, param: str) -> bytes:
    """The bytes of a base64 string; a data: URL's prefix and line ends are tolerated.

    where: for the message; param: the field that errors name. Raises InvalidRequest.
    """
    if not isinstance(data, str):
        raise InvalidRequest(f"{where} must be a base64 string.", param=param)
    if data.startswith("data:"):
        data = data.partition(",")[2]
    if len(data) > AUDIO_BYTES * 4 // 3 + AUDIO_BYTES // 16:  # line ends included
        raise InvalidRequest(f"{where} is larger than the limit of {AUDIO_BYTES} bytes.", param=param)
    try:
        flat = data.translate(_LINE_ENDS) if "\n" in data or "\r" in data else data
        decoded = binascii.a2b_base64(flat, strict_mode=True)
    except ValueError as error:
        raise InvalidRequest(f"{where} is not valid base64: {error}.", param=param) from None
    if not decoded:
        raise InvalidRequest(f"{where} is empty.", param=param, code="audio_too_short")
    return decoded


def base64_text(data: bytes) -> str:
    """The base64 of bytes, as JSON carries it."""
    return base64.b64encode(data).decode("ascii")
