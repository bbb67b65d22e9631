"""Reading a long recording, which may be a mapped file, piece by piece in little memory."""

from __future__ import annotations

import mmap

import numpy as np

from backends.interface import Samples


def read_samples(samples: Samples, first: int, end: int) -> Samples:
    """A copy of `samples[first:end]`.

    What was read of a mapped file would stay resident, 230 MB per hour of audio, until the system runs short of memory;
    it is given back at once where Python can do so.
    """
    part = np.array(samples[first:end], np.float32)
    if isinstance(samples, np.memmap) and samples.mode == "r" and hasattr(mmap.mmap, "madvise"):
        pages: mmap.mmap | None = getattr(samples, "_mmap", None)
        if pages is not None:
            pages.madvise(mmap.MADV_DONTNEED)
    return part
