"""How the encoder is cut into graphs that run one after the other.

Windows resets a GPU that works on one submission for more than 2 s (timeout detection and recovery), and a run is
submitted as a whole. On DirectML a large encoder is therefore several runs, none of more than a fixed amount of work.
Knows shapes only.
"""

from __future__ import annotations

from dataclasses import dataclass

from backends.whisper.config import ModelDimensions

# Multiplications and additions of one run. Within 2 s a GPU must reach 125 GFLOP/s, a part of what the slowest
# integrated graphics with DirectX 12 are specified for in float32. Derived, not measured on any GPU. tiny and base stay
# whole; small is two runs, large twelve.
RUN_OPERATIONS = 2.5e11


@dataclass(frozen=True, slots=True)
class EncoderPart:
    """What one graph computes: layers of the encoder, then the cross keys and values of decoder layers.

    Its input is `hidden`, of the first part `mel`; all but the last give `next_hidden`.
    """

    name: str
    layers: tuple[int, ...]
    cross: tuple[int, ...]
    is_first: bool
    is_last: bool


def layer_operations(dims: ModelDimensions) -> tuple[float, float]:
    """Multiplications and additions of an encoder layer, and of the cross keys and values of a decoder layer."""
    linear = 4 * dims.width**2 + 2 * dims.width * dims.encoder_ffn
    attention = 2 * dims.source_positions * dims.width
    return 2.0 * dims.source_positions * (linear + attention), 2.0 * dims.source_positions * 2 * dims.width**2


def encoder_parts(dims: ModelDimensions, *, static: bool, most: float = RUN_OPERATIONS) -> list[EncoderPart]:
    """The parts in order; one where the graph is not static, that is on the processor."""
    layer, cross = layer_operations(dims)
    units = [(True, index, layer) for index in range(dims.encoder_layers)]
    units += [(False, index, cross) for index in range(dims.decoder_layers)]
    groups: list[list[tuple[bool, int]]] = [[]]
    work = 0.0
    for is_layer, index, operations in units:
        if static and groups[-1] and work + operations > most:
            groups.append([])
            work = 0.0
        groups[-1].append((is_layer, index))
        work += operations
    return [
        EncoderPart(
            "encoder" if not number else f"encoder-{number}",
            tuple(index for is_layer, index in group if is_layer),
            tuple(index for is_layer, index in group if not is_layer),
            number == 0,
            number == len(groups) - 1,
        )
        for number, group in enumerate(groups)
    ]
