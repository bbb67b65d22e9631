"""One name for every tensor of X-Codec-2, whichever of the published layouts the file has.

The names used here are the original repository's. Other layouts are renames: weight normalisation as weight_g/weight_v
or as parametrizations, snake's beta called bias, and transformers' native class (also under the names of its first
version) with folded convolutions and separate q, k, v. Knows names and shapes, nothing of what the tensors do.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor

from backends.interface import ModelUnavailable
from backends.llasa.xcodec2.config import SAMPLE_RATE, CodecDimensions
from backends.transformer.checkpoint import Checkpoint

Shape = tuple[int, ...]

_NATIVE = (
    (r"semantic_model\.", "semantic_encoder."),
    (r"SemanticEncoder_module\.initial_conv\.", "semantic_adapter.conv1."),
    (r"SemanticEncoder_module\.residual_blocks\.1\.", "semantic_adapter.conv2."),
    (r"SemanticEncoder_module\.residual_blocks\.3\.", "semantic_adapter.conv3."),
    (r"SemanticEncoder_module\.final_conv\.", "semantic_adapter.conv4."),
    (r"CodecEnc\.conv_blocks\.0\.", "acoustic_encoder.conv1."),
    (r"CodecEnc\.conv_final_block\.0\.", "acoustic_encoder.snake1."),
    (r"CodecEnc\.conv_final_block\.1\.", "acoustic_encoder.conv2."),
    (r"fc_prior\.", "fc_encoder."),
    (r"fc_post_a\.", "acoustic_decoder.fc."),
    (r"generator\.quantizer\.", "quantizer."),
    (r"generator\.backbone\.transformers\.", "acoustic_decoder.layers."),
    (r"generator\.backbone\.final_layer_norm\.", "acoustic_decoder.norm."),
    (r"generator\.backbone\.", "acoustic_decoder."),
    (r"generator\.head\.out\.", "acoustic_decoder.head.linear."),
)
_NATIVE_INNER = (
    (".att_norm.", ".input_layernorm."),
    (".ffn_norm.", ".post_attention_layernorm."),
    (".att.c_proj.", ".self_attn.o_proj."),
)
_UNITS = {"0": "snake1", "1": "conv1", "2": "snake2", "3": "conv2"}
_DECODER_STEMS = ("generator.", "fc_post_a.", "acoustic_decoder.", "decoder.")
_OTHER_VARIANT = f"this is not the {SAMPLE_RATE} Hz decoder of X-Codec-2; 44.1 kHz variants are not supported"
_RECOMPUTED = re.compile(
    r".*(\.istft\.window|head\.window|\.filter|rotary_emb\..*|rotary_embed\..*|\.rope\..*|implicit_codebook|_levels|_basis|quantizer\.layers\..*)"
)


class CodecTensors:
    """Reads tensors by canonical name from a checkpoint of any layout."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        names = checkpoint.names
        self._native = not any(name.startswith("generator.") for name in names)
        self._early = self._native and not any(name.startswith("acoustic_decoder.") for name in names)

    def take(self, name: str, shape: Shape) -> Tensor:
        """The tensor, weight normalisation folded. Raises ModelUnavailable naming it if absent or of another shape."""
        stored = self._stored_names(name)
        if stored is None:
            raise ModelUnavailable(
                f"the codec in {self._checkpoint.source} lacks tensor {self._primary(name)} {list(shape)}"
            )
        if len(stored) == 3:
            rows = (shape[0] // 3, *shape[1:])
            return torch.cat([self._checkpoint.take(stored_name, rows) for stored_name in stored])
        if len(stored) == 2:
            gain = self._checkpoint.take(stored[0], (shape[0], 1, 1))
            return folded(gain, self._checkpoint.take(stored[1], shape))
        try:
            return self._checkpoint.take(stored[0], shape)
        except ModelUnavailable as error:
            if name.startswith("generator.head."):
                raise ModelUnavailable(f"{error.message}: {_OTHER_VARIANT}") from error
            raise

    def demand(self, names: Iterable[str]) -> None:
        """Raise ModelUnavailable that names all missing tensors, before any is read."""
        self._checkpoint.demand(self._primary(name) for name in names if self._stored_names(name) is None)

    def refuse_unknown_decoder(self, dims: CodecDimensions) -> None:
        """Raise ModelUnavailable for a decoder of another kind, such as the 44.1 kHz variants."""
        known = {stored_name for name, _ in decoder_shapes(dims) for stored_name in (self._stored_names(name) or [])}
        known |= {stored_name for name, _ in quantiser_shapes(dims) for stored_name in (self._stored_names(name) or [])}
        unknown = [
            name
            for name in sorted(self._checkpoint.names - known)
            if name.startswith(_DECODER_STEMS) and not _RECOMPUTED.fullmatch(name)
        ]
        if unknown:
            listed = ", ".join(unknown[:6]) + (f" and {len(unknown) - 6} more" if len(unknown) > 6 else "")
            raise ModelUnavailable(f"the codec in {self._checkpoint.source} also holds {listed}: {_OTHER_VARIANT}")

    def semantic(self, shapes: Mapping[str, Shape]) -> dict[str, Tensor]:
        """The tensors of the semantic model, by their names inside transformers' Wav2Vec2BertModel."""
        return {name: self.take(f"semantic_model.{name}", shape) for name, shape in shapes.items()}

    def _stored_names(self, name: str) -> list[str] | None:
        """Where the tensor lies: one name, (gain, direction) of weight normalisation, or (q, k, v). None: nowhere."""
        names = self._checkpoint.names
        for candidate in self._candidates(name):
            if all(stored_name in names for stored_name in candidate):
                return candidate
        return None

    def _candidates(self, name: str) -> Iterator[list[str]]:
        stored_name = self._primary(name)
        if self._native and stored_name.endswith(".att.c_attn.weight"):
            stem = stored_name.removesuffix(".att.c_attn.weight") + ".self_attn"
            yield [f"{stem}.{part}_proj.weight" for part in "qkv"]
            return
        yield [stored_name]
        if stored_name.endswith(".act.beta"):
            yield [stored_name.removesuffix("beta") + "bias"]
        if stored_name.endswith(".weight"):
            stem = stored_name.removesuffix(".weight")
            yield [f"{stem}.weight_g", f"{stem}.weight_v"]
            yield [f"{stem}.parametrizations.weight.original0", f"{stem}.parametrizations.weight.original1"]

    def _primary(self, name: str) -> str:
        if not self._native:
            return name
        stored_name = native_name(name)
        if self._early:
            return stored_name.replace("acoustic_decoder.", "decoder.", 1).replace("acoustic_encoder.", "encoder.", 1)
        return stored_name


def native_name(name: str) -> str:
    """The name in transformers' native class; the fused c_attn keeps its name, as it has no single counterpart."""
    unit = re.match(r"CodecEnc\.conv_blocks\.(\d+)\.block\.(\d)\.(?:block\.(\d)\.)?(.*)", name)
    if unit:
        block, part, inner, rest = unit.groups()
        last = f"res_unit{int(part) + 1}.{_UNITS[inner]}" if inner else {"3": "snake1", "4": "conv1"}[part]
        return f"acoustic_encoder.block.{int(block) - 1}.{last}.{rest}"
    for pattern, replacement in _NATIVE:
        if re.match(pattern, name):
            name = re.sub("^" + pattern, replacement, name)
            break
    for old, new in _NATIVE_INNER:
        name = name.replace(old, new)
    return name


def folded(gain: Tensor, direction: Tensor) -> Tensor:
    """Weight normalisation undone: gain [out, 1, 1] * direction [out, in, k] / its norm over in and k."""
    length: Tensor = torch.linalg.vector_norm(direction, dim=(1, 2), keepdim=True)
    return gain * direction / length


def quantiser_shapes(dims: CodecDimensions) -> Iterator[tuple[str, Shape]]:
    digits = len(dims.levels)
    yield "generator.quantizer.project_in.weight", (digits, dims.fsq_width)
    yield "generator.quantizer.project_in.bias", (digits,)
    yield "fc_prior.weight", (dims.fsq_width, dims.semantic_width + dims.acoustic_width)
    yield "fc_prior.bias", (dims.fsq_width,)


def decoder_shapes(dims: CodecDimensions) -> Iterator[tuple[str, Shape]]:
    """Name and shape of every tensor that decoding needs."""
    width, heads = dims.width, dims.heads * dims.head_dim
    yield "generator.quantizer.project_out.weight", (dims.fsq_width, len(dims.levels))
    yield "generator.quantizer.project_out.bias", (dims.fsq_width,)
    yield "fc_post_a.weight", (width, dims.fsq_width)
    yield "fc_post_a.bias", (width,)
    yield "generator.backbone.embed.weight", (width, width, 7)
    yield "generator.backbone.embed.bias", (width,)
    for net in ("prior_net.0", "prior_net.1", "post_net.0", "post_net.1"):
        for part, shape in (
            ("norm1", (width,)),
            ("conv1", (width, width, 3)),
            ("norm2", (width,)),
            ("conv2", (width, width, 3)),
        ):
            yield f"generator.backbone.{net}.{part}.weight", shape
            yield f"generator.backbone.{net}.{part}.bias", (width,)
    for layer in range(dims.depth):
        stem = f"generator.backbone.transformers.{layer}"
        yield f"{stem}.att_norm.weight", (width,)
        yield f"{stem}.att.c_attn.weight", (3 * heads, width)
        yield f"{stem}.att.c_proj.weight", (width, heads)
        yield f"{stem}.ffn_norm.weight", (width,)
        yield f"{stem}.mlp.fc1.weight", (dims.hidden, width)
        yield f"{stem}.mlp.fc2.weight", (width, dims.hidden)
    yield "generator.backbone.final_layer_norm.weight", (width,)
    yield "generator.backbone.final_layer_norm.bias", (width,)
    yield "generator.head.out.weight", (dims.n_fft + 2, width)
    yield "generator.head.out.bias", (dims.n_fft + 2,)
