"""Where the sound of an Ogg file lies: the links of a chain, and in each what is whole between damaged pages.

Owns what is believed of a page (RFC 3533). Knows no decoder.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

_HEAD_STARTS = (b"\x01vorbis", b"OpusHead", b"\x7fFLAC", b"Speex   ", b"\x80theora", b"fishead\x00")
_PAGE_HEAD = 27  # bytes of a page before its table of segments (section 6)
_FIRST, _LAST = 2, 4  # flags of a stream's first and last page
_CRC = slice(22, 26)
_MOST_HOLES = 200  # in one file that are each made good
_MOST_BAD = 5000  # pages; a file with more is noise, and not worth looking for pages in
_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


@dataclass(frozen=True, slots=True)
class OggPart:
    """data: a file without damage; later: it goes on with the part before, after a hole; lost: pages before it that are
    damaged or missing; cut: its last page is missing."""

    data: bytes
    later: bool = False
    lost: int = 0
    cut: bool = False


@dataclass(slots=True)
class _Link:
    """head: the pages before the sound; spans: where sound lies between holes; lost: bad pages before each of those;
    bad: those since the last whole page; cut: no last page has come yet."""

    head: list[tuple[int, int]] = field(default_factory=list)
    spans: list[tuple[int, int]] = field(default_factory=list)
    lost: list[int] = field(default_factory=list)
    bad: int = 0
    cut: bool = True
    sequences: dict[bytes, int] = field(default_factory=dict)

    def add(self, data: bytes, start: int, end: int, *, whole: bool, split: bool) -> bool:
        """Take the next page. Whether it begins a span behind a hole, which only happens if `split`."""
        if not whole:
            self.bad += 1
            return False
        lost = max(self.bad, self._missing(data[start:end]))
        self.bad, self.cut = 0, not data[start + 5] & _LAST
        if not self.spans and _is_head(data, start):
            self.head.append((start, end))
            return False
        if self.spans and not (lost and split):
            self.spans[-1] = (self.spans[-1][0], end)
            self.lost[-1] += lost
            return False
        self.spans.append((start, end))
        self.lost.append(lost)
        return len(self.spans) > 1

    def _missing(self, page: bytes) -> int:
        """How many pages of its stream lie between a page and the one before it."""
        serial, number = page[14:18], int.from_bytes(page[18:22], "little")
        before = self.sequences.get(serial)
        self.sequences[serial] = number
        return 0 if before is None or not 0 < number - before - 1 < _MOST_BAD else number - before - 1


def ogg_parts(data: bytes) -> Iterator[OggPart]:
    """Each link in one part, and one more for each hole; nothing where no link can be told."""
    for link in _links(data):
        head = b"".join(data[start:end] for start, end in link.head)
        for number, ((start, end), lost) in enumerate(zip(link.spans, link.lost, strict=True)):
            at_end = number == len(link.spans) - 1
            yield OggPart(head + data[start:end], number > 0, lost + (link.bad if at_end else 0), at_end and link.cut)


def _links(data: bytes) -> list[_Link]:
    links: list[_Link] = []
    in_head, bad, holes = False, 0, 0
    for start, end, whole in _pages(data):
        bad += not whole
        if bad > _MOST_BAD:
            return []
        first = whole and _is_first(data, start)
        if first and not in_head:
            links.append(_Link())
        in_head = first
        if links:
            holes += links[-1].add(data, start, end, whole=whole, split=holes < _MOST_HOLES)
    return [link for link in links if link.spans]


def _is_first(data: bytes, start: int) -> bool:
    content = start + _PAGE_HEAD + data[start + 26]
    return bool(data[start + 5] & _FIRST) and data.startswith(_HEAD_STARTS, content)


def _is_head(data: bytes, start: int) -> bool:
    """Whether a page in front of the sound holds no sound itself: no sample has come to its end."""
    granule = int.from_bytes(data[start + 6 : start + 14], "little", signed=True)
    return granule <= 0


def _pages(data: bytes) -> Iterator[tuple[int, int, bool]]:
    """Start, end and wholeness of each page; bytes between pages are passed over."""
    at = data.find(b"OggS")
    while 0 <= at <= len(data) - _PAGE_HEAD:
        body = at + _PAGE_HEAD + data[at + 26]
        end = body + sum(data[at + _PAGE_HEAD : body])
        whole = end <= len(data) and _is_whole(data[at:end])
        yield at, min(end, len(data)), whole
        # The length of a damaged page may be what is damaged.
        at = end if whole and data.startswith(b"OggS", end) else data.find(b"OggS", end if whole else at + 4)


def _is_whole(page: bytes) -> bool:
    """By its checksum: CRC-32 with the highest bit first, which is zlib's over mirrored bytes, mirrored."""
    blank = page[: _CRC.start] + bytes(4) + page[_CRC.stop :]
    mirrored = zlib.crc32(blank.translate(_MIRRORED), 0xFFFF_FFFF) ^ 0xFFFF_FFFF
    return mirrored.to_bytes(4, "big").translate(_MIRRORED) == page[_CRC]
