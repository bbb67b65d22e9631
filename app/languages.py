"""Names of the languages that recognisers speak: ISO 639-1 codes and lower-case English names, as the API writes both.

The list is the one Whisper was trained on (its paper, appendix E), the widest of our recognisers.
"""

from __future__ import annotations

_TABLE = """
af afrikaans|am amharic|ar arabic|as assamese|az azerbaijani|ba bashkir|be belarusian|bg bulgarian|bn bengali|bo tibetan|
br breton|bs bosnian|ca catalan|cs czech|cy welsh|da danish|de german|el greek|en english|es spanish|et estonian|eu basque|
fa persian|fi finnish|fo faroese|fr french|gl galician|gu gujarati|ha hausa|haw hawaiian|he hebrew|hi hindi|hr croatian|
ht haitian creole|hu hungarian|hy armenian|id indonesian|is icelandic|it italian|ja japanese|jw javanese|ka georgian|
kk kazakh|km khmer|kn kannada|ko korean|la latin|lb luxembourgish|ln lingala|lo lao|lt lithuanian|lv latvian|mg malagasy|
mi maori|mk macedonian|ml malayalam|mn mongolian|mr marathi|ms malay|mt maltese|my myanmar|ne nepali|nl dutch|nn nynorsk|
no norwegian|oc occitan|pa punjabi|pl polish|ps pashto|pt portuguese|ro romanian|ru russian|sa sanskrit|sd sindhi|
si sinhala|sk slovak|sl slovenian|sn shona|so somali|sq albanian|sr serbian|su sundanese|sv swedish|sw swahili|ta tamil|
te telugu|tg tajik|th thai|tk turkmen|tl tagalog|tr turkish|tt tatar|uk ukrainian|ur urdu|uz uzbek|vi vietnamese|
yi yiddish|yo yoruba|yue cantonese|zh chinese
"""
NAME_OF: dict[str, str] = {
    code: name for code, _, name in (entry.strip().partition(" ") for entry in _TABLE.replace("\n", "").split("|"))
}
# What clients also send: other names of the same language, and ISO codes that replaced the recogniser's.
_SYNONYMS = {
    "burmese": "my",
    "castilian": "es",
    "flemish": "nl",
    "haitian": "ht",
    "jv": "jw",
    "iw": "he",
    "letzeburgesch": "lb",
    "mandarin": "zh",
    "moldavian": "ro",
    "moldovan": "ro",
    "nb": "no",
    "panjabi": "pa",
    "pushto": "ps",
    "sinhalese": "si",
    "valencian": "ca",
}
_CODE_OF = {name: code for code, name in NAME_OF.items()} | _SYNONYMS


def language_code(text: str) -> str | None:
    """The code for "en", "EN", "en-US", "english"; None for anything else."""
    wanted = text.strip().lower()
    base = wanted.partition("-")[0].partition("_")[0]
    for candidate in (wanted, base):
        if candidate in NAME_OF:
            return candidate
        if candidate in _CODE_OF:
            return _CODE_OF[candidate]
    return None


def language_name(code: str | None) -> str:
    """The lower-case English name, as verbose_json shows it; an unknown code stands for itself, None is ""."""
    return NAME_OF.get(code, code) if code else ""
