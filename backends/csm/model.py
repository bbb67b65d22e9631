"""CSM's language model: a backbone over rows of text and audio frames, and a decoder over the codebooks of one frame.

Owns embeddings, heads, teacher-forced logits and plain generation of one utterance. Knows no text, no tokenizer, no
waveform and no batching of requests (frames.py). A *row* is one position of the backbone: K codes and a text id.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from backends.csm.config import CsmConfig, read_config
from backends.csm.layouts import Layout, open_language_model
from backends.csm.prompt_frames import prompt_rows
from backends.interface import InvalidInput
from backends.transformer.attention import KVCache, Span, Step, Whole
from backends.transformer.checkpoint import Checkpoint
from backends.transformer.config import tensor_shapes
from backends.transformer.cpu_int8.kernels import Picker, kernels
from backends.transformer.linear import Linear, Precision, make_linear, precision
from backends.transformer.model import Transformer
from backends.transformer.sampling import pick, request_generator, request_noise


def load_csm(
    model_dir: str | Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | str = torch.float32,
    rows: int = 0,
) -> CsmModel:
    """The language model of a folder with config.json and *.safetensors, in any mix of the two vocabularies and
    layouts.

    dtype: a torch dtype, or "float32", "bfloat16", "float16", "int8"; rows: see make_linear.
    Raises ModelUnavailable naming the tensor or file that is missing, superfluous or misshapen.
    """
    folder = Path(model_dir)
    config = read_config(folder)
    checkpoint, layout = open_language_model(folder)
    kind = precision(dtype, device) if isinstance(dtype, str) else Precision(dtype)
    if kind.weights == "dense" and torch.device(device).type == "cpu":
        kind = replace(kind, weights="packed")  # half the time of a plain product in bfloat16
    return CsmModel(config, checkpoint, layout, precision=kind, device=device, rows=rows)


class CsmModel:
    """Both stacks, the embedding tables and the K heads. Inference only."""

    def __init__(
        self,
        config: CsmConfig,
        checkpoint: Checkpoint,
        layout: Layout,
        *,
        precision: Precision,
        device: torch.device | str = "cpu",
        rows: int = 0,
    ) -> None:
        """Take exactly the tensors of `layout` from the checkpoint; see load_csm."""
        self.config, self.device = config, torch.device(device)
        self._precision, self._rows = precision, rows
        self.quantised = precision.weights == "int8"
        _demand_all(config, checkpoint, layout)
        self._load_tables(checkpoint, layout)
        self.backbone = self._stack(config, "backbone", checkpoint, layout)
        self.decoder = self._stack(config, "decoder", checkpoint, layout)
        checkpoint.finish(layout.ignored)
        self.dtype = self.backbone.dtype

    def _stack(self, config: CsmConfig, which: str, checkpoint: Checkpoint, layout: Layout) -> Transformer:
        stack = config.backbone if which == "backbone" else config.decoder
        stack = replace(stack, rope=replace(stack.rope, interleaved=layout.interleaved))
        take = checkpoint.reader(layout.backbone if which == "backbone" else layout.decoder)
        return Transformer(stack, take, precision=self._precision, device=self.device, rows=self._rows)

    def _load_tables(self, checkpoint: Checkpoint, layout: Layout) -> None:
        shapes = _shapes(self.config, layout)
        table_type = torch.bfloat16 if self.quantised else self._precision.compute

        def table(name: str, shape: tuple[int, ...]) -> Tensor:
            return checkpoint.take(name, shape).to(self.device, table_type, copy=True)

        self.text_table = table(layout.text, shapes[layout.text])
        self.audio_table = table(_audio_name(self.config, checkpoint, layout), shapes[layout.audio])
        shared = self.config.tied or not layout.audio_copy
        inner_table = self.audio_table if shared else table(layout.audio_copy, shapes[layout.audio])
        projection = checkpoint.take(layout.projection, shapes[layout.projection])
        self.projection = self._linear(projection)
        # The decoder sees audio embeddings only through the projection: one product now instead of K-1 per frame.
        self.projected_table = _projected(inner_table, projection.to(self.device), table_type)
        self.first_head = self._linear(checkpoint.take(layout.first_head, shapes[layout.first_head]))
        stored = checkpoint.take(layout.other_heads, shapes[layout.other_heads])  # input-major
        self.other_heads = [self._linear(matrix.T) for matrix in stored]
        self.offsets = torch.arange(self.config.codebooks, device=self.device) * self.config.audio_vocabulary

    def _linear(self, weight: Tensor) -> Linear:
        return make_linear(weight.contiguous(), self._precision, self.device, self._rows)

    # --- inputs -------------------------------------------------------------------------------------------------

    def prompt_rows(self, segments: Sequence[Mapping[str, Any]]) -> tuple[Tensor, Tensor]:
        """Segments {"text_ids", "codes" [codebooks][frames] (optional)} -> tokens int64, mask bool [rows, codebooks +
        1]."""
        return prompt_rows(segments, self.config.codebooks)

    def embed_rows(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Backbone inputs [rows, width] of tokens int64 and mask bool [rows, codebooks + 1]: the sum of what is
        unmasked."""
        tokens, mask = tokens.to(self.device), mask.to(self.device)
        audio = self.audio_table[tokens[:, :-1] + self.offsets].to(self.dtype)
        text = self.text_table[tokens[:, -1]].to(self.dtype)
        return (audio * mask[:, :-1, None]).sum(1) + text * mask[:, -1:]

    def embed_frames(self, codes: Tensor) -> Tensor:
        """Backbone inputs [frames, width] of whole audio frames int64 [frames, codebooks]."""
        return self.audio_table[codes + self.offsets].sum(1, dtype=self.dtype)

    def decoder_rows(self, hidden: Tensor, codes: Tensor) -> Tensor:
        """Decoder inputs [n, 1 + m, decoder width]: the backbone's hidden [n, width], then codebooks 0..m-1 of codes
        [n, m]."""
        embedded = self.projected_table[codes + self.offsets[: codes.shape[1]]].to(self.dtype)
        return torch.cat([self.projection(hidden)[:, None], embedded], 1)

    # --- teacher-forced logits ----------------------------------------------------------------------------------

    @torch.inference_mode()
    def logits(self, tokens: Tensor, mask: Tensor, frames: Tensor) -> Tensor:
        """Logits float32 [n, codebooks, vocabulary] that predict frames int64 [n, codebooks] after the prompt."""
        frames = frames.to(self.device, torch.int64)
        check_codes(frames, self.config)
        check_rows(tokens, mask, self.config)
        rows = torch.cat([self.embed_rows(tokens, mask), self.embed_frames(frames[:-1])])
        if not len(frames):
            return torch.empty(0, self.config.codebooks, self.config.audio_vocabulary)
        self._check_length(len(rows), 0)
        hidden = self.backbone(rows[None], Whole(len(rows), causal=True))[0, len(tokens) - 1 :]
        inner = self.decoder(self.decoder_rows(hidden, frames[:, :-1]), Whole(self.config.codebooks, causal=True))
        heads = [self.first_head(hidden), *(head(inner[:, i + 1]) for i, head in enumerate(self.other_heads))]
        return torch.stack(heads, 1).float()

    # --- generation ---------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def generate(
        self,
        tokens: Tensor,
        mask: Tensor,
        max_frames: int,
        temperature: float = 0.0,
        top_k: int = 50,
        seed: int | None = None,
    ) -> Tensor:
        """Frames int64 [frames, codebooks] after the prompt, up to the all-zero frame (not included) or max_frames.

        temperature 0 is greedy; seed None draws a new one; ids from 2048 on are never chosen.
        """
        check_rows(tokens, mask, self.config)
        length = self._check_length(len(tokens), max_frames)
        cache = KVCache(self.config.backbone, 1, length, self.dtype, self.device)
        depth = FrameDecoder(self, 1)
        noise = (
            NoiseSource((self.config.codebooks, self.config.allowed_codes), seed, self.device)
            if temperature > 0
            else None
        )
        hidden = self.backbone(self.embed_rows(tokens, mask)[None], Span(cache, 0, len(tokens), causal=True))[:, -1]
        frames: list[Tensor] = []
        while len(frames) < max_frames:
            codes = depth(hidden, noise.draw()[None] if noise else None, temperature, top_k)
            if not codes.any():
                break
            frames.append(codes[0])
            if len(frames) < max_frames:
                step = Step(cache, [0], [len(tokens) + len(frames) - 1])
                hidden = self.backbone(self.embed_frames(codes)[:, None], step)[:, -1]
        return torch.stack(frames) if frames else torch.empty(0, self.config.codebooks, dtype=torch.int64)

    def _check_length(self, rows: int, max_frames: int) -> int:
        """Positions needed. Raises InvalidInput beyond the backbone's."""
        limit = self.config.backbone.max_positions
        if rows + max(0, max_frames - 1) > limit:
            raise InvalidInput(f"a prompt of {rows} rows and {max_frames} frames exceed the model's {limit} positions")
        return rows + max(0, max_frames)

    def bytes(self) -> int:
        """Bytes of weights and tables on the device."""
        tables = (self.text_table, self.audio_table, self.projected_table)
        linears = (self.projection, self.first_head, *self.other_heads)
        return (
            sum(table.numel() * table.element_size() for table in tables)
            + sum(linear.bytes() for linear in linears)
            + self.backbone.bytes()
            + self.decoder.bytes()
        )


