"""Sampling settings of one request: the deployment's defaults under the request's own `options`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from backends.csm.answer import Settings
from backends.csm.info import CsmOptions
from backends.interface import InvalidInput

_RANGES = {"temperature": (0.0, 2.0), "top_k": (0, 10_000), "max_seconds": (0.08, 120.0)}


def request_settings(given: Mapping[str, Any], options: CsmOptions, frame_rate: float) -> Settings:
    """Raises InvalidInput for an unknown option or a value outside its range."""
    for name in given:
        if name not in _RANGES:
            raise InvalidInput(f"unknown option {name!r} (known: {', '.join(_RANGES)})", param="options")
    temperature = _number("temperature", given.get("temperature", options.temperature))
    top_k = _number("top_k", given.get("top_k", options.top_k))
    seconds = _number("max_seconds", given.get("max_seconds", options.max_seconds))
    return Settings(temperature, int(top_k), max(1, round(seconds * frame_rate)))


def _number(name: str, value: Any) -> float:
    low, high = _RANGES[name]
    whole = isinstance(low, int)
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)) or not low <= value <= high:
        kind = "a whole number" if whole else "a number"
        raise InvalidInput(f"option {name} must be {kind} from {low} to {high}", param="options")
    return float(value)
