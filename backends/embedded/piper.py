"""A Piper voice (VITS) on onnxruntime: phonemes in, speech out.

Owns the graph's inputs and its noise. A Piper graph draws its noise inside, from a generator that no caller can set;
here the noise is given from outside, so that the same request gives the same sound and a seed has its meaning.
Inputs: `input` int64 [1, n], `input_lengths` int64 [1], `scales` float32 [3]; output float32 [1, 1, 1, samples].
Knows no language rules and no requests.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from backends.interface import ModelUnavailable, Samples
from backends.onnx_session import open_session

_BEGIN, _END, _BETWEEN = "^", "$", "_"
_NOISE_FRAMES = 2048  # of noise, repeated behind that: 24 s of sound
_NOISE = "noise_"  # the names of the added inputs begin with this


class _Audio(msgspec.Struct):
    sample_rate: int


class _Espeak(msgspec.Struct):
    voice: str


class _Inference(msgspec.Struct):
    noise_scale: float = 0.667
    length_scale: float = 1.0
    noise_w: float = 0.8


class _Language(msgspec.Struct):
    code: str = ""


class PiperConfig(msgspec.Struct):
    """The fields of a voice's .onnx.json that are used."""

    audio: _Audio
    espeak: _Espeak
    phoneme_id_map: dict[str, list[int]]
    inference: _Inference = msgspec.field(default_factory=_Inference)
    language: _Language = msgspec.field(default_factory=_Language)
    phoneme_type: str = "espeak"
    num_speakers: int = 1


def read_config(content: bytes, name: str) -> PiperConfig:
    """The configuration of the voice `name`. Raises ModelUnavailable for one that is not served here."""
    try:
        config = msgspec.json.decode(content, type=PiperConfig)
    except msgspec.DecodeError as error:
        raise ModelUnavailable(f"the configuration of the Piper voice {name} cannot be read: {error}") from error
    if config.phoneme_type != "espeak" or config.num_speakers != 1:
        raise ModelUnavailable(
            f"the Piper voice {name} has {config.num_speakers} speakers and phonemes of type {config.phoneme_type!r}; "
            "only voices of one speaker with espeak phonemes are served"
        )
    if not all(config.phoneme_id_map.get(mark) for mark in (_BEGIN, _END, _BETWEEN)):
        raise ModelUnavailable(f"the phoneme map of the Piper voice {name} has no ids for its marks")
    return config


def phoneme_ids(config: PiperConfig, phonemes: str) -> list[int]:
    """Begin, every phoneme that the voice knows with a pad behind each, end. Combining marks have ids of their own."""
    table, pad = config.phoneme_id_map, config.phoneme_id_map[_BETWEEN]
    ids = [*table[_BEGIN], *pad]
    for char in unicodedata.normalize("NFD", phonemes):
        if char in table and char not in (_BEGIN, _END, _BETWEEN):
            ids += [*table[char], *pad]
    return [*ids, *table[_END]]


@dataclass(frozen=True, slots=True)
class _NoiseInput:
    name: str
    channels: int


class PiperModel:
    """One loaded voice, shared by all jobs. `rate`: of its sound, Hz."""

    def __init__(self, model: bytes, config: PiperConfig, threads: int) -> None:
        self._config = config
        self.rate = config.audio.sample_rate
        graph, self._noise = _with_noise_inputs(model)
        self._session: Any = open_session(graph, threads)
        self.bytes = len(graph)

    def ids(self, phonemes: str) -> list[int]:
        return phoneme_ids(self._config, phonemes)

    def synthesize(self, ids: list[int], speed: float, seed: int) -> Samples:
        """Sound of one piece, float32 [samples] at `rate`; the same for the same arguments."""
        settings = self._config.inference
        scales = [settings.noise_scale, settings.length_scale / speed, settings.noise_w]
        drawn = np.random.default_rng(seed)
        inputs: dict[str, NDArray[Any]] = {
            "input": np.array([ids], np.int64),
            "input_lengths": np.array([len(ids)], np.int64),
            "scales": np.array(scales, np.float32),
        }
        for noise in self._noise:
            inputs[noise.name] = drawn.standard_normal((1, noise.channels, _NOISE_FRAMES), dtype=np.float32)
        return np.asarray(self._session.run(None, inputs)[0], np.float32).reshape(-1)


def _with_noise_inputs(model: bytes) -> tuple[bytes, list[_NoiseInput]]:
    """The graph with an input in the place of every node that draws noise: float32 [1, channels, frames]."""
    loaded = onnx.load_from_string(model)
    nodes, noises = list[onnx.NodeProto](), list[_NoiseInput]()
    for node in loaded.graph.node:
        if node.op_type != "RandomNormalLike":
            nodes.append(node)
            continue
        noise = _NoiseInput(f"{_NOISE}{len(noises)}", 2 if not noises else 192)
        noises.append(noise)
        loaded.graph.input.append(
            helper.make_tensor_value_info(noise.name, TensorProto.FLOAT, [1, noise.channels, _NOISE_FRAMES])
        )
        nodes += _noise_like(noise.name, node.input[0], node.output[0])
    del loaded.graph.node[:]
    loaded.graph.node.extend(nodes)
    loaded.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value, np.int64), f"{_NOISE}{name}")
        for name, value in (("begin", 0), ("step", 1), ("axis", 2), ("period", _NOISE_FRAMES))
    )
    return loaded.SerializeToString(), noises


def _noise_like(noise: str, shape_of: str, output: str) -> list[onnx.NodeProto]:
    """Nodes that repeat `noise` along its last axis to the length of the tensor `shape_of`."""
    names = [f"{noise}_{step}" for step in ("shape", "length", "count", "index")]
    shape, length, count, index = names
    return [
        helper.make_node("Shape", [shape_of], [shape]),
        helper.make_node("Gather", [shape, f"{_NOISE}axis"], [length], axis=0),
        helper.make_node("Range", [f"{_NOISE}begin", length, f"{_NOISE}step"], [count]),
        helper.make_node("Mod", [count, f"{_NOISE}period"], [index]),
        helper.make_node("Gather", [noise, index], [output], axis=2),
    ]
