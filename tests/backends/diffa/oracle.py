"""LLaDA and its decoding loops once more, written plainly and apart from the product, to compare with.

One sequence, no batching, no shared code: the network computes row by row what the facts say, the loops commit tokens
as the published scripts do. Everything is float32 on the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass
class Plain:
    """tensors: under the published names; the answer is decoded by `generate`."""

    tensors: dict[str, Tensor]
    layers: int
    heads: int
    theta: float = 500_000.0
    eps: float = 1e-5
    passes: int = field(default=0, init=False)

    def weight(self, name: str) -> Tensor:
        return self.tensors[f"model.transformer.{name}.weight"]

    def embed(self, ids: Sequence[int]) -> Tensor:
        return self.weight("wte")[torch.tensor(ids)]

    def norm(self, x: Tensor, name: str) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight(name)

    def forward(self, x: Tensor, positions: Tensor, memory: list[tuple[Tensor, Tensor]] | None = None) -> Tensor:
        """Logits of rows x at `positions`; memory: per layer keys and values of the whole sequence, updated in
        place."""
        for layer in range(self.layers):
            block = f"blocks.{layer}."
            n = self.norm(x, f"{block}attn_norm")
            q, k, v = (self.split(n @ self.weight(f"{block}{name}_proj").T) for name in "qkv")
            q, k = self.turn(q, positions), self.turn(k, positions)
            if memory is not None:
                keys, values = memory[layer]
                keys[:, positions], values[:, positions] = k, v
                k, v = keys, values
            repeat = q.shape[0] // k.shape[0]
            k, v = k.repeat_interleave(repeat, 0), v.repeat_interleave(repeat, 0)
            shares = (q @ k.transpose(1, 2) / q.shape[-1] ** 0.5).softmax(-1)
            x = x + (shares @ v).transpose(0, 1).flatten(1) @ self.weight(f"{block}attn_out").T
            m = self.norm(x, f"{block}ff_norm")
            gated = F.silu(m @ self.weight(f"{block}ff_proj").T) * (m @ self.weight(f"{block}up_proj").T)
            x = x + gated @ self.weight(f"{block}ff_out").T
        return self.norm(x, "ln_f") @ self.weight("ff_out").T

    def split(self, x: Tensor) -> Tensor:
        width = self.weight("wte").shape[1] // self.heads
        return x.view(len(x), -1, width).transpose(0, 1)

    def turn(self, x: Tensor, positions: Tensor) -> Tensor:
        half = x.shape[-1] // 2
        angles = positions[:, None] * self.theta ** (-torch.arange(half) / half)
        cos, sin = angles.cos(), angles.sin()
        first, second = x[..., :half], x[..., half:]
        return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)

    def empty_memory(self, length: int) -> list[tuple[Tensor, Tensor]]:
        width = self.weight("wte").shape[1] // self.heads
        kv_heads = self.weight("blocks.0.k_proj").shape[0] // width
        return [
            (torch.zeros(kv_heads, length, width), torch.zeros(kv_heads, length, width)) for _ in range(self.layers)
        ]

    def generate(
        self, prompt: Sequence[int], splice: int, speech: Tensor, mask: int, *, steps: int, block: int, new: int,
        cfg: float = 0.0, cache: str = "none", threshold: float | None = None, factor: float | None = None,
    ) -> list[int]:  # fmt: skip
        """The ids of the answer; `passes` counts the sequences that were computed."""
        self.passes = 0
        ids, start = [mask] * new, len(prompt) + len(speech)
        memories = [self.empty_memory(start + new) for _ in range(2 if cfg else 1)]
        for first in range(0, new, block):
            last, step = first + block, 0
            budget = steps // (new // block)
            schedule = [block // budget + (n < block % budget) for n in range(budget)]
            while (
                step < budget if cache == "none" and threshold is None and factor is None else mask in ids[first:last]
            ):
                rows = []
                for which, memory in enumerate(memories):
                    self.passes += 1
                    text = [mask] * len(prompt) if which else list(prompt)
                    if cache == "none" or step == 0:
                        whole = torch.cat(
                            [self.embed(text[:splice]), speech, self.embed(text[splice:]), self.embed(ids)]
                        )
                        logits = self.forward(whole, torch.arange(len(whole)), None if cache == "none" else memory)
                        rows.append(logits[start + first : start + last])
                    else:
                        stop = last if cache == "dual" else new
                        logits = self.forward(
                            self.embed(ids[first:stop]), torch.arange(start + first, start + stop), memory
                        )
                        rows.append(logits[:block])
                logits = rows[0] if len(rows) == 1 else rows[1] + (cfg + 1) * (rows[0] - rows[1])
                count = None if threshold is not None or factor is not None else schedule[step]
                for place, token in _committed(logits, ids[first:last], mask, count, threshold, factor):
                    ids[first + place] = token
                step += 1
        return ids


def _committed(
    logits: Tensor, ids: list[int], mask: int, count: int | None, threshold: float | None, factor: float | None
) -> list[tuple[int, int]]:
    """Places and tokens that this step commits."""
    allowed = logits.clone()
    allowed[:, mask] = -torch.inf
    tokens = allowed.argmax(-1).tolist()
    shares = logits.double().softmax(-1)
    ranked = sorted(((shares[n, tokens[n]].item(), n) for n in range(len(ids)) if ids[n] == mask), reverse=True)
    if threshold is not None:
        count = max(1, sum(share >= threshold for share, _ in ranked))
    elif factor is not None:
        failing = [rank for rank, (share, _) in enumerate(ranked, 1) if rank > 1 and share < 1 - factor / (rank + 1)]
        count = failing[0] - 1 if failing and failing[0] != len(ranked) else len(ranked)
    return [(n, tokens[n]) for _, n in ranked[:count]]
