"""What can be asked for: deployment names and aliases, each bound to a backend, a model and a device wish.

Owns the built-in deployments, the merge with the user's, and lookup by name. Knows no process and no HTTP.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from backends.registry import BackendInfo


@dataclass(frozen=True, slots=True)
class Deployment:
    """One configured model. `options` are the backend-specific keys, already checked and complete with defaults."""

    name: str
    info: BackendInfo
    model: str = ""
    engine: str = "auto"
    device: str = "auto"
    dtype: str = "auto"
    keep_alive: float = 600.0
    preload: bool = False
    auto_pull: bool = True
    fallback: str = ""
    python: str = ""
    voices: Mapping[str, str] = field(default_factory=dict)
    audio_deployment: str = ""
    revision: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    builtin: bool = False
