"""The rows of a prompt: token ids and codes laid out as the backbone reads them.

A row has K + 1 columns, K audio codes and a text id, with a mask of the same shape. A text row fills the last column,
an audio row the others. A segment is its text rows, its audio rows and one all-zero audio row that ends the audio.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from backends.interface import InvalidInput


def text_rows(ids: Sequence[int], codebooks: int) -> tuple[Tensor, Tensor]:
    """Text ids [n] -> tokens int64 and mask bool [n, codebooks + 1]."""
    tokens = torch.zeros(len(ids), codebooks + 1, dtype=torch.int64)
    mask = torch.zeros(len(ids), codebooks + 1, dtype=torch.bool)
    tokens[:, -1] = torch.as_tensor(ids, dtype=torch.int64)
    mask[:, -1] = True
    return tokens, mask


def audio_rows(codes: Tensor) -> tuple[Tensor, Tensor]:
    """Codes int64 [codebooks, frames] -> tokens and mask [frames + 1, codebooks + 1]; the last row is the end frame."""
    codebooks, frames = codes.shape
    tokens = torch.zeros(frames + 1, codebooks + 1, dtype=torch.int64)
    mask = torch.zeros(frames + 1, codebooks + 1, dtype=torch.bool)
    tokens[:frames, :-1] = codes.T
    mask[:, :-1] = True
    return tokens, mask


def prompt_rows(segments: Sequence[Mapping[str, Any]], codebooks: int) -> tuple[Tensor, Tensor]:
    """All segments in order. Each: "text_ids" [n] and, for context, "codes" [codebooks][frames] without an end
    frame."""
    parts: list[tuple[Tensor, Tensor]] = []
    for segment in segments:
        parts.append(text_rows(segment.get("text_ids", ()), codebooks))
        codes = segment.get("codes")
        if codes is not None:
            parts.append(audio_rows(_matrix(codes, codebooks)))
    if not parts:
        raise InvalidInput("a prompt needs at least one segment")
    return torch.cat([tokens for tokens, _ in parts]), torch.cat([mask for _, mask in parts])


def _matrix(codes: Any, codebooks: int) -> Tensor:
    matrix = torch.as_tensor(codes, dtype=torch.int64)
    if matrix.dim() != 2 or matrix.shape[0] != codebooks:
        raise InvalidInput(f"context codes of shape {list(matrix.shape)}, wanted [{codebooks}, frames]")
    return matrix