class FrameDecoder:
    """One frame's codes from the backbone's hidden states, for up to `slots` utterances in lockstep."""

    def __init__(self, model: CsmModel, slots: int, allowed_codes: int | None = None) -> None:
        """allowed_codes: ids per codebook that may be chosen, if fewer than the model's own."""
        self._model = model
        self.allowed_codes = min(model.config.allowed_codes, allowed_codes or model.config.allowed_codes)
        self._cache = KVCache(model.config.decoder, slots, model.config.codebooks, model.dtype, model.device)
        self._views: dict[int, tuple[Span, list[Step]]] = {}

    def __call__(
        self, hidden: Tensor, noise: Tensor | None, temperature: float | Tensor, top_k: int | Tensor
    ) -> Tensor:
        """codes int64 [batch, codebooks] from hidden [batch, width]; noise Exp(1) [batch, codebooks, allowed_codes] or
        None."""
        model = self._model
        first, steps = self._views_of(len(hidden))
        sample = self._sampler(noise, temperature, top_k)
        codes = [sample(model.first_head(hidden), 0)]
        inner = model.decoder(model.decoder_rows(hidden, codes[0][:, None]), first)[:, -1]
        for codebook, head in enumerate(model.other_heads, start=1):
            codes.append(sample(head(inner), codebook))
            if codebook <= len(steps):
                row = F.embedding(codes[-1] + codebook * model.config.audio_vocabulary, model.projected_table)
                inner = model.decoder(row[:, None], steps[codebook - 1])[:, -1]
        return torch.stack(codes, 1)

    def _sampler(
        self, noise: Tensor | None, temperature: float | Tensor, top_k: int | Tensor
    ) -> Callable[[Tensor, int], Tensor]:
        """A function that samples the ids [batch] of a codebook from its logits [batch, vocabulary]."""
        loops = kernels() if self._model.quantised and self._model.device.type == "cpu" else None
        if loops is not None and noise is not None:
            return Picker(loops, noise, temperature, top_k)

        def sample(logits: Tensor, codebook: int) -> Tensor:
            codebook_noise = None if noise is None else noise[:, codebook]
            return pick(logits[:, : self.allowed_codes], codebook_noise, temperature, top_k)

        return sample

    def _views_of(self, batch: int) -> tuple[Span, list[Step]]:
        """The frame's attention patterns: positions 0 and 1 at once, then 2..codebooks-1 one by one."""
        if batch not in self._views:
            slots = list(range(batch))
            later = range(2, self._model.config.codebooks)
            steps = [Step(self._cache, slots, [position] * batch) for position in later]
            self._views[batch] = Span(self._cache, 0, 2, causal=True, count=batch), steps
        return self._views[batch]

    def bytes(self) -> int:
        return self._cache.bytes()


