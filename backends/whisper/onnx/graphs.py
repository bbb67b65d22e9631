"""Whisper's two graphs for ONNX Runtime, written straight from the published weights.

encoder: mel [1, mels, frames] -> cross keys and values of every decoder layer, so that they are made once per
window; on DirectML in several graphs where it is large (`encoder_parts`). In the dynamic form a window may be shorter
than the model's own, by an even number of frames.
decoder: the next tokens' embeddings -> logits and grown caches. Embeddings are looked up outside, masks come in from
outside, so the graph holds no index and no comparison. Two forms of the decoder: dynamic (CPU), and static (DirectML:
one token a call, a cache of fixed length that is written through a mask; only plain operators).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import TensorProto

from backends.whisper.checkpoint import Checkpoint, encoder_positions, head_name
from backends.whisper.config import ModelDimensions
from backends.whisper.onnx.encoder_parts import EncoderPart, encoder_parts
from backends.whisper.onnx.graph import GraphWriter, Shape
from backends.whisper.onnx.layers import GraphConfig, Layers


def write_encoder(folder: Path, checkpoint: Checkpoint, dims: ModelDimensions, form: GraphConfig) -> None:
    """encoder.onnx, and encoder-1.onnx and so on where one run would be too long; one window at a time, because
    batching gains nothing in a compute-bound network."""
    for part in encoder_parts(dims, static=form.static):
        _write_part(folder, checkpoint, dims, form, part)


def _write_part(
    folder: Path, checkpoint: Checkpoint, dims: ModelDimensions, form: GraphConfig, part: EncoderPart
) -> None:
    graph = GraphWriter(folder, part.name, form.element)
    layers = Layers(graph, checkpoint, dims, form, wide=True)
    shape: Shape = [1, dims.source_positions if form.static else "positions", dims.width]
    if part.is_first:
        hidden = _convolutions(layers, graph.input("mel", [1, dims.mels, dims.mel_frames if form.static else "frames"]))
    else:
        hidden = graph.input("hidden", shape)
    for layer in part.layers:
        prefix = f"encoder.layers.{layer}"
        hidden = _encoder_attention(layers, hidden, prefix)
        hidden = layers.feed_forward(hidden, prefix)
    if part.cross:
        encoder_output = layers.norm(hidden, "encoder.layer_norm")
    for layer in part.cross:
        _cross_projections(layers, encoder_output, layer)
    if not part.is_last:
        graph.output(hidden, "next_hidden", shape)
    graph.save()


def _cross_projections(layers: Layers, encoder_output: str, layer: int) -> None:
    graph, dims = layers.graph, layers.dims
    prefix = f"decoder.layers.{layer}.encoder_attn"
    scale = np.float32(dims.head_width**-0.5)  # of the scores; here once, and not for every token
    key = layers.split_heads(
        layers.linear(encoder_output, f"{prefix}.k_proj", scale=scale), dims.decoder_heads, across=True
    )
    value = layers.split_heads(layers.linear(encoder_output, f"{prefix}.v_proj"), dims.decoder_heads)
    shapes = cross_shapes(dims, layers.form, 1)
    graph.output(key, f"cross_key.{layer}", shapes[0])
    graph.output(value, f"cross_value.{layer}", shapes[1])


def cross_shapes(dims: ModelDimensions, form: GraphConfig, batch: int | str) -> tuple[Shape, Shape]:
    """Shapes of a layer's cross keys (transposed and scaled) and values.

    So both products of a single token are those of a row vector and a matrix that is read once, from front to back.
    """
    positions: int | str = dims.source_positions if form.static else "positions"
    value: Shape = [batch, dims.decoder_heads, positions, dims.head_width]
    key: Shape = [batch, dims.decoder_heads, dims.head_width, positions]
    return key, value


def _convolutions(layers: Layers, mel: str) -> str:
    graph, hidden = layers.graph, mel
    for name, stride in (("conv1", 1), ("conv2", 2)):
        weights = [graph.constant(layers.checkpoint[f"encoder.{name}.{part}"]) for part in ("weight", "bias")]
        hidden = graph.op("Conv", hidden, *weights, kernel_shape=[3], pads=[1, 1], strides=[stride])
        hidden = graph.op("Gelu", hidden, domain="ms")  # whatever activation the config chooses for the layers
    hidden = graph.op("Transpose", hidden, perm=[0, 2, 1])
    positions = graph.constant(encoder_positions(layers.checkpoint, layers.dims))
    if not layers.form.static:
        length = graph.op("Shape", hidden, start=1, end=2)
        first, axis = (graph.constant(np.array([0], np.int64)) for _ in range(2))
        positions = graph.op("Slice", positions, first, length, axis)
    return graph.op("Add", hidden, positions)


def _encoder_attention(layers: Layers, hidden: str, prefix: str) -> str:
    graph, dims = layers.graph, layers.dims
    normed = layers.norm(hidden, f"{prefix}.self_attn_layer_norm")
    query, key, value = _project(layers, normed, f"{prefix}.self_attn")
    if layers.form.static:
        mixed = _plain_attention(layers, query, key, value)
    else:
        mixed = graph.op("MultiHeadAttention", query, key, value, domain="ms", num_heads=dims.encoder_heads)
    return graph.op("Add", hidden, layers.linear(mixed, f"{prefix}.self_attn.out_proj"))


def _project(layers: Layers, value: str, prefix: str) -> list[str]:
    """Query, key and value [batch, time, width] by one product."""
    together = layers.linear(value, *(f"{prefix}.{name}_proj" for name in ("q", "k", "v")))
    sizes = layers.graph.constant(np.array([layers.dims.width] * 3, dtype=np.int64))
    return layers.graph.ops("Split", together, sizes, outputs=3, axis=-1)


def _plain_attention(layers: Layers, query: str, key: str, value: str) -> str:
    """Encoder self-attention by plain operators."""
    heads = layers.dims.encoder_heads
    return layers.join_heads(
        _attend(
            layers,
            _scaled(layers, layers.split_heads(query, heads), layers.dims.width // heads),
            layers.split_heads(key, heads, across=True),
            layers.split_heads(value, heads),
        )
    )


def _scaled(layers: Layers, query: str, head_width: int) -> str:
    return layers.graph.op("Mul", query, layers.graph.constant(np.array(head_width**-0.5, np.float32)))


def _attend(layers: Layers, query: str, key: str, value: str, bias: str = "") -> str:
    """softmax(q k + bias) v; query [.., time, d] or key scaled, key [.., d, positions], value [.., positions, d]."""
    graph = layers.graph
    scores = graph.op("MatMul", query, key)
    scores = graph.op("Add", scores, bias) if bias else scores
    return graph.op("MatMul", graph.op("Softmax", scores, axis=-1), value)


# --- Decoder ----------------------------------------------------------------------------------------------------------


def write_decoder(folder: Path, checkpoint: Checkpoint, dims: ModelDimensions, form: GraphConfig) -> None:
    """decoder.onnx.

    Dynamic: embedded [batch, new, width], bias [batch, 1, new, past + new], keep [1] (first new position whose logits
    are wanted), past_key/past_value.i [batch, heads, past, d], cross_key/cross_value.i -> logits [batch, kept,
    vocabulary], present_key/present_value.i, cross_query.i [batch, new, width] (for word times; costs nothing unless
    fetched).
    Static: the same with new = 1, no keep, write [1, 1, cache, 1] (one at the position to fill) and write_key [1, 1, 1,
    cache].
    """
    graph = GraphWriter(folder, "decoder", form.element)
    layers = Layers(graph, checkpoint, dims, form, wide=False)
    batch: int | str = form.batch if form.static else "batch"
    new: int | str = 1 if form.static else "new"
    hidden = graph.input("embedded", [batch, new, dims.width])
    bias = graph.input("bias", [batch, 1, new, form.cache if form.static else "total"])
    if form.static:
        graph.input("write", [1, 1, form.cache, 1], TensorProto.BOOL)
        graph.input("write_key", [1, 1, 1, form.cache], TensorProto.BOOL)
    else:
        graph.input("keep", [1], TensorProto.INT64)
    for layer in range(dims.decoder_layers):
        prefix = f"decoder.layers.{layer}"
        hidden = _decoder_self_attention(layers, hidden, bias, layer, batch)
        hidden = _cross_attention(layers, hidden, layer, batch, new)
        hidden = layers.feed_forward(hidden, prefix)
    kept = hidden if form.static else _from_position(graph, hidden)
    kept = layers.norm(kept, "decoder.layer_norm")
    head = head_name(checkpoint, dims)
    logits = layers.product(kept, checkpoint[head].T, None, checkpoint.row_steps(head))
    graph.output(logits, "logits", [batch, 1 if form.static else "kept", dims.vocabulary])
    graph.save()


def _from_position(graph: GraphWriter, hidden: str) -> str:
    """The positions from `keep` on."""
    end, axis = graph.constant(np.array([2**31], np.int64)), graph.constant(np.array([1], np.int64))
    return graph.op("Slice", hidden, "keep", end, axis)


def cache_shapes(dims: ModelDimensions, form: GraphConfig, batch: int | str, length: int | str) -> tuple[Shape, Shape]:
    """Shapes of a layer's self-attention keys (transposed in the static form) and values."""
    value: Shape = [batch, dims.decoder_heads, length, dims.head_width]
    key: Shape = [batch, dims.decoder_heads, dims.head_width, length]
    return (key if form.static else value), value


