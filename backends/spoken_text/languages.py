"""The language of a text in Latin letters, where it is plain enough to be acted on.

Owns when a guess is trusted. A voice of the wrong language makes a text unintelligible, and most texts are in the
voice's own, so everything that is not clear is left to it. Knows no voice.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection

_SURE = 0.9  # probability of a language
_ALMOST_NO_ENGLISH, _LIKELY = 0.01, 0.5  # several languages that are alike share what English does not get
_LONGEST = 2000  # characters looked at


class LatinLanguages:
    """languages: primary codes to choose among, of which those that py3langid does not know are left out."""

    def __init__(self, languages: Collection[str]) -> None:
        from py3langid.langid import LanguageIdentifier  # half a second and 75 MB

        self._model = LanguageIdentifier.from_model_file("data/model.npz.xz", norm_probs=True)
        known = sorted({*languages, "en"} & {*self._model.labels})
        self._model.set_languages(known)

    def of(self, text: str) -> str:
        """The primary code of the language of `text`; "" where it is not clear or not in Latin letters."""
        text = text[:_LONGEST]
        letters = [char for char in text if char.isalpha()]
        if 2 * sum(unicodedata.name(char, "").startswith("LATIN") for char in letters) <= len(letters):
            return ""
        ranked = {code: float(probability) for code, probability in self._model.rank(text)}
        best = max(ranked, key=ranked.__getitem__)
        likely = ranked["en"] < _ALMOST_NO_ENGLISH and ranked[best] >= _LIKELY
        return best if ranked[best] >= _SURE or likely else ""
