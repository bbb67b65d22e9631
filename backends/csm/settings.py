"""Sampling settings of one request: the deployment's defaults under the request's own `options`.

Knows no tensor, so that the gateway may refuse a request by it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from backends.csm.info import CsmOptions
from backends.interface import InvalidInput, Request, SpeechRequest

_RANGES = {"temperature": (0.0, 2.0), "top_k": (0, 10_000), "max_seconds": (0.08, 120.0)}


@dataclass(frozen=True, slots=True)
class Settings:
    """Sampling of one request. max_seconds: of one sentence."""

    temperature: float
    top_k: int
    max_seconds: float


def check_request(request: Request, options: Mapping[str, Any]) -> None:
    """Raises InvalidInput if a request's settings cannot be served; options: the deployment's."""
    if isinstance(request, SpeechRequest):
        request_settings(request.options, CsmOptions(**options))


def request_settings(overrides: Mapping[str, Any], options: CsmOptions) -> Settings:
    """The deployment's settings overridden by a request's. Raises InvalidInput for unknown or impossible ones."""
    for name in overrides:
        if name not in _RANGES:
            raise InvalidInput(f"unknown option {name!r} (known: {', '.join(_RANGES)})", param="options")
    temperature = _number("temperature", overrides.get("temperature", options.temperature))
    top_k = _number("top_k", overrides.get("top_k", options.top_k))
    return Settings(temperature, int(top_k), _number("max_seconds", overrides.get("max_seconds", options.max_seconds)))


def _number(name: str, value: Any) -> float:
    low, high = _RANGES[name]
    integer = isinstance(low, int)
    if isinstance(value, bool) or not isinstance(value, int if integer else (int, float)) or not low <= value <= high:
        kind = "a whole number" if integer else "a number"
        raise InvalidInput(f"option {name} must be {kind} from {low} to {high}", param="options")
    return float(value)
