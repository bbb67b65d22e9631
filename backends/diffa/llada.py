"""LLaDA, the masked-diffusion language model, on the shared transformer core.

Owns its configuration, its key layout, embedding table and head, and the forward pass over several answers at once.
Knows nothing of audio (embeddings come in from outside) and nothing of the denoising schedule (windows come in from
outside).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backends.diffa.checkpoint import open_checkpoint, read_config
from backends.diffa.denoise import Window
from backends.diffa.offload import Offload
from backends.diffa.ragged import Ragged, RaggedSequence
from backends.interface import ModelUnavailable
from backends.transformer.attention import KVCache
from backends.transformer.bounds import MOST_ROWS, check_size, check_stack
from backends.transformer.checkpoint import Checkpoint, renamed
from backends.transformer.config import TransformerConfig
from backends.transformer.linear import Linear, Precision, make_linear
from backends.transformer.model import Transformer
from backends.transformer.rope import Rope

_PARTS = {
    "attention_norm": "attn_norm.weight",
    "q": "q_proj.weight",
    "k": "k_proj.weight",
    "v": "v_proj.weight",
    "o": "attn_out.weight",
    "mlp_norm": "ff_norm.weight",
    "gate": "ff_proj.weight",
    "up": "up_proj.weight",
    "down": "ff_out.weight",
}
_PREFIX = "model.transformer."
# What the published checkpoints have; another value would need another network.
_EXPECTED = {
    "model_type": ("llada",),
    "block_type": ("llama", None),
    "activation_type": ("silu", None),
    "layer_norm_type": ("rms", None),
    "rope": (True, None),
    "alibi": (False, None),
    "include_bias": (False, None),
    "include_qkv_bias": (False, None),
    "attention_layer_norm": (False, None),
    "scale_logits": (False, None),
    "input_emb_norm": (False, None),
}


@dataclass(frozen=True, slots=True)
class LladaConfig:
    """stack: the transformer's shape; rows: of the embedding table and of the head; tied: both are one matrix."""

    stack: TransformerConfig
    rows: int
    tied: bool


@dataclass(slots=True)
class SequenceState:
    """What the model holds of one answer in progress.

    prompt: embeddings [rows, positions, width], two rows with guidance; cache: keys and values of all positions, one
    slot per row (None: everything is computed at every pass).
    """

    prompt: Tensor
    cache: KVCache | None

    @property
    def prompt_length(self) -> int:
        return int(self.prompt.shape[1])


@dataclass(frozen=True, slots=True)
class Pass:
    """One forward pass to compute for one answer: its ids, int64 [answer length], and the window of positions."""

    sequence: SequenceState
    ids: Tensor
    window: Window


class Llada:
    """The network. `dtype`: of activations and caches; weights may be int8."""

    def __init__(self, config: LladaConfig, stack: Transformer, table: Tensor, head: Linear) -> None:
        self.config, self.stack, self._table, self._head = config, stack, table, head
        self.device, self.dtype = stack.device, stack.dtype

    @property
    def width(self) -> int:
        return self.config.stack.width

    @property
    def max_positions(self) -> int:
        return self.config.stack.max_positions

    def bytes(self) -> int:
        table = self._table.numel() * self._table.element_size()
        return self.stack.bytes() + self._head.bytes() + table

    def embed(self, ids: Tensor) -> Tensor:
        """ids int64 [n] -> [n, width]."""
        return self._table[ids.to(self._table.device)].to(self.device, self.dtype)

    def sequence(self, prompt: Tensor, answer_length: int, *, cached: bool) -> SequenceState:
        """State for an answer of `answer_length` tokens to prompt embeddings [rows, positions, width]."""
        rows, positions = prompt.shape[:2]
        cache = None
        if cached:
            cache = KVCache(self.config.stack, rows, positions + answer_length, self.dtype, self.device)
        return SequenceState(prompt.to(self.device, self.dtype), cache)

    @torch.inference_mode()
    def logits(self, embeddings: Tensor) -> Tensor:
        """Logits [positions, vocabulary] of a whole sequence of embeddings [positions, width]."""
        hidden = self.stack(embeddings[None], Ragged([RaggedSequence(0, len(embeddings), len(embeddings))]))
        return self._head(hidden[0])

    @torch.inference_mode()
    def block_logits(self, passes: Sequence[Pass]) -> list[Tensor]:
        """One forward pass for all answers at once; per answer the logits [rows, block, vocabulary] of its block.

        Rows of all answers stand one behind another in one long batch, so answers of any length share every matrix
        product; only attention is computed per answer. Last layer and head compute the rows of the blocks alone.
        """
        inputs = [row for one in passes for row in self._inputs(one)]
        sequences = [sequence for one in passes for sequence in _ragged_sequences(one)]
        blocks = [_length(one.window.block) for one in passes for _ in one.sequence.prompt]
        hidden = self.stack(torch.cat(inputs)[None], Ragged(sequences, blocks), self._block_rows(passes))
        logits = self._head(hidden[0])
        sizes = [len(one.sequence.prompt) * _length(one.window.block) for one in passes]
        return [
            part.view(len(one.sequence.prompt), -1, part.shape[-1])
            for one, part in zip(passes, torch.split(logits, sizes), strict=True)
        ]

    def _inputs(self, one: Pass) -> list[Tensor]:
        """Embeddings to feed, one [time, width] per row."""
        window = one.window
        answer = self.embed(one.ids[window.start : window.stop])
        if not window.whole:
            return [answer] * len(one.sequence.prompt)
        return [torch.cat([prompt, answer]) for prompt in one.sequence.prompt]

    def _block_rows(self, passes: Sequence[Pass]) -> Tensor:
        """Indices of the blocks' rows in the long batch, int64 [rows]."""
        indices: list[int] = []
        offset = 0
        for one in passes:
            window = one.window
            before = one.sequence.prompt_length if window.whole else 0
            for _ in one.sequence.prompt:
                first = offset + before + window.block.start - window.start
                indices.extend(range(first, first + _length(window.block)))
                offset += before + window.stop - window.start
        return torch.tensor(indices, device=self.device)


