"""The diarization inside the package `moonshine-voice`, step by step: an independent implementation to compare with.

    python -m tests.backends.diarization.oracle talk.npy found.npz

Its engine is C++ and has no face in Python, but its methods are exported; they are called by their names in the Itanium
C++ ABI, which fixes how a std::vector lies in memory and comes back. So this works with the one version that the lists
pin, on Linux with an x86-64 processor, and runs in a process of its own, because the library brings an onnxruntime.
"""

from __future__ import annotations

import ctypes
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

WINDOW, STEP, VOICES, DIMENSIONS = 160_000, 16_000, 3, 256
_ENGINE = "_ZN9cppannote15CppAnnoteEngine"
_TURN = np.dtype([("start", "<f8"), ("end", "<f8"), ("speaker", "<i4"), ("padding", "<i4")])
_BYTES = 1 << 16  # far more than any of its objects takes


class Vector(ctypes.Structure):
    """std::vector: first, past the last, end of the memory."""

    _fields_ = [("first", ctypes.c_void_p), ("past", ctypes.c_void_p), ("end", ctypes.c_void_p)]

    def array(self, kind: Any) -> np.ndarray:
        return np.frombuffer(ctypes.string_at(self.first, self.past - self.first), kind)


def vector_of(array: np.ndarray) -> Vector:
    """The array's own memory as a vector; it must outlive it."""
    past = array.ctypes.data + array.nbytes
    return Vector(array.ctypes.data, past, past)


class Engine:
    """Networks, clustering and turns of the library."""

    def __init__(self) -> None:
        package = metadata.distribution("moonshine-voice")
        self._library = ctypes.CDLL(str(package.locate_file("moonshine_voice/libmoonshine.so")))
        self._object = ctypes.create_string_buffer(_BYTES)
        self._call("C1Ev")

    def _call(self, name: str, *arguments: Any, before: Any = None) -> None:
        """before: where the result is put, which the ABI passes first."""
        function = getattr(self._library, _ENGINE + name)
        function.restype, function.argtypes = None, None
        function(*([before] if before is not None else []), self._object, *arguments)

    def activity(self, window: np.ndarray) -> np.ndarray:
        """float32 [589 * 3] of a window float32 [160000]."""
        found = Vector()
        self._call("27run_segmentation_ort_singleEPKf", ctypes.c_void_p(window.ctypes.data), before=ctypes.byref(found))
        return found.array(np.float32)

    def embeddings(self, window: np.ndarray, activity: np.ndarray) -> np.ndarray:
        """float32 [3 * 256]; NaN for a voice that is not there."""
        found, places = Vector(), (window.ctypes.data, activity.ctypes.data)
        arguments = [ctypes.c_void_p(place) for place in places]
        self._call("24run_embedding_ort_singleEPKfS2_", *arguments, before=ctypes.byref(found))
        return found.array(np.float32)

    def turns(self, activity: np.ndarray, embeddings: np.ndarray, windows: int) -> np.ndarray:
        """Turns [n] of all windows, which start STEP samples apart."""
        results, profile = ctypes.create_string_buffer(_BYTES), ctypes.create_string_buffer(_BYTES)
        name = "18cluster_and_decodeERKSt6vectorIfSaIfEES5_iRNS_18DiarizationProfileEdd"
        given = [ctypes.byref(vector_of(array)) for array in (activity, embeddings)]
        seconds, offset = ctypes.c_double(STEP / 16_000), ctypes.c_double(0.0)
        self._call(name, *given, ctypes.c_int(windows), profile, seconds, offset, before=results)
        return Vector.from_buffer(results).array(_TURN)


def main(recording: Path, result: Path) -> None:
    samples, engine = np.load(recording), Engine()
    windows = 1 + max(0, -(-(len(samples) - WINDOW) // STEP))
    padded = np.pad(samples, (0, windows * STEP + WINDOW - len(samples)))
    activity, embeddings = [], []
    for number in range(windows):
        window = np.ascontiguousarray(padded[number * STEP : number * STEP + WINDOW])
        activity.append(engine.activity(window))
        embeddings.append(engine.embeddings(window, activity[-1]))
    active, voices = np.concatenate(activity), np.concatenate(embeddings)
    turns = engine.turns(active, voices, windows)
    np.savez(
        result,
        active=active.reshape(windows, -1, VOICES) > 0.5,
        embeddings=voices.reshape(windows, VOICES, DIMENSIONS),
        turns=np.stack([turns["start"], turns["end"], turns["speaker"]], axis=1),
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
