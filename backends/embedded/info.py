"""The backends of this package, for `backends.registry`."""

from __future__ import annotations


