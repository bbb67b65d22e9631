"""Sampling the next token from logits, on the device and without a host sync.

The caller draws the noise (`request_noise`), one generator per request, so a seed gives the same tokens whatever else
is in the batch. Order as in transformers and the LLASA reference: repetition penalty, temperature, top-k, top-p, draw.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

COLDEST = 1e-6  # temperature below which logits would overflow float32
_TIES = 14  # further candidates of `sample_rows`, in case some tie with the k-th (they stay, as in the reference)


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
    filtered = top_p_filter(top_k_filter(scaled, top_k), top_p)
    drawn = (torch.softmax(filtered, -1) / noise).argmax(-1)
    return torch.where(temperature > 0, drawn, greedy) if isinstance(temperature, Tensor) else drawn


def sample_rows(
    logits: Tensor,
    seen: Tensor,
    generators: Sequence[torch.Generator],
    temperature: float,
    top_k: int,
    top_p: float,
    repetition_penalty: float,
) -> Tensor:
    """Ids int64 [batch] drawn from logits [batch, vocabulary], each row with its own generator and the same settings.

    seen: bool like the logits, for the penalty (read only if there is one). Of a large vocabulary only the candidates
    that top-k leaves are looked at and get noise: LLASA's head has 65,537 rows, and 50 of them matter.
    """
    logits = logits.float()
    if repetition_penalty != 1.0:
        logits = penalised(logits, seen, repetition_penalty)
    if temperature == 0:
        return logits.argmax(-1)
    ids = None
    if 0 < top_k < logits.shape[-1] - _TIES:
        logits, ids = logits.topk(top_k + _TIES)
    noise = torch.empty_like(logits)
    for row, generator in zip(noise, generators, strict=True):
        request_noise(generator, row)
    drawn = pick(logits, noise, temperature, top_k, top_p)
    return drawn if ids is None else ids.gather(-1, drawn.unsqueeze(-1)).squeeze(-1)


def probabilities(
    logits: Tensor, seen: Tensor, temperature: float, top_k: int, top_p: float, repetition_penalty: float
) -> Tensor:
    """The distribution that tokens are drawn from, float32 [..., vocabulary]; seen: bool of the same shape."""
    logits = penalised(logits.float(), seen, repetition_penalty)
    if temperature == 0:
        return torch.nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).float()
    return torch.softmax(top_p_filter(top_k_filter(logits / temperature, top_k), top_p), -1)


def top_k_filter(logits: Tensor, top_k: int | Tensor) -> Tensor:
    """Logits below the k-th largest of their row become -inf. top_k <= 0: unchanged; above the vocabulary: all stay."""
    size = logits.shape[-1]
    if isinstance(top_k, Tensor):
        ranked = logits.sort(-1, descending=True).values
        count = torch.where(top_k <= 0, size, top_k).clamp(1, size).unsqueeze(-1)
        return logits.masked_fill(logits < ranked.gather(-1, count - 1), -torch.inf)
    if top_k <= 0 or top_k >= size:
        return logits
    return logits.masked_fill(logits < torch.topk(logits, top_k).values[..., -1:], -torch.inf)


def top_p_filter(logits: Tensor, top_p: float | Tensor) -> Tensor:
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
    """The generator of one request's noise. The same seed on another kind of device gives other noise."""
    return torch.Generator(device).manual_seed(seed % 2**63)


def request_noise(generator: torch.Generator, out: Tensor) -> Tensor:
    """Fill `out` (float32, any shape) with Exp(1) draws of one request and return it.

    As -log of a uniform draw: on a CPU a fifth of the time of torch's own exponential.
    """
    return out.uniform_(generator=generator).log_().neg_()


def _column(value: float | Tensor, like: Tensor) -> Tensor:
    """A setting as float32 that broadcasts over the vocabulary axis.

    A number is filled in on the device: copying it there would wait for the device.
    """
    if not isinstance(value, Tensor):
        return torch.full((), value, dtype=torch.float32, device=like.device)
    tensor = value.to(like.device, torch.float32)
    return tensor.unsqueeze(-1) if tensor.dim() else tensor
