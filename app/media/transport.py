"""How often packets of a track are missing in an MPEG transport stream, by the counter that each of them carries (ISO
13818-1, 2.4.3).

FFmpeg passes over them, and what is left of the sound may decode. Knows no decoder.
"""

from __future__ import annotations

from app.media.sniff import TS_PACKET

_SYNC, _TABLE = 0x47, 0  # and the track of the table of programmes, with which a recording begins
_COUNTERS = 16


def missing_places(data: bytes, track: int) -> int:
    """track: its packet identifier."""
    step = TS_PACKET if data[:1] == b"\x47" else TS_PACKET + 4
    at = step - TS_PACKET
    counters: dict[int, int] = {}
    places = 0
    while 0 <= at <= len(data) - TS_PACKET:
        if data[at] != _SYNC:
            at = data.find(b"\x47", at + 1)
            while 0 <= at < len(data) - step and data[at + step] != _SYNC:
                at = data.find(b"\x47", at + 1)
            continue
        number, fields = (data[at + 1] & 0x1F) << 8 | data[at + 2], data[at + 3]
        if number in (track, _TABLE) and fields & 0x10:
            places += _is_missing(data, at, number, counters)
        at += step
    return places


def _is_missing(data: bytes, at: int, number: int, counters: dict[int, int]) -> bool:
    """Whether packets of a track are missing before the one at `at`."""
    fields = data[at + 3]
    counter = fields & 0x0F
    last = counters.get(number)
    counters[number] = counter
    said = bool(fields & 0x20 and data[at + 4] and data[at + 5] & 0x80)  # that the counter is set anew
    if number == _TABLE:
        if counter == 0 and last not in (None, _COUNTERS - 1):
            counters.clear()  # another recording is joined
        return False
    return not said and last is not None and counter not in (last, (last + 1) % _COUNTERS)
