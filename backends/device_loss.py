"""A GPU that was removed, hung or was reset: what says so in an error, and why the process cannot go on with it.

After any of these every call of the process to the device fails, whatever is asked of it, so the worker has to be
replaced. The text is all that the libraries pass on. Imports no numeric library.
"""

from __future__ import annotations

from backends.interface import DeviceLost

# DXGI_ERROR_DEVICE_REMOVED, _DEVICE_HUNG, _DEVICE_RESET and _DRIVER_INTERNAL_ERROR of the Windows SDK's winerror.h.
_EVENTS = {
    "887a0005": "was removed",
    "887a0006": "hung",
    "887a0007": "was reset",
    "887a0020": "had an internal error of its driver",
}
_ADVICE = (
    'the worker is replaced. If it happens again: update the graphics driver, set dtype = "float16", choose a smaller '
    'model, or set device = "cpu" (docs/whisper.md, "DirectML")'
)
_LONGEST = 300  # characters of the library's own text


def device_lost(error: BaseException) -> DeviceLost | None:
    """The error as DeviceLost with advice, if it or one that it was raised from says that the device is gone."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, DeviceLost):
            return seen
        text = str(seen)
        for code, event in _EVENTS.items():
            if code in text.lower():
                return DeviceLost(f"the GPU {event} ({code.upper()}); {_ADVICE}. It said: {text[:_LONGEST]}")
        seen = seen.__cause__
    return None