class NoiseSource:
    """The random draws of one utterance: the same seed gives the same noise in any batch."""

    def __init__(self, shape: tuple[int, int], seed: int | None, device: torch.device | str) -> None:
        """shape: (codebooks, ids that may be chosen)."""
        self.seed = int(torch.randint(2**31, ()).item()) if seed is None else seed
        self._generator = request_generator(self.seed, device)
        self._shape, self._device = shape, device

    def draw(self) -> Tensor:
        """Exp(1) noise of the next frame, [codebooks, allowed_codes]."""
        return request_noise(self._generator, torch.empty(self._shape, device=self._device))


def check_codes(codes: Tensor, config: CsmConfig) -> None:
    """Raises InvalidInput for codes [..., codebooks] of another width or outside the audio vocabulary."""
    if codes.shape[-1] != config.codebooks:
        raise InvalidInput(f"frames of {codes.shape[-1]} codes for a model of {config.codebooks} codebooks")
    if codes.numel() and (int(codes.min()) < 0 or int(codes.max()) >= config.audio_vocabulary):
        raise InvalidInput(f"audio codes must lie in 0..{config.audio_vocabulary - 1}")


def check_rows(tokens: Tensor, mask: Tensor, config: CsmConfig) -> None:
    """Raises InvalidInput for a prompt without rows, of another width, or with ids outside the vocabularies."""
    if not len(tokens):
        raise InvalidInput("the prompt has no rows")
    if tokens.shape != mask.shape or tokens.dim() != 2 or tokens.shape[1] != config.codebooks + 1:
        raise InvalidInput(
            f"a prompt of shape {list(tokens.shape)}, wanted [rows, {config.codebooks + 1}] and a mask like it"
        )
    check_codes(tokens[:, :-1], config)
    if int(tokens[:, -1].min()) < 0 or int(tokens[:, -1].max()) >= config.text_vocabulary:
        raise InvalidInput(f"text ids must lie in 0..{config.text_vocabulary - 1}")


