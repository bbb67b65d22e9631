"""Which masked positions of a block take their candidate tokens in one denoising step.

Owns candidates, confidences, the fixed schedule and the two confidence rules. Knows no model: logits go in, positions
and tokens come out. Requirements: LLaDA's low-confidence remasking; the threshold and factor rules of Fast-dLLM.
"""

from __future__ import annotations

import torch
from torch import Tensor

_NO_FLOAT64 = ("mps", "privateuseone")  # devices that do not compute in float64


def transfer_counts(masked: int, steps: int) -> list[int]:
    """Tokens to commit in each of `steps` steps: even shares, the first ones take the remainder; zeros if steps >
    masked."""
    share, rest = divmod(masked, steps)
    return [share + (step < rest) for step in range(steps)]


def guided(logits: Tensor, cfg_scale: float) -> Tensor:
    """Classifier-free guidance: [2, rows, vocabulary] (with the prompt, with a masked prompt) -> [rows, vocabulary]."""
    conditional, unconditional = logits[0], logits[1]
    return unconditional + (cfg_scale + 1) * (conditional - unconditional)


def candidates(
    logits: Tensor, mask_id: int, temperature: float = 0.0, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """The token each row would take and the model's confidence in it.

    logits: [rows, vocabulary]. Returns ids [rows] and float64 probabilities [rows] of the logits without noise. The
    mask itself is never a candidate: committed, it would stay in the answer.
    """
    logits = logits.cpu() if logits.device.type in _NO_FLOAT64 else logits
    noisy = with_noise(logits, temperature, generator) if temperature > 0 else logits.clone()
    noisy[:, mask_id] = -torch.inf
    tokens = noisy.argmax(-1)
    confidence = logits.to(torch.float64).softmax(-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    return tokens, confidence


def with_noise(logits: Tensor, temperature: float, generator: torch.Generator | None) -> Tensor:
    """Logits in float64 plus Gumbel noise: their argmax is a sample of softmax(logits / temperature).

    The published form exp(logits) / (-ln u) ** temperature has the same argmax and overflows.
    """
    uniform = torch.rand(
        logits.shape, dtype=torch.float64, generator=generator, device=generator.device if generator else None
    )
    return logits.to(torch.float64) - temperature * torch.log(-torch.log(uniform.to(logits.device)))


def pick_scheduled(confidence: Tensor, masked: Tensor, count: int) -> Tensor:
    """The `count` masked positions of highest confidence. confidence [rows], masked bool [rows] -> indices."""
    return torch.where(masked, confidence, -torch.inf).topk(count).indices


def pick_confident(confidence: Tensor, masked: Tensor, threshold: float) -> Tensor:
    """Every masked position of at least `threshold`, and the best one in any case."""
    known = torch.where(masked, confidence, -torch.inf)
    count = int((known >= threshold).sum())
    return known.topk(max(1, count)).indices


def pick_by_factor(confidence: Tensor, masked: Tensor, factor: float) -> Tensor:
    """Masked positions in falling order of confidence, up to the first that fails 1 - factor / (rank + 1).

    Ranks count from 1 and the first never fails. As published, a failure exactly at the last rank is committed as well.
    """
    ranked = torch.where(masked, confidence, -torch.inf).sort(descending=True).values[: int(masked.sum())].tolist()
    passed = next(
        (index for index, value in enumerate(ranked) if index and value < 1 - factor / (index + 2)),
        len(ranked),
    )
    if passed == len(ranked) - 1:
        passed = len(ranked)
    return torch.where(masked, confidence, -torch.inf).topk(passed).indices
