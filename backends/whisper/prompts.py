"""A client's prompt and what it may do to an answer: programs send the text so far, and a prompt that repeats itself
ends all recognition.

Owns the judgement whether an answer is only the prompt again. Knows texts only.
"""

from __future__ import annotations

import re

_WORD = re.compile(r"\w+")
_FULLER = 2  # times as many words; fewer more may be the same speech, spelled as the prompt wanted or not


def is_echo(text: str, prompt: str) -> bool:
    """Whether an answer is empty or made of the prompt's words alone."""
    return set(_words(text)) <= set(_words(prompt))


def is_made_up(text: str, again: str, keywords: str) -> bool:
    """Whether an answer of keywords alone was put there by them: without them nothing was heard."""
    return bool(_words(keywords)) and is_echo(text, keywords) and not _words(again)


def is_fuller(text: str, than: str) -> bool:
    """Whether so much more was heard that the prompt must have hidden it."""
    return len(_words(text)) > _FULLER * len(_words(than))


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())
