"""What a transport stream lost is told, by the counters of its packets."""

from __future__ import annotations

import pytest

from app.media.transport import missing_places
from tests.app.media.reading import read
from tests.support.audio import by_av
from tests.support.odd_files import two_tones

PACKET = 188
STREAM = by_av(two_tones(48_000, 4.0), 48_000, "mpegts", "aac")
TRACK = 256  # FFmpeg's first


def _camera(stream: bytes) -> bytes:
    """With four bytes of time before each packet."""
    return b"".join(bytes(4) + stream[at : at + PACKET] for at in range(0, len(stream), PACKET))


@pytest.mark.parametrize("size", [5 * PACKET, 5 * PACKET + 77, 13 * PACKET - 1])
@pytest.mark.parametrize("left", ["nothing", "zeros"])
def test_packets_that_are_missing_are_told(size: int, left: str) -> None:
    at = len(STREAM) // PACKET // 2 * PACKET
    changed = STREAM[:at] + (bytes(size) if left == "zeros" else b"") + STREAM[at + size :]
    assert missing_places(changed, TRACK) == 1
    assert "unreadable places: " in read(changed)[0].note
    assert missing_places(_camera(STREAM[:at] + STREAM[at + 5 * PACKET :]), TRACK) == 1


def test_nothing_is_missing_of_whole_streams() -> None:
    assert missing_places(STREAM, TRACK) == missing_places(_camera(STREAM), TRACK) == 0
    assert missing_places(STREAM + STREAM, TRACK) == 0  # joined
    assert read(STREAM)[0].note == read(STREAM + STREAM)[0].note == ""
