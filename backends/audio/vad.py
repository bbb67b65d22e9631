"""Where is speech? Silero's small recogniser, run by ONNX Runtime over frames of 32 ms.

Owns the model file's place and the state between frames. Knows no recogniser and no segments.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import onnxruntime

from backends.interface import ASR_SAMPLE_RATE, ModelUnavailable, Samples

FRAME = 512  # samples, 32 ms
FRAME_SECONDS = FRAME / ASR_SAMPLE_RATE
_CONTEXT = 64  # samples of the frame before that the model also sees
_FILE = "silero_vad_16k_sequence.onnx"


def model_file() -> Path:
    """The file inside the silero_vad wheel, whose code (it needs torch) is never imported."""
    spec = importlib.util.find_spec("silero_vad")
    for place in spec.submodule_search_locations or () if spec else ():
        path = Path(place) / "data" / _FILE
        if path.is_file():
            return path
    raise ModelUnavailable("the speech detector is missing: install silero-vad, or set vad = false for this deployment")


class SpeechDetector:
    """The loaded model; `Listening` holds the state of one recording."""

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(str(model_file()), options, providers=["CPUExecutionProvider"])

    def listen(self) -> VadState:
        return VadState(self.session)


class VadState:
    """Speech probabilities of one recording, given in order in pieces of whole frames."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
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
