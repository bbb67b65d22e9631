"""Voice activity: Silero's detector, run by ONNX Runtime on the file inside its wheel.

Owns the model's calling convention: frames of 512 samples at 16 kHz, each with the 64 samples before it, and a
recurrent state from frame to frame. Knows no recogniser and no segments. The wheel's Python code, which needs torch,
is never imported.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from backends.interface import ASR_SAMPLE_RATE, ModelUnavailable, Samples

FRAME = 512  # samples, 32 ms
FRAME_SECONDS = FRAME / ASR_SAMPLE_RATE
_CONTEXT = 64  # samples of the frame before that the model also sees
_FILE = "silero_vad_16k_sequence.onnx"


def model_file() -> Path:
    """The ONNX file inside the silero_vad wheel. Raises ModelUnavailable."""
    spec = importlib.util.find_spec("silero_vad")
    for folder in spec.submodule_search_locations or () if spec else ():
        path = Path(folder) / "data" / _FILE
        if path.is_file():
            return path
    raise ModelUnavailable(
        "the speech detector is missing: install silero-vad (Whisper can do without it: vad = false)"
    )


class SpeechDetector:
    """The loaded model; a `VadState` of it belongs to one recording."""

    def __init__(self) -> None:
        # Here, because Whisper's torch engine does without it where vad is false.
        from backends.onnx_runtime import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session: Any = onnxruntime.InferenceSession(
            str(model_file()), options, providers=["CPUExecutionProvider"]
        )

    def new_state(self) -> VadState:
        return VadState(self._session)


class VadState:
    """Speech probabilities of one recording, given in order in pieces of whole frames."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._hidden = np.zeros((1, 1, 128), np.float32)
        self._cell = np.zeros((1, 1, 128), np.float32)
        self._context = np.zeros(_CONTEXT, np.float32)

    def probabilities(self, samples: Samples) -> Samples:
        """samples: [frames * 512], the last piece padded with zeros; returns [frames]."""
        whole = np.zeros(-(-len(samples) // FRAME) * FRAME, np.float32)
        whole[: len(samples)] = samples
        if not len(whole):
            return whole
        frames = whole.reshape(-1, FRAME)
        before = np.concatenate([self._context[None], frames[:-1, -_CONTEXT:]])
        inputs = {"input": np.concatenate([before, frames], axis=1), "h": self._hidden, "c": self._cell}
        speech, self._hidden, self._cell = self._session.run(["speech_probs", "hn", "cn"], inputs)
        self._context = frames[-1, -_CONTEXT:].copy()
        result: Samples = speech
        return result
