"""What a failure of onnxruntime means: a lost device, no memory, or a graph it refuses. It tells so in words only."""

from __future__ import annotations

from backends.device_loss import device_lost
from backends.interface import ModelUnavailable, OutOfMemory
from backends.memory import is_out_of_memory


def engine_error(error: Exception, remedy: str = "") -> Exception:
    """DeviceLost, OutOfMemory or ModelUnavailable for what onnxruntime raised. remedy: what helps against a refused
    graph."""
    text = str(error)
    if lost := device_lost(error):
        return lost
    if is_out_of_memory(error):
        return OutOfMemory(f"no memory for Whisper: {text[:300]}")
    return ModelUnavailable(f"onnxruntime refused Whisper's graph: {text[:500]}{remedy}")
