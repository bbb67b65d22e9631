"""The acoustic adapter: a Q-former that turns tapped encoder layers into a fixed number of embeddings.

Owns the network and the published names of its tensors. Knows nothing of files or of the language model. Every tapped
encoder state has its own learned prompts; one shared two-layer BERT-style encoder (post-norm, self-attention in both
directions, then cross-attention to all frames, then feed-forward) reads each state, and a learned softmax mixes the
results.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PREFIX = "acoustic_connector."
LAYERS = 2
_BERT_EPS = 1e-12

# Own name -> published name, for every part of a layer.
_PUBLISHED = (
    (r"\.self_attention\.(query|key|value)\.", r".attention.self.\1."),
    (r"\.self_attention\.out\.", ".attention.output.dense."),
    (r"\.self_attention\.norm\.", ".attention.output.LayerNorm."),
    (r"\.cross_attention\.(query|key|value)\.", r".crossattention.self.\1."),
    (r"\.cross_attention\.out\.", ".crossattention.output.dense."),
    (r"\.cross_attention\.norm\.", ".crossattention.output.LayerNorm."),
    (r"\.feed_forward\.up\.", ".intermediate.dense."),
    (r"\.feed_forward\.down\.", ".output.dense."),
    (r"\.feed_forward\.norm\.", ".output.LayerNorm."),
    (r"^layers\.", "qformer.layer."),
)


def published_name(name: str) -> str:
    """Name of one of this module's parameters in a DIFFA checkpoint."""
    for own, published in _PUBLISHED:
        name = re.sub(own, published, name)
    return PREFIX + name


class Attention(nn.Module):
    """Multi-head attention without a mask, residual and LayerNorm included."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=_BERT_EPS)

    def forward(self, x: Tensor, source: Tensor) -> Tensor:
        """Queries of x [batch, n, width] over keys and values of source [batch, m, width] -> [batch, n, width]."""
        q, k, v = self._split(self.query(x)), self._split(self.key(source)), self._split(self.value(source))
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.norm(x + self.out(attended))  # type: ignore[no-any-return]

    def _split(self, x: Tensor) -> Tensor:
        return x.view(len(x), -1, self.heads, x.shape[-1] // self.heads).transpose(1, 2)


class FeedForward(nn.Module):
    """Linear, exact (erf) GELU, linear; residual and LayerNorm included."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)
        self.norm = nn.LayerNorm(width, eps=_BERT_EPS)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x + self.down(F.gelu(self.up(x))))  # type: ignore[no-any-return]


class Layer(nn.Module):
    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.self_attention = Attention(width, heads)
        self.cross_attention = Attention(width, heads)
        self.feed_forward = FeedForward(width, inner)

    def forward(self, x: Tensor, frames: Tensor) -> Tensor:
        x = self.self_attention(x, x)
        return self.feed_forward(self.cross_attention(x, frames))  # type: ignore[no-any-return]


class AcousticAdapter(nn.Module):
    """Tapped encoder states -> [prompts, out_width] embeddings.

    width: of the encoder; heads: of its attention; inner: of the feed-forward (BERT's default, not scaled with the
    width, so it is taken from the tensor); prompts: learned queries per tap; taps: number of encoder states.
    """

    def __init__(self, width: int, heads: int, inner: int, prompts: int, taps: int, out_width: int) -> None:
        super().__init__()
        self.layer_prompts = nn.ParameterList(torch.empty(1, prompts, width) for _ in range(taps))
        self.layer_weights = nn.Parameter(torch.empty(prompts, taps))
        self.layers = nn.ModuleList(Layer(width, heads, inner) for _ in range(LAYERS))
        self.proj = nn.Sequential(nn.LayerNorm(width, eps=1e-5), nn.Linear(width, out_width))

    def forward(self, states: Sequence[Tensor]) -> Tensor:
        """states: one [frames, width] per tap, padding frames included -> [prompts, out_width]."""
        x = torch.cat(list(self.layer_prompts))
        frames = torch.stack(list(states))
        for layer in self.layers:
            x = layer(x, frames)
        shares = self.layer_weights.softmax(-1).T.unsqueeze(-1)  # [taps, prompts, 1]
        return self.proj((shares * x).sum(0))  # type: ignore[no-any-return]
