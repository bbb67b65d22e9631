"""Switches off what libraries would report to their vendors.

Importing `backends` applies it, so it stands before the first import of such a library in every process of ours:
server, workers, commands, scripts. Knows no library's code, only its switches.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

# Set whatever the user's environment says: README promises that nothing leaves the machine. Requirements: the
# documentation of each library, and where it reads the variable.
NO_TELEMETRY: Mapping[str, str] = {
    "DO_NOT_TRACK": "1",  # read by many, huggingface_hub among them
    # onnxruntime, on in its builds for Linux since 1.29; read when the module is imported
    "ORT_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DISABLE_TELEMETRY": "1",  # the older name of huggingface_hub and diffusers
    "HF_HUB_DISABLE_UPDATE_CHECK": "1",
    "GRADIO_ANALYTICS_ENABLED": "False",
    "RAY_USAGE_STATS_ENABLED": "0",
    "OTEL_SDK_DISABLED": "true",
}


def disable_telemetry() -> None:
    """For this process and its children. Libraries read most switches at import, so it must run before that."""
    os.environ.update(NO_TELEMETRY)