def _decoder_self_attention(layers: Layers, hidden: str, bias: str, layer: int, batch: int | str) -> str:
    graph, dims, form = layers.graph, layers.dims, layers.form
    prefix = f"decoder.layers.{layer}.self_attn"
    query, key, value = _project(layers, layers.norm(hidden, f"{prefix}_layer_norm"), prefix)
    shapes = cache_shapes(dims, form, batch, form.cache if form.static else "past")
    past = [graph.input(f"past_{name}.{layer}", shape) for name, shape in zip(("key", "value"), shapes, strict=True)]
    if form.static:
        key = graph.op("Where", "write_key", layers.split_heads(key, dims.decoder_heads, across=True), past[0])
        value = graph.op("Where", "write", layers.split_heads(value, dims.decoder_heads), past[1])
        query = _scaled(layers, layers.split_heads(query, dims.decoder_heads), dims.head_width)
        mixed = layers.join_heads(_attend(layers, query, key, value, bias))
        present = [key, value]
    else:
        mixed, *present = graph.ops(
            "MultiHeadAttention",
            query,
            key,
            value,
            "",
            "",
            bias,
            *past,
            outputs=3,
            domain="ms",
            num_heads=dims.decoder_heads,
        )
    grown = cache_shapes(dims, form, batch, form.cache if form.static else "total")
    for name, tensor, shape in zip(("key", "value"), present, grown, strict=True):
        graph.output(tensor, f"present_{name}.{layer}", shape)
    return graph.op("Add", hidden, layers.linear(mixed, f"{prefix}.out_proj"))


def _cross_attention(layers: Layers, hidden: str, layer: int, batch: int | str, new: int | str) -> str:
    graph, dims = layers.graph, layers.dims
    prefix = f"decoder.layers.{layer}.encoder_attn"
    query = layers.linear(layers.norm(hidden, f"{prefix}_layer_norm"), f"{prefix}.q_proj")
    graph.output(query, f"cross_query.{layer}", [batch, new, dims.width])
    shapes = cross_shapes(dims, layers.form, batch)
    key = graph.input(f"cross_key.{layer}", shapes[0])
    value = graph.input(f"cross_value.{layer}", shapes[1])
    mixed = layers.join_heads(_attend(layers, layers.split_heads(query, dims.decoder_heads), key, value))
    return graph.op("Add", hidden, layers.linear(mixed, f"{prefix}.out_proj"))
