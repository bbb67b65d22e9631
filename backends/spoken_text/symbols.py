"""Addresses, dates, times, money, units and signs in the words that a person says.

Owns the words by language. Digits stay digits: every voice here reads them itself. Languages without an entry keep
their signs, which their voices may know. Knows no markup and no voice.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from backends.spoken_text.english import english
from backends.spoken_text.japanese import japanese


@dataclass(frozen=True, slots=True)
class AddressWords:
    """What the signs of an address are called."""

    at: str
    dot: str
    slash: str
    dash: str
    underscore: str
    port: str
    spaced: bool = True

    def of(self, sign: str) -> str:
        named = {"@": self.at, ".": self.dot, "/": self.slash, "-": self.dash, "_": self.underscore}
        word = named.get(sign, "")
        return f" {word} " if self.spaced or not word else word


_ADDRESS_WORDS: Mapping[str, AddressWords] = {
    "en": AddressWords("at", "dot", "slash", "dash", "underscore", "port"),
    "de": AddressWords("at", "Punkt", "Schrägstrich", "Minus", "Unterstrich", "Port"),
    "fr": AddressWords("arobase", "point", "barre oblique", "tiret", "tiret bas", "port"),
    "es": AddressWords("arroba", "punto", "barra", "guion", "guion bajo", "puerto"),
    "it": AddressWords("chiocciola", "punto", "barra", "trattino", "trattino basso", "porta"),
    "pt": AddressWords("arroba", "ponto", "barra", "hífen", "sublinhado", "porta"),
    "nl": AddressWords("apenstaartje", "punt", "slash", "streepje", "liggend streepje", "poort"),
    "ja": AddressWords("アットマーク", "ドット", "スラッシュ", "ハイフン", "アンダーバー", "ポート", spaced=False),
}
_LONGEST_PATH = 32  # characters of an address behind its host; nobody reads out more

_EMAIL = re.compile(r"(?:mailto:)?([A-Za-z0-9][A-Za-z0-9._+-]{0,63}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){1,8})")
_URL = re.compile(r"(?:(?:https?|ftp)://|(?<![A-Za-z0-9_.@])www\.)([A-Za-z0-9][!#-&(-;=?-_a-~]*)", re.IGNORECASE)
_HOST = re.compile(
    r"(?<![A-Za-z0-9_.@/-])((?:[A-Za-z0-9-]{1,63}\.){1,6}(?:com|org|net|edu|gov|io|ai|dev|app|info|co|jp|uk|de|fr|eu|ch|nl))"
    r"((?:/[A-Za-z0-9_./-]*[A-Za-z0-9])?)(?![A-Za-z0-9_-])(?!\.[A-Za-z0-9])"
)
_TRAILING = ".,;:!?)]}*_"
_PORT = re.compile(r":(\d{1,5})(?=/|$)")
_ADDRESS_SIGN = re.compile(r"[@./_-]")


def with_spoken_addresses(text: str, language: str) -> tuple[str, int]:
    """`text` with addresses in words, and how many of them were shortened: queries and long paths are not read out."""
    words, cut = _ADDRESS_WORDS.get(language), 0

    def url(found: re.Match[str]) -> str:
        nonlocal cut
        address = found.group(1).rstrip(_TRAILING)
        behind = found.group(1)[len(address) :]
        short = _shortened(address)
        cut += short != address.removeprefix("www.").rstrip("/")
        return (_spelled(short, words) if words else short) + behind

    text = _EMAIL.sub(lambda found: _spelled(found.group(1), words) if words else found.group(1), text)
    text = _URL.sub(url, text)
    if words:
        text = _HOST.sub(lambda found: _spelled(_shortened(found.group()), words), text)
    return text, cut


def _shortened(address: str) -> str:
    host, slash, path = re.split(r"[?#]", address, maxsplit=1)[0].removeprefix("www.").partition("/")
    path = path.rstrip("/")
    return f"{host}{slash}{path}" if path and len(path) <= _LONGEST_PATH and "%" not in path else host


def _spelled(address: str, words: AddressWords) -> str:
    address = _PORT.sub(lambda port: f" {words.port} {port[1]} " if words.spaced else f"{words.port}{port[1]}", address)
    return " ".join(_ADDRESS_SIGN.sub(lambda sign: words.of(sign.group()), address).split())


_RULES: Mapping[str, Callable[[str], str]] = {"en": english, "ja": japanese}


def with_spoken_symbols(text: str, language: str) -> str:
    """Dates, times, money, units and signs in words, where this module knows the language's."""
    return _RULES.get(language, str)(re.sub(r"(?<=[A-Za-z0-9])_+(?=[A-Za-z0-9])", " ", text))


# --- Pictures ---------------------------------------------------------------------------------------------------------

_FIRST_PICTURE = 0x2190  # symbols below (©, °, ™) have names that are spoken
_CJK_SYMBOLS = range(0x3000, 0x3400)  # 〒, ㈱ and squared units, which Japanese reads
_SKIN_TONES = range(0x1F3FB, 0x1F400)
_KEPT_IN_JAPANESE = frozenset("♪♡♥○◯●")  # signs of mood that voices are trained on
_ATTACHED = frozenset("\u200d\ufe0e\ufe0f\u20e3")  # joins and variants of the picture before
_INVISIBLE = frozenset("\u00ad\u200b\u2060\ufeff\u200e\u200f\ufe0e\ufe0f\u20e3")


def without_pictures(text: str, language: str) -> tuple[str, int]:
    """`text` without emoji and other pictures, and how many there were; invisible characters go uncounted."""
    kept: list[str] = []
    count, behind = 0, ""  # behind: the last character of the picture that is being read
    for char in text:
        if _is_picture(char, language):
            if behind != "\u200d" and ord(char) not in _SKIN_TONES:
                count += 1
                kept.append(" ")
            behind = char
        elif behind and char in _ATTACHED:
            behind = char
        else:
            behind = ""
            kept.append("" if char in _INVISIBLE else char)
    return "".join(kept), count


def _is_picture(char: str, language: str) -> bool:
    if unicodedata.category(char) != "So":
        return ord(char) in _SKIN_TONES
    known = language == "ja" and char in _KEPT_IN_JAPANESE
    return ord(char) >= _FIRST_PICTURE and ord(char) not in _CJK_SYMBOLS and not known
