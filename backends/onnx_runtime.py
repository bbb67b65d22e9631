"""onnxruntime, which reports nothing to its vendor: the one place of the project that imports it.

`backends.privacy` sets the variable that its builds for Linux and macOS read; those for Windows know the call only.
"""

import onnxruntime as onnxruntime

onnxruntime.disable_telemetry_events()
