"""What the heads of a FLAC and of its frames say (RFC 9639). Knows no decoder."""

from __future__ import annotations

_STREAMINFO = 8  # where it begins in a file
_LEAST_BLOCK, _MOST_BLOCK = 16, 16_384  # samples (8.2, and 7 for the most of the subset that everything plays)
_SYNC, _VARIABLE = 0xFFF8, 1
_FRAME_HEAD = 4  # bytes before its number


def is_odd(data: bytes) -> bool:
    """Whether the head tells of blocks that no encoder writes: libsndfile believes it and gives noise."""
    least, most = block_sizes(data[_STREAMINFO : _STREAMINFO + 4])
    return not _LEAST_BLOCK <= least <= most <= _MOST_BLOCK


def block_sizes(streaminfo: bytes) -> tuple[int, int]:
    """The least and the most samples of a frame."""
    return int.from_bytes(streaminfo[:2], "big"), int.from_bytes(streaminfo[2:4], "big")


def first_sample(frame: bytes, block: int) -> int | None:
    """Where in its file a frame begins, samples, by its own number; None where that cannot be read.

    block: samples of each frame, of which those files count the frames that have blocks of one size.
    """
    if int.from_bytes(frame[:2], "big") & 0xFFFE != _SYNC:
        return None
    number = _coded(frame[_FRAME_HEAD : _FRAME_HEAD + 7])
    return number if number is None or frame[1] & _VARIABLE else number * block


def _coded(data: bytes) -> int | None:
    """A number written as UTF-8 writes characters, in up to seven bytes (9.1.5)."""
    ones = 8 - (data[0] ^ 0xFF).bit_length() if data else 1
    if ones == 0:
        return data[0]
    rest = data[1:ones]
    if ones == 1 or ones == 8 or len(rest) < ones - 1 or any(byte & 0xC0 != 0x80 for byte in rest):
        return None
    number = data[0] & (0x7F >> ones)
    for byte in rest:
        number = number << 6 | byte & 0x3F
    return number