def _shapes(config: CsmConfig, layout: Layout) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor outside the stacks."""
    width, inner, audio = config.backbone.width, config.decoder.width, config.audio_vocabulary
    return {
        layout.text: (config.text_vocabulary, width),
        layout.audio: (config.codebooks * audio, width),
        layout.projection: (inner, width),
        layout.first_head: (audio, width),
        layout.other_heads: (config.codebooks - 1, inner, audio),
    }


def _audio_name(config: CsmConfig, checkpoint: Checkpoint, layout: Layout) -> str:
    """The audio table, or its tied copy: transformers writes only one of the two when it saves a model."""
    copy = layout.audio_copy if config.tied else ""
    return copy if copy and layout.audio not in checkpoint.names and copy in checkpoint.names else layout.audio


def _demand_all(config: CsmConfig, checkpoint: Checkpoint, layout: Layout) -> None:
    """Name every missing tensor at once, before anything is read."""
    outside = (
        _audio_name(config, checkpoint, layout) if name == layout.audio else name for name in _shapes(config, layout)
    )
    own_table = [layout.audio_copy] if layout.audio_copy and not config.tied else []
    checkpoint.demand(
        [
            *outside,
            *own_table,
            *(layout.backbone(name) for name, _ in tensor_shapes(config.backbone)),
            *(layout.decoder(name) for name, _ in tensor_shapes(config.decoder)),
        ]
    )


def _projected(table: Tensor, projection: Tensor, dtype: torch.dtype) -> Tensor:
    """table [n, width] times projection [inner, width] transposed, in float32 by parts, kept as `dtype`."""
    weight = projection.float()
    return torch.cat([F.linear(part.float(), weight).to(dtype) for part in torch.split(table, 4096)])
