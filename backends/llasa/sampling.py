"""How the next token is chosen: the draw for a batch in which each row has its own seed.

Order: repetition penalty over prompt and answer, temperature, top-k, top-p, softmax, draw. Only the candidates that
top-k leaves are looked at and only they get noise, because the head has 65,537 rows and 50 of them matter.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from backends.llasa.options import Sampling
from backends.transformer.sampling import nucleus, penalised, pick, request_noise, strongest

_TIES = 14  # further candidates, in case some tie with the k-th (they stay, as in the reference)


def probabilities(logits: Tensor, seen: Tensor, sampling: Sampling) -> Tensor:
    """The distribution that tokens are drawn from, float32 [..., vocabulary]; seen: bool of the same shape."""
    logits = penalised(logits.float(), seen, sampling.repetition_penalty)
    if sampling.temperature == 0:
        return torch.nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).float()
    return torch.softmax(nucleus(strongest(logits / sampling.temperature, sampling.top_k), sampling.top_p), -1)


def draw(logits: Tensor, seen: Tensor, sampling: Sampling, generators: Sequence[torch.Generator]) -> Tensor:
    """Rows int64 [batch] drawn from logits [batch, vocabulary], each with its own generator and the same settings."""
    logits = logits.float()
    if sampling.repetition_penalty != 1.0:
        logits = penalised(logits, seen, sampling.repetition_penalty)
    if sampling.temperature == 0:
        return logits.argmax(-1)
    places = None
    if 0 < sampling.top_k < logits.shape[-1] - _TIES:
        logits, places = logits.topk(sampling.top_k + _TIES)
    noise = torch.empty_like(logits)
    for row, generator in zip(noise, generators, strict=True):
        request_noise(generator, row)
    chosen = pick(logits, noise, sampling.temperature, sampling.top_k, sampling.top_p)
    return chosen if places is None else places.gather(-1, chosen.unsqueeze(-1)).squeeze(-1)
