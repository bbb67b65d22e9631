"""Text that was written for the eye: markdown, tags and bracketed pauses become text for the ear.

Owns what is markup and what of it is said. Knows no language but for the mark that ends a line, and no voice.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable

PAUSE = "\ue000"  # of private use: stands for a pause, whose seconds follow up to PAUSE_END
PAUSE_END = "\ue001"
_SHORT, _USUAL, _LONG = 0.4, 0.8, 1.5  # seconds of a pause without a number
_MILLISECONDS_FROM = 50  # a bare number from here on cannot be meant as seconds

_FENCE = re.compile(r"^[ \t]*(`{3,16}|~{3,16})[^\n]*\n(.*?)(?:^[ \t]*\1[ \t]*$|\Z)", re.DOTALL | re.MULTILINE)
_RULE = re.compile(r"^[ \t]*(?:([-*_=~#])[ \t]*)(?:\1[ \t]*){2,}$", re.MULTILINE)
_TABLE_RULE = re.compile(r"^[ \t]*\|?(?:[ \t]*:?-{2,}:?[ \t]*\|)+(?:[ \t]*:?-{2,}:?[ \t]*)?$", re.MULTILINE)
_TABLE_ROW = re.compile(r"^[ \t]*\|(.+)\|[ \t]*$", re.MULTILINE)
_REFERENCE = re.compile(r"^[ \t]*\[[^\]\n]+\]:[ \t]*\S+.*$", re.MULTILINE)
_HEADING = re.compile(r"^[ \t]{0,3}#{1,6}[ \t]+(.*?)[ \t]*#*[ \t]*$", re.MULTILINE)
_QUOTE = re.compile(r"^[ \t]*(?:>[ \t]?)+", re.MULTILINE)
_ITEM = re.compile(r"^[ \t]*(?:[-*+•‣▪][ \t]+(?:\[[ xX]\][ \t]+)?|(\d{1,3})[.)][ \t]+)(?=\S)(.*)$", re.MULTILINE)

_IMAGE_OR_LINK = re.compile(r"!?\[([^\[\]\n]*)\](?:\([^()\s]*(?:\([^()\s]*\))?[^()\n]*\)|\[[^\[\]\n]*\])")
_FOOTNOTE = re.compile(r"\[\^[^\]\n]+\]")
_AUTOLINK = re.compile(r"<((?:https?://|mailto:)[^<>\s]+)>")
_CODE = re.compile(r"(`{1,9})([^`\n]+)\1")
_STRONG = re.compile(r"(\*{2,3}|~~)(?=\S)([^\n]+?)(?<=\S)\1")
_STAR = re.compile(r"(?<![A-Za-z0-9*])\*(?=[^\s*])([^*\n]+?)(?<=[^\s*])\*(?![A-Za-z0-9*])")
_UNDERLINED = re.compile(r"(?<![A-Za-z0-9_])(_{1,3})(?=[^\s_])([^\n]+?)(?<=[^\s_])\1(?![A-Za-z0-9_])")
_LONE_MARKS = re.compile(r"\*{2,}|~{2,}|`+")
_REPEATED = re.compile(r"([!?！？。、,;])\1+")

_SECONDS = r"(\d{1,6}(?:\.\d{1,3})?)?\s*(ms|milliseconds?|msec|s|sec|secs|seconds?|秒|ミリ秒)?"
_PAUSE_WORD = r"(?:pause|break|silence|wait|beat|ポーズ|間|一時停止|無音)"
_PAUSE_TAG = re.compile(
    rf"[\[(（【]\s*(?:(short|brief|long)\s+)?{_PAUSE_WORD}\s*[:=：]?\s*(?:for\s+)?{_SECONDS}\s*[\])）】]", re.IGNORECASE
)
_PAUSE_BEHIND = re.compile(rf"[\[(]\s*{_SECONDS}\s*{_PAUSE_WORD}\s*[\])]", re.IGNORECASE)
_BREAK = re.compile(r"<break\b([^<>]*)/?>", re.IGNORECASE)
_BREAK_TIME = re.compile(rf"time\s*=\s*[\"']?{_SECONDS}", re.IGNORECASE)
_BREAK_STRENGTHS = {"none": 0.0, "x-weak": 0.1, "weak": 0.2, "medium": 0.4, "strong": 0.8, "x-strong": 1.5}
_STRENGTH = re.compile(r"strength\s*=\s*[\"']?([a-z-]+)", re.IGNORECASE)

# Of SSML 1.1 and of HTML as chat programs write it. Other words between angle brackets stay text: "a <b> c" may be one.
_TAG = re.compile(
    r"</?(?:speak|prosody|emphasis|say-as|voice|phoneme|sub|lang|audio|mark|par|seq|media|desc|metadata|lexicon|lookup|"
    r"mstts:[a-z-]+|amazon:[a-z-]+|p|s|w|br|hr|b|i|u|em|strong|code|pre|span|div|ul|ol|li|a|h[1-6]|table|thead|tbody|tr|"
    r"td|th|sup|blockquote|details|summary|small|del|ins|kbd|font|center|img)(?:\s[^<>]*)?/?>",
    re.IGNORECASE,
)
_COMMENT = re.compile(r"<!--.*?-->|<\?xml[^<>]*\?>", re.DOTALL)
_ENDS_LINE = re.compile(r"</?(?:p|s|br|hr|div|ul|ol|li|tr|h[1-6]|table|blockquote)\b", re.IGNORECASE)
_ENTITY = re.compile(r"&(?:amp|lt|gt|quot|apos|nbsp|#\d{1,6}|#x[0-9a-f]{1,5});", re.IGNORECASE)
_CLOSED = ".!?:;,…。！？：；、，" + PAUSE_END


def without_code_blocks(text: str) -> tuple[str, int]:
    """`text` without its fenced blocks, and how many there were. A text of nothing else keeps what is in them."""
    shorter, count = _FENCE.subn("\n", text)
    if any(char.isalnum() for char in shorter):
        return shorter, count
    return _FENCE.sub(lambda found: found.group(2), text), 0


def without_tags(text: str) -> tuple[str, int]:
    """`text` without the tags of SSML and HTML, and how many there were; breaks become pauses, entities characters."""
    text = _BREAK.sub(lambda found: pause_mark(_break_seconds(found.group(1))), _COMMENT.sub("", text))
    text, count = _TAG.subn(lambda found: "\n" if _ENDS_LINE.match(found.group()) else "", text)
    return _ENTITY.sub(lambda found: html.unescape(found.group()), text), count


def with_pauses(text: str) -> str:
    """`text` with pauses in brackets as pause marks: [pause], [pause: 500ms], [2s pause], (long pause)."""
    text = _PAUSE_TAG.sub(lambda found: pause_mark(_seconds(found.group(2), found.group(3), found.group(1))), text)
    return _PAUSE_BEHIND.sub(lambda found: pause_mark(_seconds(found.group(1), found.group(2), None)), text)


def without_markdown(text: str, full_stop: str) -> str:
    """What a person reads of markdown: headings and items as sentences, links by their text, no marks.

    full_stop: put behind a heading or an item that ends without a mark.
    """
    text = _REFERENCE.sub("", _TABLE_RULE.sub("", _RULE.sub("", text)))
    text = _TABLE_ROW.sub(lambda row: _closed(_cells(row.group(1)), full_stop), text)
    text = _HEADING.sub(lambda found: _closed(found.group(1), full_stop), _QUOTE.sub("", text))
    text = _ITEM.sub(lambda found: _closed(_item(found), full_stop), text)
    text = _AUTOLINK.sub(r"\1", _FOOTNOTE.sub("", _IMAGE_OR_LINK.sub(r"\1", text)))
    text = _repeated(_STRONG, r"\2", _CODE.sub(r"\2", text))
    text = _UNDERLINED.sub(r"\2", _STAR.sub(r"\1", text))
    return _REPEATED.sub(r"\1", _LONE_MARKS.sub("", text))


def pause_mark(seconds: float) -> str:
    return f"{PAUSE}{seconds:.3f}{PAUSE_END}"


def split_at_pauses(text: str) -> list[tuple[str, float]]:
    """The text in order, each piece with the seconds of the pause behind it (0: none)."""
    pieces = []
    for part in text.split(PAUSE)[1:]:
        number, _, rest = part.partition(PAUSE_END)
        pieces.append((float(number), rest))
    first = text.split(PAUSE)[0]
    texts = [first, *(rest for _, rest in pieces)]
    return list(zip(texts, [*(seconds for seconds, _ in pieces), 0.0], strict=True))


def _item(found: re.Match[str]) -> str:
    number, content = found.groups()
    return f"{number}, {content}" if number else content


def _cells(row: str) -> str:
    return ", ".join(cell.strip() for cell in row.split("|") if cell.strip())


def _closed(line: str, full_stop: str) -> str:
    line = line.rstrip()
    return line if not line or line.rstrip("*_`~)\"'」』）")[-1:] in _CLOSED else line + full_stop


def _repeated(pattern: re.Pattern[str], replacement: str | Callable[[re.Match[str]], str], text: str) -> str:
    """Substituted twice: emphasis within emphasis."""
    return pattern.sub(replacement, pattern.sub(replacement, text))


def _break_seconds(attributes: str) -> float:
    if (time := _BREAK_TIME.search(attributes)) and time.group(1):
        return _seconds(time.group(1), time.group(2), None)
    strength = _STRENGTH.search(attributes)
    return _BREAK_STRENGTHS.get(strength.group(1).lower(), _USUAL) if strength else _USUAL


def _seconds(number: str | None, unit: str | None, length: str | None) -> float:
    if not number:
        return {"short": _SHORT, "brief": _SHORT, "long": _LONG}.get((length or "").lower(), _USUAL)
    value = float(number)
    in_milliseconds = unit.lower().startswith("m") or unit == "ミリ秒" if unit else value >= _MILLISECONDS_FROM
    return value / 1000 if in_milliseconds else value
