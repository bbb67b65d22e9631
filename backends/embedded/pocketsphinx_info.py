"""What the gateway may know of the pocketsphinx backend without loading it."""

from __future__ import annotations

from dataclasses import dataclass

from backends.registry import BackendInfo


@dataclass(frozen=True, slots=True)
class PocketsphinxOptions:
    """Keys of a deployment with backend = "pocketsphinx".

    sentences: a closed list of English sentences; when given, every utterance is one of them or empty (grammar mode);
    longest_utterance: seconds decoded in one step; a longer one is cut where it is quietest.
    """

    sentences: tuple[str, ...] = ()
    longest_utterance: float = 6.0


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
