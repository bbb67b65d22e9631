"""What the gateway may know of the pocketsphinx backend without loading it."""

from __future__ import annotations

from dataclasses import dataclass

from backends.registry import BackendInfo


@dataclass(frozen=True, slots=True)
class PocketsphinxOptions:
    """Keys of a deployment with backend = "pocketsphinx".

    sentences: a closed list of English sentences; when given, every answer is one of them or empty (grammar mode);
    piece_seconds: longest stretch of audio decoded in one step, cut at a pause.
    """

    sentences: tuple[str, ...] = ()
    piece_seconds: float = 15.0


INFO = BackendInfo(
    name="pocketsphinx",
    entry="backends.embedded.pocketsphinx:PocketsphinxBackend",
    tasks=("transcription",),
    engines=("pocketsphinx",),
    libraries={"": ("pocketsphinx",)},
    extra="embedded",
    options=PocketsphinxOptions,
    words=True,
    translation=True,
    degraded=True,
    licence="BSD-2-Clause",
)
