"""The words for true and false where a boolean arrives as text: form fields, query parameters, environment variables.

Owns the one list of them. Knows no field and no error.
"""

from __future__ import annotations

_WORDS = {
    **dict.fromkeys(("true", "1", "yes", "on"), True),
    **dict.fromkeys(("false", "0", "no", "off"), False),
}


def parse_boolean(text: str) -> bool | None:
    """The boolean that a text stands for, in any case of letters; None if it stands for none."""
    return _WORDS.get(text.lower())


def is_true(text: str | None) -> bool:
    """Whether a text stands for true; unset or unknown text is false."""
    return parse_boolean(text or "") is True
