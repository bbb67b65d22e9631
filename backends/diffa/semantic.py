"""The semantic adapter: subsamples the encoder's output by four and projects it to the language model's width.

Owns the network, whose parameters bear the published names. Knows nothing of files or of the language model.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

PREFIX = "semantic_connector."
SUBSAMPLING = 4


class SemanticAdapter(nn.Module):
    """[frames, width] -> [frames // 4, out_width]. wide: channels after the strided convolution; inner: of the first
    linear."""

    def __init__(self, width: int, wide: int, inner: int, out_width: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv1d(width, width, 3, padding=1),
            nn.GELU(),
            nn.Conv1d(width, wide, 3, stride=SUBSAMPLING, padding=1),
        )
        self.linear_connector = nn.Sequential(nn.Linear(wide, inner), nn.ReLU(), nn.Linear(inner, out_width))
        self.layernorm = nn.LayerNorm(out_width, eps=1e-5)

    def forward(self, frames: Tensor) -> Tensor:
        """frames: the encoder's last output cut to the length of the audio."""
        frames = frames[: len(frames) // SUBSAMPLING * SUBSAMPLING]
        steps = self.conv(frames.T.unsqueeze(0)).squeeze(0).T
        # The ReLU between the projection and its norm is part of the published network.
        return self.layernorm(F.relu(self.linear_connector(steps)))  # type: ignore[no-any-return]
