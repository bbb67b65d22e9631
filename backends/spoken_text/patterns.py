"""Ways to write numbers, dates and times that languages share."""

from __future__ import annotations

import re

NUMBER = r"\d[\d,]{0,29}(?:\.\d{1,29})?"  # bounded, so that no text is looked at again and again
ISO_DATE = re.compile(r"(?<![\w-])(\d{4})-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])(?:T(?=\d)|(?![\w-]))", re.ASCII)
TIME = re.compile(
    r"(?<![\d:.])([01]?\d|2[0-3]):([0-5]\d)(?::([0-5]\d))?(?![\d:])(?:\s?([ap])\.?m\b\.?)?", re.IGNORECASE
)