def load_llada(folder: Path, precision: Precision, device: torch.device, offload: Offload | None = None) -> Llada:
    """The language model of `folder`. offload: which layers stay in the processor's memory. Raises ModelUnavailable."""
    config, checkpoint = llada_config(folder), open_checkpoint(folder)
    return build_llada(config, checkpoint, precision, device, offload)


def build_llada(
    config: LladaConfig,
    checkpoint: Checkpoint,
    precision: Precision,
    device: torch.device,
    offload: Offload | None = None,
) -> Llada:
    """The language model from the tensors of a checkpoint, which must hold these and no others. Raises
    ModelUnavailable."""
    stack = Transformer(
        config.stack,
        checkpoint.reader(renamed(_PREFIX, _PARTS, "ln_f.weight", "blocks.")),
        precision=precision,
        device=device,
        linear_factory=offload.linear_factory(precision, device) if offload else None,
    )
    shape = (config.rows, config.stack.width)
    stored = checkpoint.take(f"{_PREFIX}wte.weight", shape)
    head_weight = stored if config.tied else checkpoint.take(f"{_PREFIX}ff_out.weight", shape)
    checkpoint.finish(ignore=(r".*\.rotary_emb\..*", r"model\.transformer\.ff_out\.weight" if config.tied else "$"))
    head = make_linear(head_weight, precision, device)
    # The table is only looked up: bfloat16 as stored loses nothing, whatever the model computes in.
    dtype = torch.bfloat16 if stored.dtype == torch.bfloat16 else precision.compute
    table = stored.to("cpu" if offload and offload.table else device, dtype, copy=True)
    return Llada(config, stack, table, head)


def llada_config(folder: Path) -> LladaConfig:
    """The shape that config.json tells. Raises ModelUnavailable for another architecture or a missing key."""
    raw = read_config(folder)
    for key, allowed in _EXPECTED.items():
        if raw.get(key) not in allowed:
            raise ModelUnavailable(f"{folder} is not a LLaDA checkpoint that can be served: {key} is {raw.get(key)!r}")
    try:
        return _parse(raw)
    except KeyError as error:
        raise ModelUnavailable(f"{folder / 'config.json'} lacks {error}") from error
    except (TypeError, ValueError, ArithmeticError) as error:
        raise ModelUnavailable(f"{folder / 'config.json'} is not a usable LLaDA configuration: {error!r}") from error


def _parse(raw: Mapping[str, Any]) -> LladaConfig:
    width, heads = int(raw["d_model"]), int(raw["n_heads"])
    shared_keys = 1 if raw.get("multi_query_attention") else heads
    stack = TransformerConfig(
        layers=int(raw["n_layers"]),
        width=width,
        heads=heads,
        kv_heads=int(raw.get("n_kv_heads") or shared_keys),
        head_dim=width // heads,
        hidden=int(raw.get("mlp_hidden_size") or raw.get("mlp_ratio", 4) * width),
        norm_eps=float(raw.get("rms_norm_eps", 1e-5)),
        max_positions=int(raw.get("max_sequence_length", 4096)),
        rope=Rope(theta=float(raw.get("rope_theta", 500_000.0))),
    )
    rows = check_size("the vocabulary", raw.get("embedding_size") or raw["vocab_size"], MOST_ROWS)
    return LladaConfig(check_stack(stack), rows, bool(raw.get("weight_tying", False)))


def _ragged_sequences(one: Pass) -> list[RaggedSequence]:
    """The positions that a pass computes, one entry per row of its prompt."""
    sequence, window = one.sequence, one.window
    length = sequence.prompt_length + len(one.ids)
    start = 0 if window.whole else sequence.prompt_length + window.start
    stop = sequence.prompt_length + window.stop
    cache = sequence.cache if window.keep else None
    return [RaggedSequence(start, stop, length, cache, slot) for slot in range(len(sequence.prompt))]


def _length(rows: slice) -> int:
    return int(rows.stop - rows.start)
