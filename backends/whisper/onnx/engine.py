"""Whisper on ONNX Runtime: CPU (dynamic graphs, float32 or int8) and DirectML (static graphs, float32 or float16).

Owns sessions and caches. Knows tokens only as rows of the embedding table; no torch, no transformers.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from backends import windows_ml
from backends.interface import ModelUnavailable
from backends.onnx_runtime import onnxruntime
from backends.whisper.checkpoint import Checkpoint
from backends.whisper.config import ModelDimensions
from backends.whisper.network import EncoderOutput, Floats, Network, Tokens, attention_probabilities
from backends.whisper.onnx.binding import BoundRun, Target
from backends.whisper.onnx.cache import built_graphs
from backends.whisper.onnx.decoding import DecoderSession, DynamicDecoding, OnnxEncoderOutput, StaticDecoding
from backends.whisper.onnx.encoder_parts import encoder_parts
from backends.whisper.onnx.faults import engine_error
from backends.whisper.onnx.int8_probe import int8_choice
from backends.whisper.onnx.layers import GraphConfig

_STATIC_CACHE = 448
_SPIN = 100  # microseconds; the operators of one token that a single thread computes take less
_CPU = Target("CPUExecutionProvider", {}, "cpu")
_DOUBLED = 600_000_000  # bytes of weights; more are not worth holding twice
_SMALL = 150_000_000  # bytes of weights, Whisper base in int8 among them


def target_of(device: str) -> Target:
    """Target of "cpu", "directml:N" or "windowsml:NAME". Raises ModelUnavailable if there is no such provider."""
    kind, _, number = device.partition(":")
    if kind == "cpu":
        return _CPU
    if kind == windows_ml.KIND:
        plugins = windows_ml.plugin_devices(number)
        return Target(plugins[0].ep_name, {}, "cpu", plugins=plugins[:1])
    if kind == "directml":
        if "DmlExecutionProvider" not in onnxruntime.get_available_providers():
            have = ", ".join(onnxruntime.get_available_providers())
            raise ModelUnavailable(
                f"this onnxruntime has no DmlExecutionProvider (it has: {have}); on Windows run "
                f"setup.ps1, which installs one that has it"
            )
        return Target("DmlExecutionProvider", {"device_id": number or "0"}, "dml", int(number or 0))
    raise ModelUnavailable(
        f"Whisper's onnx engine runs on cpu, directml and windowsml, not on {device}; use the torch engine"
    )


class OnnxNetwork:
    """Implements Network."""

    engine = "onnx"

    def __init__(
        self,
        folder: Path,
        dims: ModelDimensions,
        *,
        device: str = "cpu",
        dtype: str = "float32",
        threads: int = 1,
        max_batch: int = 8,
        static: bool | None = None,
        cache_folder: str = "",
    ) -> None:
        """static: force the DirectML form of the graphs (default: on DirectML only)."""
        self.dims, self.device, self.dtype = dims, device, dtype
        self._target = target_of(device)
        use_static = self._target.device == "dml" if static is None else static
        self._form = _form(dims, dtype, use_static, encoder_apart=bool(self._target.plugins))
        self.max_batch = self._form.batch if use_static else max_batch
        self.short_windows = not self._form.encoder.static
        self._threads = threads
        self.checkpoint = Checkpoint(folder)
        self._graphs = built_graphs(self.checkpoint, dims, self._form, cache_folder)
        self._open()
        self._replica: OnnxNetwork | None = None
        if threads > 1 and self.short_windows and self._weights < _DOUBLED:
            self._replica = self._one_thread()

    def _open(self) -> None:
        parts = encoder_parts(self.dims, static=self._form.encoder.static)
        self._encoders = [self._session(part.name, self._target) for part in parts]
        if self._target.plugins and not nodes_by_provider(self._encoders).get(self._target.provider):
            raise ModelUnavailable(f"{self._target.provider} took no part of Whisper's encoder on {self.device}")
        target = _CPU if self._form.encoder_apart else self._target
        self._decoder = DecoderSession(self._session("decoder", target), target, self.checkpoint, self.dims, self._form)

    def _one_thread(self) -> OnnxNetwork:
        """The same graphs in sessions of one thread, which any number of threads may use at the same time."""
        replica = copy(self)
        replica._threads = 1
        replica._open()
        return replica

    def _session(self, name: str, target: Target) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # A thread that waits for its share of the next operator spins, or waking it would cost more than the operator;
        # but not for long, because several models and the gateway share the processor.
        options.add_session_config_entry("session.intra_op.allow_spinning", "1" if self._threads > 1 else "0")
        options.add_session_config_entry("session.intra_op.spin_duration_us", str(_SPIN))
        options.add_session_config_entry("session.force_spinning_stop", "1")
        if hasattr(onnxruntime.InferenceSession, "get_provider_graph_assignment_info"):
            options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        if target.device == "dml":
            # A node that fell back to the processor would cost a copy per token: refuse rather than be slow in silence.
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
            # DirectML supports neither memory patterns nor parallel execution.
            options.enable_mem_pattern = False
            options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        try:
            if target.plugins:
                options.add_provider_for_devices(target.plugins, target.options)
                return onnxruntime.InferenceSession(str(self._graphs / f"{name}.onnx"), options)
            return onnxruntime.InferenceSession(
                str(self._graphs / f"{name}.onnx"), options, providers=[(target.provider, target.options)]
            )
        except Exception as error:  # onnxruntime's own have no base class but this
            raise engine_error(error, f"; delete {self._graphs} to have it built anew") from error

    # --- Network ---------------------------------------------------------------------------------------------------

    def replicas(self, windows: int, *, short: bool = False) -> Sequence[Network]:
        """One window is quickest with all threads. Several are so with a thread each: none ever waits for another.

        A short window of a small model is done soon by one thread, and two spend a third more of the processor on it.
        """
        is_little = short and self._weights < _SMALL
        if self._replica is None or (windows <= self._threads // 2 and not is_little):
            return [self]
        return [self._replica] * min(self._threads, windows)

    def encode(self, mels: Sequence[Floats]) -> list[EncoderOutput]:
        return [self._encode_one(mel) for mel in mels]

    def _encode_one(self, mel: Floats) -> OnnxEncoderOutput:
        """The parts of the encoder in turn; what goes from one to the next stays on the device."""
        tensors: dict[str, onnxruntime.OrtValue] = {}
        value: onnxruntime.OrtValue | Floats = mel[None].astype(self._form.encoder.element)
        for session in self._encoders:
            run = BoundRun(session, self._target)
            run.input(session.get_inputs()[0].name, value)
            for output in session.get_outputs():
                run.output(output.name)
            tensors |= run.run()
            value = tensors.pop("next_hidden", value)
        return OnnxEncoderOutput(tensors)

    def decode(
        self, encoder_outputs: Sequence[EncoderOutput], padding: Sequence[int] = ()
    ) -> DynamicDecoding | StaticDecoding:
        windows = [
            encoder_output for encoder_output in encoder_outputs if isinstance(encoder_output, OnnxEncoderOutput)
        ]
        if not self._form.static:
            return DynamicDecoding(self._decoder, windows, list(padding) or [0] * len(windows))
        if len(windows) > self._form.batch:
            raise ValueError(f"a static graph of {self._form.batch} rows cannot hold {len(windows)} windows")
        return StaticDecoding(self._decoder, windows, list(padding) or [0] * len(windows))

    def cross_weights(
        self, encoder_output: EncoderOutput, tokens: Sequence[int], heads: Sequence[tuple[int, int]]
    ) -> Floats:
        assert isinstance(encoder_output, OnnxEncoderOutput)  # noqa: S101 - each engine gets its own memories back
        queries = self._cross_queries(
            encoder_output, np.array([tokens], np.int64), sorted({layer for layer, _ in heads})
        )
        width, rows = self.dims.head_width, []
        for layer, head in heads:
            key = encoder_output.tensors[f"cross_key.{layer}"].numpy()[0, head].astype(np.float32) * np.float32(
                np.sqrt(width)
            )
            part = slice(head * width, (head + 1) * width)
            rows.append(attention_probabilities(queries[layer][:, part], key.T))
        return np.stack(rows)

    def _cross_queries(self, encoder_output: OnnxEncoderOutput, tokens: Tokens, layers: list[int]) -> dict[int, Floats]:
        """Cross-attention queries [tokens, width] by layer."""
        decoding = self.decode([encoder_output])
        if not isinstance(decoding, StaticDecoding):
            decoding.feed(tokens, tokens.shape[1] - 1, layers)
            return decoding.queries
        pieces: list[dict[int, Floats]] = []
        for column in range(tokens.shape[1]):
            decoding.feed(tokens[:, column : column + 1], 0, layers)
            pieces.append(decoding.queries)
        return {layer: np.concatenate([piece[layer] for piece in pieces]) for layer in layers}

    def footprint(self) -> int:
        return self._weights * (1 if self._replica is None else 2)

    @property
    def _weights(self) -> int:
        """Bytes of them, once."""
        return sum(path.stat().st_size for path in self._graphs.glob("*.data"))

    def detail(self) -> dict[str, Any]:
        """The graph's form, and how many nodes each provider really holds."""
        nodes = {"encoder": nodes_by_provider(self._encoders), "decoder": nodes_by_provider([self._decoder.session])}
        detail: dict[str, Any] = {
            "graph": "static" if self._form.static else "dynamic",
            "weights": self._form.weights,
            "nodes": nodes,
        }
        if self._form.weights == "int8":
            detail["products"] = {"encoder": self._form.wide, "decoder": self._form.narrow}
            if self._form.encoder_apart:
                detail["products"] = {"decoder": self._form.narrow}
            detail["avoided"] = list(int8_choice().faults)
        return detail


