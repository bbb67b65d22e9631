"""The backends of this package, for `backends.registry`."""

from __future__ import annotations

from backends.embedded import espeak_info, voices_info

INFOS = (espeak_info.INFO, voices_info.INFO)
