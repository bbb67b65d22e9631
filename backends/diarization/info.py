"""What the gateway may know of diarization without loading it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from backends.registry import BackendInfo


@dataclass(frozen=True, slots=True)
class DiarizationOptions:
    """Keys of a deployment that only diarization has."""

    transcription_deployment: Annotated[
        str, Meta(description="Deployment that hears the words; empty: the first that transcribes.")
    ] = ""
    window_step: Annotated[
        float, Meta(ge=0.5, le=5, description="Seconds between the starts of two windows of 10 s; less is slower.")
    ] = 2.5
    batch: Annotated[int, Meta(ge=1, le=64, description="Windows of one step.")] = 8
    max_seconds: Annotated[float, Meta(gt=0, description="Longest recording, seconds; longer ones are refused.")] = (
        4 * 3600.0
    )
    clustering_threshold: Annotated[
        float, Meta(gt=0, le=2, description="Distance of centroids up to which the first clusters are joined.")
    ] = 0.6
    known_speaker_threshold: Annotated[
        float, Meta(ge=-1, le=1, description="Cosine similarity from which a voice is taken for a known speaker.")
    ] = 0.45
    min_turn: Annotated[float, Meta(ge=0, le=5, description="Turns shorter than this are left out, seconds.")] = 0.1
    max_pause: Annotated[float, Meta(ge=0, le=5, description="Pauses up to this do not end a turn, seconds.")] = 0.3


INFO = BackendInfo(
    name="diarization",
    entry="backends.diarization.backend:DiarizationBackend",
    tasks=("diarization",),
    engines=("onnx",),
    libraries={"": ("onnxruntime", "onnx")},
    extra="ears",
    options=DiarizationOptions,
    default_model="diarization-community-1",
    required_files=("segmentation.ort|segmentation.onnx|model.onnx", "embedding.ort|embedding.onnx"),
    pull_patterns=("*.ort", "*.onnx", "plda.dat"),
    bytes_hint=8_900_000,
    diarization=True,
    licence="CC-BY-4.0 (pyannote community-1)",
)
