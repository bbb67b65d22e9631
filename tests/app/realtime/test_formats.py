"""Codings, rates and the time line of a session's audio."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.realtime.formats import AudioFormat, _a_law, _mu_law
from app.realtime.resampling import Stream, resampled
from app.realtime.tape import Tape

PCM = AudioFormat()


def test_g711_tables() -> None:
    """The ends and the middle of both tables of ITU-T G.711."""
    assert [int(_mu_law()[code]) for code in (0x00, 0x7F, 0x80, 0xFF)] == [-32_124, 0, 32_124, 0]
    assert [int(_a_law()[code]) for code in (0x55, 0xD5, 0x2A, 0xAA)] == [-8, 8, -32_256, 32_256]


@pytest.mark.parametrize("coding", ["audio/pcmu", "audio/pcma"])
def test_g711_encoding_takes_the_nearest_code(coding: str) -> None:
    form = AudioFormat(coding, 8000)  # type: ignore[arg-type]
    codes = bytes(range(256))
    values = np.round(form.samples(codes) * 32_768).astype(np.int16)
    assert (form.samples(form.encoded(values)) == form.samples(codes)).all()
    loud = np.arange(-32_768, 32_768, dtype=np.int32).astype(np.int16)
    error = np.abs(form.samples(form.encoded(loud)) * 32_768 - loud)
    assert error.max() <= 644  # half of the largest step


def test_a_stream_in_pieces_is_the_whole() -> None:
    """Nothing happens at the borders of pieces, and the length is exact."""
    rng = np.random.default_rng(1)
    samples = rng.standard_normal(24_000).astype(np.float32) * 0.1
    stream = Stream(24_000, 16_000)
    pieces = [stream.push(piece) for piece in np.array_split(samples, [1, 10, 500, 501, 9000, 20_000])]
    joined = np.concatenate([*pieces, stream.flush()])
    whole = resampled(samples, 24_000, 16_000)
    assert len(joined) == len(whole) == 16_000
    assert np.abs(joined - whole).max() < 1e-5


@given(st.lists(st.binary(max_size=9), max_size=60))
def test_odd_bytes_are_carried_over(pieces: list[bytes]) -> None:
    tape = Tape(keeps=True, most_bytes=1 << 20)
    taken = b"".join(tape.push(piece, PCM) for piece in pieces)
    whole = b"".join(pieces)
    assert taken == whole[: len(whole) - len(whole) % 2]
    assert tape.seconds == pytest.approx(len(taken) / 48_000)
    assert tape.cut(0.0, tape.seconds + 1)[0] == taken


def test_a_tape_keeps_what_may_still_be_wanted_and_no_more() -> None:
    tape = Tape(keeps=True, most_bytes=48_000)
    for number in range(100):
        tape.push(bytes([number]) * 4800, PCM)
    assert tape.cut(0.0, 10.0)[0][:1] == bytes([90])
    assert tape.cut(9.5, 9.6)[0] == bytes([95]) * 4800
    tape.forget(9.6)
    assert tape.cut(0.0, 10.0)[0][:1] == bytes([96])
    nothing = Tape(keeps=False, most_bytes=48_000)
    nothing.push(bytes(4800), PCM)
    assert (nothing.seconds, nothing.cut(0, 1)[0]) == (0.1, b"")
