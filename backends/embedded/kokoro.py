"""Kokoro-82M on onnxruntime: phonemes and a style in, speech out.

Owns the model's alphabet, its style tables and its inputs: `tokens` int64 [1, n + 2], `style` float32 [1, 256], `speed`
float32 [1]; output float32 [samples] at 24 kHz, bit-equal for equal inputs. Knows no language rules and no requests.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from backends.embedded.kokoro_graph import quicker
from backends.interface import ModelUnavailable, Samples
from backends.onnx_session import open_session

RATE = 24_000  # Hz
MOST_TOKENS = 510  # of one piece, and the rows of a style table
_STYLE_WIDTH = 256
_TABLE_BYTES = MOST_TOKENS * _STYLE_WIDTH * 4

StyleTable = NDArray[np.float32]  # [MOST_TOKENS, _STYLE_WIDTH]


def read_vocabulary(content: bytes) -> dict[str, int]:
    """Phoneme character -> id."""
    return msgspec.json.decode(content, type=dict[str, dict[str, int]])["vocab"]


def read_style_archive(content: bytes) -> dict[str, StyleTable]:
    """The tables of an .npz by voice name."""
    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        return {
            name: np.asarray(archive[name], np.float32).reshape(MOST_TOKENS, _STYLE_WIDTH) for name in archive.files
        }


def read_style_file(file: Path) -> StyleTable:
    """The table of one .bin: bare little-endian float32. Raises ModelUnavailable if it cannot be one."""
    if file.stat().st_size != _TABLE_BYTES:
        raise ModelUnavailable(f"{file} is no Kokoro voice: it has {file.stat().st_size} bytes, not {_TABLE_BYTES}")
    table = np.fromfile(file, "<f4").astype(np.float32).reshape(MOST_TOKENS, _STYLE_WIDTH)
    if not np.isfinite(table).all():
        raise ModelUnavailable(f"{file} is no Kokoro voice: it holds values that are no numbers")
    return table


class KokoroModel:
    """The loaded model, shared by all jobs and voices."""

    rate = RATE

    def __init__(self, model: bytes, vocabulary: Mapping[str, int], threads: int) -> None:
        self._vocabulary = vocabulary
        graph = quicker(model)
        self._session: Any = open_session(graph.model, threads, "Kokoro", graph.weights)
        self.bytes = len(model)
        self.kept_graph = graph.kept

    def ids(self, phonemes: str) -> list[int]:
        """Ids of the phonemes that the model knows."""
        return [self._vocabulary[char] for char in phonemes if char in self._vocabulary]

    def synthesize(self, ids: list[int], style: StyleTable, speed: float) -> Samples:
        """Sound of one piece, float32 [samples] at RATE; ids: 1 to MOST_TOKENS of them."""
        inputs = {
            "tokens": np.array([[0, *ids, 0]], np.int64),
            "style": style[len(ids) - 1][None],
            "speed": np.array([speed], np.float32),
        }
        return np.asarray(self._session.run(None, inputs)[0], np.float32).reshape(-1)
