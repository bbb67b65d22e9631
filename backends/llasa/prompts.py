"""The prompt of one utterance: Llama-3.2-Instruct's chat layout with the answer left open for speech tokens.

The layout is written here rather than read from the folder's template, which not every checkpoint has. Owns the text of
the prompt; ids come from the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date as calendar_date

from backends.llasa.info import DEFAULT_DATE
from backends.llasa.text import joined, neutralised
from backends.llasa.vocabulary import Vocabulary

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_BEGIN, _SPEECH = "<|begin_of_text|>", "<|SPEECH_GENERATION_START|>"
_CAPTION_KEYS = ("emotion", "profile", "mood", "speed", "prosody", "pitch_timbre", "style", "notes", "caption")


def rendered(text: str, system: str = "", date: str = DEFAULT_DATE, assistant_prefix: str = "") -> str:
    """The prompt as text, up to and with the marker after which speech tokens follow. All parts must be neutralised."""
    header = f"Cutting Knowledge Date: December 2023\nToday Date: {date}\n\n{system.strip()}"
    user = f"Convert the text to speech:<|TEXT_UNDERSTANDING_START|>{text}<|TEXT_UNDERSTANDING_END|>"
    return (
        f"{_BEGIN}{_block('system', header)}<|eot_id|>{_block('user', user)}<|eot_id|>"
        f"{_block('assistant', (assistant_prefix + _SPEECH).strip())}"
    )


def _block(role: str, content: str) -> str:
    return f"<|start_header_id|>{role}<|end_header_id|>\n\n{content}"


def prompt_ids(
    vocabulary: Vocabulary,
    text: str,
    reference_text: str | None = None,
    reference_codes: Sequence[int] | None = None,
    system: str | None = None,
    date: str = DEFAULT_DATE,
    assistant_prefix: str = "",
    double_bos: bool = False,
) -> list[int]:
    """Ids of the whole prompt, the codes of the reference clip last. date: as in the header, or "today"."""

    def plain(part: str | None) -> str:
        return vocabulary.without_tokens(neutralised(part or ""))

    full_text = joined(plain(reference_text), plain(text))
    prompt = rendered(full_text, plain(system), today() if date == "today" else plain(date), plain(assistant_prefix))
    ids = vocabulary.encode(_BEGIN + prompt if double_bos else prompt)
    return ids + vocabulary.speech_ids(reference_codes if reference_codes is not None else ())


def today(now: Callable[[], calendar_date] = calendar_date.today) -> str:
    """The date as the template writes it, in English whatever the locale."""
    day = now()
    return f"{day.day:02d} {_MONTHS[day.month - 1]} {day.year}"


def caption(instructions: str) -> str:
    """A system message for caption-tuned checkpoints: "key: value" lines in the order of training, or the text as
    caption."""
    fields: dict[str, str] = {}
    for line in instructions.splitlines():
        key, colon, value = line.partition(":")
        if colon and key.strip().lower() in _CAPTION_KEYS:
            fields[key.strip().lower()] = value.strip()
    if not fields:
        return f"caption: {' '.join(instructions.split())}"
    return "\n".join(f"{key}: {fields[key]}" for key in _CAPTION_KEYS if key in fields)
