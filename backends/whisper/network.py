"""What decoding needs from an engine: encode windows, then ask for the logits of next tokens.

The protocol that the ONNX and the torch engine implement. Owns no weights; tokens are plain numbers here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from backends.whisper.config import ModelDimensions

Floats = NDArray[np.float32]
Tokens = NDArray[np.int64]


class EncoderOutput(Protocol):
    """One encoded window: whatever cross-attention of its engine reads."""


class Decoding(Protocol):
    """A batch of token sequences in progress, each over its own window."""

    def feed(self, tokens: Tokens, keep: int = 0) -> Floats:
        """Append tokens [batch, new]; logits of the new positions from `keep` on, [batch, new - keep, vocabulary]."""

    def select(self, rows: Sequence[int]) -> None:
        """Go on with these rows only."""


class Network(Protocol):
    """A loaded model on one device.

    max_batch: rows that one Decoding may hold; short_windows: `encode` takes windows of fewer frames than the model's
    own, an even number of them, and one Decoding those of one length.
    """

    dims: ModelDimensions
    engine: str
    device: str
    dtype: str
    max_batch: int
    short_windows: bool

    def replicas(self, windows: int, *, short: bool = False) -> Sequence[Network]:
        """Networks of the same weights to decode so many windows with, each in a thread of its own; all take this one's
        memories. Only itself where others would not be better. short: the windows are of fewer frames than usual."""

    def encode(self, mels: Sequence[Floats]) -> list[EncoderOutput]:
        """mels: [mels, frames] each; one Memory per window."""

    def decode(self, encoder_outputs: Sequence[EncoderOutput], padding: Sequence[int] = ()) -> Decoding:
        """Begin sequences; padding[i]: how many tokens at the beginning of row i are only there to fill the batch."""

    def cross_weights(
        self, encoder_output: EncoderOutput, tokens: Sequence[int], heads: Sequence[tuple[int, int]]
    ) -> Floats:
        """Cross-attention of (layer, head) pairs for a whole sequence: probabilities [heads, tokens, positions]."""

    def footprint(self) -> int:
        """Bytes of weights on the device."""

    def detail(self) -> dict[str, Any]:
        """Facts for /health, JSON values only."""


def attention_probabilities(query: Floats, key: Floats) -> Floats:
    """softmax(q k / sqrt(d)); query [tokens, d], key [positions, d]."""
    scores = query @ key.T / np.float32(np.sqrt(query.shape[-1]))
    scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
    probabilities: Floats = scores / scores.sum(axis=-1, keepdims=True)
    return probabilities
