"""Choosing the next token from logits, on the device and without a host sync.

The caller draws the noise (`request_noise`), one generator per request, so a seed gives the same tokens whatever else
is in the batch. Order as in transformers and the LLASA reference: repetition penalty, temperature, top-k, top-p, draw.
"""

from __future__ import annotations

import torch
from torch import Tensor

COLDEST = 1e-6  # temperature below which logits would overflow float32


def pick(
    logits: Tensor,
    noise: Tensor | None,
    temperature: float | Tensor = 1.0,
    top_k: int | Tensor = 0,
    top_p: float | Tensor = 1.0,
) -> Tensor:
    """Token ids int64 [...] drawn from logits [..., vocabulary] by argmax(p / noise), noise ~ Exp(1) of the same shape.

    That argmax has the law of a draw from p (exponential race). temperature 0 (or no noise) is greedy; top_k 0 and
    top_p 1 keep everything; entries tied with the k-th largest all stay. The three settings are numbers, or tensors
    [...] with one value per row; a row's result depends on no other row. Everything is computed in float32.
    """
    logits = logits.float()
    greedy = logits.argmax(-1)
    if noise is None or (not isinstance(temperature, Tensor) and temperature <= 0):
        return greedy
    per_row = isinstance(temperature, Tensor)
    scaled = logits / (_column(temperature, logits).clamp_min(COLDEST) if per_row else max(temperature, COLDEST))
    kept = nucleus(strongest(scaled, top_k), top_p)
    drawn = (torch.softmax(kept, -1) / noise).argmax(-1)
    return torch.where(temperature > 0, drawn, greedy) if isinstance(temperature, Tensor) else drawn


def strongest(logits: Tensor, top_k: int | Tensor) -> Tensor:
    """Logits below the k-th largest of their row become -inf. top_k <= 0: unchanged; above the vocabulary: all stay."""
    size = logits.shape[-1]
    if isinstance(top_k, Tensor):
        ranked = logits.sort(-1, descending=True).values
        wanted = torch.where(top_k <= 0, size, top_k).clamp(1, size).unsqueeze(-1)
        return logits.masked_fill(logits < ranked.gather(-1, wanted - 1), -torch.inf)
    if top_k <= 0 or top_k >= size:
        return logits
    return logits.masked_fill(logits < torch.topk(logits, top_k).values[..., -1:], -torch.inf)


def nucleus(logits: Tensor, top_p: float | Tensor) -> Tensor:
    """The smallest set of tokens whose probability reaches top_p stays (always at least one); the rest become -inf."""
    if not isinstance(top_p, Tensor) and top_p >= 1.0:
        return logits
    ranked, order = torch.softmax(logits, -1).sort(-1, descending=True)
    before = ranked.cumsum(-1) - ranked  # mass of the tokens ranked above this one
    dropped = (before >= _column(top_p, logits)) & (before > 0)
    return logits.masked_fill(torch.zeros_like(dropped).scatter(-1, order, dropped), -torch.inf)


def penalised(logits: Tensor, seen: Tensor, penalty: float | Tensor) -> Tensor:
    """Repetition penalty over seen bool [..., vocabulary]: positive logits are divided, negative ones multiplied."""
    factor = _column(penalty, logits)
    return torch.where(seen, torch.where(logits > 0, logits / factor, logits * factor), logits)


def request_generator(seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    """The noise source of one request. The same seed on another kind of device gives other noise."""
    return torch.Generator(device).manual_seed(seed % 2**63)


def request_noise(generator: torch.Generator, out: Tensor) -> Tensor:
    """Fill `out` (float32, any shape) with Exp(1) draws of one request and return it.

    As -log of a uniform draw: on a CPU a fifth of the time of torch's own exponential.
    """
    return out.uniform_(generator=generator).log_().neg_()


def _column(value: float | Tensor, like: Tensor) -> Tensor:
    """A setting as float32 that broadcasts over the vocabulary axis. A number is filled in there: copied, it would
    wait."""
    if not isinstance(value, Tensor):
        return torch.full((), value, dtype=torch.float32, device=like.device)
    tensor = value.to(like.device, torch.float32)
    return tensor.unsqueeze(-1) if tensor.dim() else tensor