def nodes_by_provider(sessions: Sequence[onnxruntime.InferenceSession]) -> dict[str, int]:
    """Nodes of all sessions per execution provider; an onnxruntime that does not tell gives its providers with 0."""
    counts: dict[str, int] = {}
    for session in sessions:
        if not hasattr(session, "get_provider_graph_assignment_info"):
            return dict.fromkeys(session.get_providers(), 0)
        for part in session.get_provider_graph_assignment_info():
            counts[part.ep_name] = counts.get(part.ep_name, 0) + len(part.get_nodes())
    return counts


def _form(dims: ModelDimensions, dtype: str, static: bool, *, encoder_apart: bool = False) -> GraphConfig:
    if dtype not in {"float32", "float16", "int8"}:
        raise ModelUnavailable(f"Whisper's onnx engine has no dtype {dtype!r} (float32, float16 or int8)")
    if dtype == "float16" and not static:
        raise ModelUnavailable("float16 is for DirectML; on the CPU choose float32 or int8")
    if dtype == "int8" and static:
        raise ModelUnavailable("int8 is for the CPU; on DirectML choose float32 or float16")
    form = replace(_int8_form() if dtype == "int8" else GraphConfig(weights=dtype), encoder_apart=encoder_apart)
    return replace(form, static=True, cache=min(_STATIC_CACHE, dims.target_positions)) if static else form


def _int8_form() -> GraphConfig:
    choice = int8_choice()
    if not choice.is_right:
        faults = "; ".join(choice.faults)
        raise ModelUnavailable(f'no int8 product is right on this processor ({faults}); set dtype = "float32"')
    return GraphConfig(weights="int8", wide=choice.wide, narrow=choice.narrow)
