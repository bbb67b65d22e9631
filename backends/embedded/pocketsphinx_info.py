"""What the gateway may know of the pocketsphinx backend without loading it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from backends.registry import BackendInfo


@dataclass(frozen=True, slots=True)
class PocketsphinxOptions:
    """Keys of a deployment that only pocketsphinx has."""

    sentences: Annotated[
        tuple[str, ...],
        Meta(description="A closed list of English sentences; when given, every utterance is one of them or empty."),
    ] = ()
    longest_utterance: Annotated[
        float, Meta(description="Longest audio decoded in one step, seconds; more is cut where it is quietest.")
    ] = 6.0


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
    single_threaded=True,
    licence="BSD-2-Clause",
)
