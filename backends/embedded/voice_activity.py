"""Where somebody speaks: Silero's voice detector, run on the ONNX file inside its wheel.

Owns the model's calling convention: frames of 512 samples at 16 kHz, each preceded by the 64 samples before it, and a
recurrent state that is carried from call to call. Knows no recogniser. The wheel's Python code is never imported,
because it pulls in torch.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.interface import ASR_SAMPLE_RATE, ModelUnavailable, Samples

FRAME = 512  # samples, 32 ms
_CONTEXT = 64  # samples of the frame before
_STATE = (1, 1, 128)
_MODEL_FILE = Path("data") / "silero_vad_16k_sequence.onnx"


@dataclass(slots=True)
class ListeningState:
    """What the detector remembers of one recording."""

    hidden: NDArray[np.float32] = field(default_factory=lambda: np.zeros(_STATE, np.float32))
    cell: NDArray[np.float32] = field(default_factory=lambda: np.zeros(_STATE, np.float32))
    context: Samples = field(default_factory=lambda: np.zeros(_CONTEXT, np.float32))


class VoiceDetector:
    """The loaded model; one for all jobs, each job with its own ListeningState."""

    def __init__(self) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session: Any = onnxruntime.InferenceSession(_model_path(), options, providers=["CPUExecutionProvider"])

    def probabilities(self, samples: Samples, state: ListeningState) -> NDArray[np.float32]:
        """Speech probability of each whole frame of `samples` ([time] at 16 kHz); `state` moves on behind them."""
        count = len(samples) // FRAME
        if count == 0:
            return np.zeros(0, np.float32)
        joined = np.concatenate([state.context, samples[: count * FRAME]]).astype(np.float32)
        frames = np.lib.stride_tricks.sliding_window_view(joined, _CONTEXT + FRAME)[::FRAME]
        inputs = {"input": np.ascontiguousarray(frames), "h": state.hidden, "c": state.cell}
        found, state.hidden, state.cell = self._session.run(None, inputs)
        state.context = joined[-_CONTEXT:]
        return np.asarray(found, np.float32).reshape(-1)


def seconds(frames: int) -> float:
    """The length of so many frames."""
    return frames * FRAME / ASR_SAMPLE_RATE


def _model_path() -> str:
    spec = importlib.util.find_spec("silero_vad")
    if spec is None or spec.origin is None:
        raise ModelUnavailable("the voice detector is missing; run: uv sync --inexact")
    return str(Path(spec.origin).parent / _MODEL_FILE)
