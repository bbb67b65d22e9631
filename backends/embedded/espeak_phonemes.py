"""Phonemes of a text from espeak-ng's rules and dictionaries, with the punctuation that the library drops put back.

Owns the foreign function and where a mark belongs. Knows no voice model and makes no sound.
Function signature and mode bits: espeak-ng 1.52, speak_lib.h.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator

from backends.embedded.espeak_library import EspeakLibrary

_CHARS_UTF8 = 1
_IPA = 0x02
_SPARE = 16  # zeros behind the text, for a library that looks ahead
_TIE = 0x80  # the tie character of diphthongs and affricates is in bits 8 to 23
_LANGUAGE_SWITCH = re.compile(
    r"\([a-z]{2,3}(?:-[a-z0-9-]+)?\)"
)  # "(en)" before a word that is read by another language's rules
_MARKS = {
    ".": ".", ",": ",", ";": ";", ":": ":", "!": "!", "?": "?", "…": "…", "—": ",", "–": ",",
    "。": ".", "、": ",", "，": ",", "；": ";", "：": ":", "！": "!", "？": "?",
}  # fmt: skip
_CLOSING = "\"')]}»”’」』）"


class EspeakPhonemizer(EspeakLibrary):
    """The loaded library as a phonemizer. Like all of the library: one call at a time in a process."""

    def __init__(self) -> None:
        super().__init__()
        self._lib.espeak_TextToPhonemes.argtypes = [ctypes.POINTER(ctypes.c_void_p), ctypes.c_int, ctypes.c_int]
        self._lib.espeak_TextToPhonemes.restype = ctypes.c_char_p

    def ipa(self, text: str, voice: str, tie: str = "") -> str:
        """IPA of `text`, read by the espeak-ng voice of that name ("en-us"), with its marks.

        tie: a character to stand between the parts of one sound ("" for none). Raises ValueError for an unknown voice.
        """
        if not self.set_voice(voice):
            raise ValueError(f"espeak-ng has no voice {voice!r}")
        mode = _IPA | (_TIE | ord(tie) << 8 if tie else 0)
        spoken = []
        for phonemes, source, is_last in self._clauses(text, mode):
            mark = _mark_behind(source, is_last=is_last)
            if phonemes:
                spoken.append(_LANGUAGE_SWITCH.sub("", phonemes).strip() + mark)
        return " ".join(spoken)

    def _clauses(self, text: str, mode: int) -> Iterator[tuple[str, str, bool]]:
        """Phonemes, source text and whether it is the last, of each clause as the library cuts them."""
        data = text.replace("\0", " ").encode()
        buffer = ctypes.create_string_buffer(data, len(data) + _SPARE)
        begin = ctypes.addressof(buffer)
        position, behind = ctypes.c_void_p(begin), 0
        while position.value:
            phonemes = self._lib.espeak_TextToPhonemes(ctypes.byref(position), _CHARS_UTF8, mode) or b""
            is_last = not position.value
            end = len(data) if is_last else _one_character_back(data, position.value - begin)
            yield phonemes.decode(), data[behind:end].decode(errors="replace"), is_last
            behind = max(behind, end)


def _one_character_back(data: bytes, position: int) -> int:
    """The library has read one character beyond the end of a clause."""
    position -= 1
    while position > 0 and data[position] & 0xC0 == 0x80:
        position -= 1
    return position


def _mark_behind(source: str, *, is_last: bool) -> str:
    """The mark that ends a clause, as the voice models know it; "" for none.

    A full stop inside a sentence follows an abbreviation, which is no pause; several of them are an ellipsis.
    """
    tail = source.rstrip().rstrip(_CLOSING).rstrip()
    if not tail or tail[-1] not in _MARKS:
        return ""
    if tail[-1] == "." and not is_last:
        return "…" if tail.endswith("..") else ""
    if {"!", "?"} <= set(tail[-2:]):
        return "?"
    return _MARKS[tail[-1]]
