"""A loaded Whisper: what tools, checks and the worker's backend ask of one model.

`load_whisper` loads it. Owns whole recordings and the speech detector; `model` has the single steps and
`window_decoder` their order. The worker's backend adds jobs and events around the same object.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from backends.audio.vad import SpeechDetector
from backends.interface import Chunking, InvalidInput, ModelUnavailable, Segment, Word
from backends.whisper.active_window import ActiveWindow, DecodingOptions
from backends.whisper.checkpoint import Checkpoint, check
from backends.whisper.config import read_dims
from backends.whisper.fallback import Thresholds
from backends.whisper.model import Task, WhisperModel
from backends.whisper.network import Network
from backends.whisper.speech_segments import VadOptions, find_speech, whole
from backends.whisper.tokenizer import checked_language
from backends.whisper.transcription import Transcription
from backends.whisper.window_decoder import WindowDecoder


@dataclass(frozen=True, slots=True)
class TranscriptionResult:
    """A whole recording as text."""

    text: str
    language: str | None
    segments: tuple[Segment, ...] = ()
    words: tuple[Word, ...] = ()


class Whisper(WhisperModel):
    """A model that writes down recordings. windows: decodes windows of any recordings together."""

    def __init__(self, folder: Path, network: Network, thresholds: Thresholds | None = None) -> None:
        super().__init__(folder, network)
        self.thresholds = thresholds or Thresholds()
        self.windows = WindowDecoder(self, self.thresholds)
        self._detector: SpeechDetector | None = None

    def transcribe(
        self,
        samples: NDArray[np.float32],
        language: str | None = None,
        task: Task = "transcribe",
        word_timestamps: bool = False,
        temperature: float | Sequence[float] = 0.0,
        *,
        prompt: str = "",
        vad: bool = True,
        chunking: Chunking | None = None,
    ) -> TranscriptionResult:
        """The whole recording. A single temperature is used as it is; those of a sequence are tried in turn.

        Raises InvalidInput for a language or task that the model does not know, and for temperatures that are none.
        """
        temperatures = tuple(float(attempt) for attempt in np.atleast_1d(np.asarray(temperature, np.float64)))
        if not temperatures or not all(0 <= attempt < np.inf for attempt in temperatures):
            raise InvalidInput(
                f"temperature {temperature!r} is not a number from 0 on, or a sequence of them", param="temperature"
            )
        known = checked_language(self.special, language)
        decoding_options = DecodingOptions(
            known, task=task, prompt=prompt, temperatures=temperatures, words=word_timestamps
        )
        self.special.prompt(
            decoding_options.language, task, timestamps=True
        )  # refuses an unknown task before silence hides it
        recording = self.recording(samples, vad_options=VadOptions.of(chunking, 0.5) if vad else None)
        segments: list[Segment] = []
        # The first window alone tells the language, where nobody did.
        while windows := recording.next_windows(1 if decoding_options.language is None else self.network.max_batch):
            items = [ActiveWindow(recording, window, decoding_options) for window in windows]
            self.work(items)
            decoding_options = replace(decoding_options, language=items[0].decoding_options.language)
            segments.extend(recording.finished_segments())
        words = tuple(word for segment in segments for word in segment.words)
        return TranscriptionResult(
            "".join(segment.text for segment in segments).strip(), decoding_options.language, tuple(segments), words
        )

    def recording(
        self,
        samples: NDArray[np.float32],
        *,
        vad_options: VadOptions | None,
        carry_prompt: bool = True,
        logprobs: bool = False,
    ) -> Transcription:
        """A transcription in its first state; gate None: everything is decoded."""
        if vad_options is None:
            speech_segments = whole(samples)
        else:
            speech_segments = find_speech(samples, self.detector(), vad_options, self.dims.window_seconds)
        return Transcription(
            samples,
            speech_segments,
            self.dims.window_samples,
            self.tokenizer,
            self.special,
            carry_prompt=carry_prompt,
            logprobs=logprobs,
            # Nothing else is ours then, and tokens are openai-whisper's. With the gate windows keep silence, by which
            # tiny.en loses fewer words; base loses about as many either way (docs/whisper.md).
            zero_filled=vad_options is None,
        )

    def detector(self) -> SpeechDetector:
        """The speech detector, loaded once. Raises ModelUnavailable where it is missing."""
        if self._detector is None:
            self._detector = SpeechDetector()
        return self._detector

    def work(self, windows: Sequence[ActiveWindow]) -> None:
        """Decode windows of any recordings together and hand the results back to them. A language that nobody named is
        detected, and stands in the item's options afterwards."""
        self.windows.decode(windows)


def load_whisper(
    model_dir: Path | str,
    engine: str = "onnx",
    device: str = "cpu",
    dtype: str = "float32",
    *,
    threads: int = 1,
    max_batch: int = 8,
    cache_folder: str = "",
    thresholds: Thresholds | None = None,
) -> Whisper:
    """Load a published Whisper folder. Raises ModelUnavailable with the names of what is missing."""
    folder = Path(model_dir)
    if not folder.is_dir():
        raise ModelUnavailable(f"there is no folder {folder}; pull the model first")
    dims = read_dims(folder)
    check(Checkpoint(folder), dims)
    network: Network
    if engine == "onnx":
        from backends.whisper.onnx.engine import OnnxNetwork

        network = OnnxNetwork(
            folder, dims, device=device, dtype=dtype, threads=threads, max_batch=max_batch, cache_folder=cache_folder
        )
    elif engine == "torch":
        from backends.whisper.torch.engine import TorchNetwork

        network = TorchNetwork(folder, dims, device=device, dtype=dtype, threads=threads, max_batch=max_batch)
    else:
        raise ModelUnavailable(f"Whisper has no engine {engine!r} (onnx or torch)")
    return Whisper(folder, network, thresholds)
