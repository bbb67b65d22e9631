"""The languages that the recognisers speak, and the many ways in which clients write them.

Owns the one table of languages: Whisper's code, its ISO 639-2 codes and its lower-case English name, in the order of
Whisper's published vocabularies (which are those of its paper, appendix E). Knows no model; any one may speak fewer.
"""

from __future__ import annotations

# code, ISO 639-2 terminological code (and the bibliographic one where it differs), English name
_TABLE = """
en eng english|zh zho/chi chinese|de deu/ger german|es spa spanish|ru rus russian|ko kor korean|fr fra/fre french|
ja jpn japanese|pt por portuguese|tr tur turkish|pl pol polish|ca cat catalan|nl nld/dut dutch|ar ara arabic|
sv swe swedish|it ita italian|id ind indonesian|hi hin hindi|fi fin finnish|vi vie vietnamese|he heb hebrew|
uk ukr ukrainian|el ell/gre greek|ms msa/may malay|cs ces/cze czech|ro ron/rum romanian|da dan danish|hu hun hungarian|
ta tam tamil|no nor norwegian|th tha thai|ur urd urdu|hr hrv croatian|bg bul bulgarian|lt lit lithuanian|la lat latin|
mi mri/mao maori|ml mal malayalam|cy cym/wel welsh|sk slk/slo slovak|te tel telugu|fa fas/per persian|lv lav latvian|
bn ben bengali|sr srp serbian|az aze azerbaijani|sl slv slovenian|kn kan kannada|et est estonian|mk mkd/mac macedonian|
br bre breton|eu eus/baq basque|is isl/ice icelandic|hy hye/arm armenian|ne nep nepali|mn mon mongolian|bs bos bosnian|
kk kaz kazakh|sq sqi/alb albanian|sw swa swahili|gl glg galician|mr mar marathi|pa pan punjabi|si sin sinhala|
km khm khmer|sn sna shona|yo yor yoruba|so som somali|af afr afrikaans|oc oci occitan|ka kat/geo georgian|
be bel belarusian|tg tgk tajik|sd snd sindhi|gu guj gujarati|am amh amharic|yi yid yiddish|lo lao lao|uz uzb uzbek|
fo fao faroese|ht hat haitian creole|ps pus pashto|tk tuk turkmen|nn nno nynorsk|mt mlt maltese|sa san sanskrit|
lb ltz luxembourgish|my mya/bur myanmar|bo bod/tib tibetan|tl tgl tagalog|mg mlg malagasy|as asm assamese|tt tat tatar|
haw haw hawaiian|ln lin lingala|ha hau hausa|ba bak bashkir|jw jav javanese|su sun sundanese|yue yue cantonese
"""
_ROWS = [entry.strip().split(" ", 2) for entry in _TABLE.replace("\n", "").split("|")]

LANGUAGES: dict[str, str] = {code: name for code, _, name in _ROWS}
"""Whisper's code -> lower-case English name, as verbose_json shows it."""

DETECT = frozenset({"auto", "mul", "und"})
"""What clients send to have the language detected: a common word, and ISO 639-2 for several and for unknown
languages."""

# Other names of the same language, codes that ISO 639-1 replaced or that replaced Whisper's (jv), and the ISO 639-3
# codes of the usual member of a macrolanguage.
_SYNONYMS = {
    "arb": "ar",
    "burmese": "my",
    "castilian": "es",
    "cmn": "zh",
    "ekk": "et",
    "fil": "tl",
    "filipino": "tl",
    "flemish": "nl",
    "haitian": "ht",
    "in": "id",
    "iw": "he",
    "ji": "yi",
    "jv": "jw",
    "letzeburgesch": "lb",
    "lvs": "lv",
    "mandarin": "zh",
    "mo": "ro",
    "moldavian": "ro",
    "moldovan": "ro",
    "nb": "no",
    "nob": "no",
    "panjabi": "pa",
    "pes": "fa",
    "pushto": "ps",
    "sinhalese": "si",
    "swh": "sw",
    "valencian": "ca",
    "zsm": "ms",
}
_CODE_OF: dict[str, str] = (
    {iso: code for code, codes, _ in _ROWS for iso in codes.split("/")}
    | {name: code for code, name in LANGUAGES.items()}
    | _SYNONYMS
    | {code: code for code in LANGUAGES}
)


def language_code(text: str) -> str | None:
    """Whisper's code for "en", "EN", "en-US", "zh_TW", "eng" or "English"; None for anything else, also for DETECT."""
    name = text.strip().lower()
    return _CODE_OF.get(name) or _CODE_OF.get(name.replace("_", "-").partition("-")[0])


def wants_detection(text: str) -> bool:
    """Whether a language is given as one of the words for "detect it", or is empty."""
    return text.strip().lower() in DETECT | {""}


def language_name(code: str | None) -> str:
    """The lower-case English name; an unknown code stands for itself, None is ""."""
    return LANGUAGES.get(code, code) if code else ""
