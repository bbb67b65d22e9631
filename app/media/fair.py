"""Decoding in fair shares: who asks comes from the request, and none of its owners can keep the decoders or the disk.

Owns the fair gate before the decoders, the share of the space for temporary files, what a FLAC's head says before it is
decoded, and the words for a full disk. The decoders themselves are the media pool's.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import structlog

from app.config.settings import LimitSettings
from app.errors import InvalidRequest, Overloaded, ServiceUnavailable, StorageFull
from app.media.pool import Decoded, MediaPool
from app.serving.shares import FairGate, FairShares

current_owner: ContextVar[str] = ContextVar("current_owner", default="")
"""Whose request is being answered; "": the web page's own work."""

_WORKERS, _WAITING = 2, 64  # decoders, and uploads that wait for one
_BYTES_PER_SAMPLE = 4  # float32
_GROWTH = 100  # samples' bytes per byte of upload: speech at 6 kbit/s becomes 512 kbit/s; silence may exceed it
_FULL_BYTES = 4 << 20  # free bytes below which a failed decoding is put down to the full disk
_STREAMINFO_BYTES = 42  # "fLaC", block head, STREAMINFO (RFC 9639, 8.2)
_log = structlog.get_logger("media")


@dataclass(slots=True)
class _Shared(Decoded):
    """Decoded audio that counts against its owner's share until it is closed."""

    closed: Callable[[], None] = lambda: None

    def close(self) -> None:
        Decoded.close(self)
        self.closed()
        self.closed = lambda: None


class FairMediaPool(MediaPool):
    """A media pool that several owners use. fair: they exist; else one owner may use all of it."""

    def __init__(self, limits: LimitSettings, *, fair: bool, workers: int = _WORKERS, **named: Any) -> None:
        super().__init__(limits, workers=workers, queue=_WAITING, **named)
        self._caps, self._fair = limits, fair
        waits = FairShares(_WAITING, reserve=_WAITING // 4 if fair else 0, floor=4)
        self._gate = FairGate(workers, most=max(1, workers - 1) if fair else 0, waiting=waits)
        self._space = FairShares(0)  # estimates while audio is decoded, afterwards what it takes; its cap is the disk's
        self._written = 0  # bytes of it that lie on the disk

    def snapshot(self) -> dict[str, int]:
        """Also count the uploads that wait at the fair gate. file_bytes: of decoded audio in files."""
        held = super().snapshot()
        return held | {"waiting": held["waiting"] + self._gate.waiting, "file_bytes": self._written}

    async def decode(
        self, data: bytes | memoryview, *, rate: int, param: str = "file", max_seconds: float | None = None
    ) -> Decoded:
        """Decode as the media pool does. Also raises Overloaded beyond the owner's share, and StorageFull."""
        owner = current_owner.get()
        longest = self._caps.audio_seconds if max_seconds is None else min(max_seconds, self._caps.audio_seconds)
        check_flac_head(data, longest, self._caps.decoded_bytes, param)
        estimate = min(int(longest * rate * _BYTES_PER_SAMPLE), len(data) * _GROWTH)
        async with self._gate.slot(owner):
            self._check_space(owner, estimate)
            self._space.take(owner, estimate)
            try:
                decoded = await self._decoded(data, rate, param, max_seconds)
            finally:
                self._space.give_back(owner, estimate)
        return self._booked(owner, decoded)

    async def _decoded(self, data: bytes | memoryview, rate: int, param: str, max_seconds: float | None) -> Decoded:
        try:
            return await super().decode(data, rate=rate, param=param, max_seconds=max_seconds)
        except (ServiceUnavailable, InvalidRequest):
            # At once: what the failed decoding left is about to be deleted.
            if self.folder is not None and self._free_bytes() < _FULL_BYTES:
                raise self._full() from None
            raise
        except OSError as error:  # a map of a file that could not be written
            _log.error("media.temporary_file_failed", error=str(error))
            raise self._full() from None

    def _booked(self, owner: str, decoded: Decoded) -> Decoded:
        if decoded.file is None:
            return decoded
        size = decoded.samples.nbytes
        self._space.take(owner, size)
        self._written += size

        def closed() -> None:
            self._space.give_back(owner, size)
            self._written -= size

        return _Shared(
            decoded.samples,
            decoded.duration,
            decoded.source_rate,
            decoded.channels,
            decoded.container,
            decoded.file,
            decoded.note,
            closed,
        )

    def _check_space(self, owner: str, size: int) -> None:
        """Raise Overloaded beyond the owner's share: its first audio always passes, more only while it leaves others as
        much as it takes."""
        held = self._space.held_by(owner)
        if not held or self.folder is None:
            return
        room = self._free_bytes() + self._written
        if held + size > (room - (self._space.held - held)) // (2 if self._fair else 1):
            raise Overloaded(
                "The audio of your other requests fills your share of the space for temporary files.", retry_after=5
            )

    def _free_bytes(self) -> int:
        """Free bytes of the disk that holds temporary files; plenty where that is unknown."""
        try:
            return shutil.disk_usage(str(self.folder)).free
        except OSError:
            return 1 << 62

    def _full(self) -> StorageFull:
        _log.error(
            "media.disk_full", folder=str(self.folder), hint="free some space there, or set TMPDIR (Windows: TEMP)"
        )
        return StorageFull("The server's disk for temporary files is full, so the audio could not be decoded.")


def check_flac_head(data: bytes | memoryview, seconds: float, decoded_bytes: int, param: str) -> None:
    """Refuse a FLAC whose STREAMINFO says that it is over a cap. Raises InvalidRequest.

    A file that says nothing (0 samples), or less than it holds, is stopped by the decoder's own count.
    """
    head = bytes(data[:_STREAMINFO_BYTES])
    if len(head) < _STREAMINFO_BYTES or head[:4] != b"fLaC" or head[4] & 0x7F:
        return
    packed = int.from_bytes(head[18:26], "big")  # 20 bits rate, 3 bits channels - 1, 5 bits depth - 1, 36 bits samples
    rate, channels, samples = packed >> 44, (packed >> 41 & 7) + 1, packed & (1 << 36) - 1
    if rate and samples > seconds * rate:
        raise InvalidRequest(f"The audio is longer than the limit of {seconds:g} seconds.", param=param)
    if samples * channels * _BYTES_PER_SAMPLE > decoded_bytes:
        raise InvalidRequest(f"The audio decodes to more than the limit of {decoded_bytes} bytes.", param=param)
