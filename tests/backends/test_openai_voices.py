"""OpenAI's voice names have one list, and the tables that give each name something cover exactly that list."""

from __future__ import annotations

from pathlib import Path

from backends.embedded import espeak_voices, voice_catalog
from backends.openai_voices import OPENAI_VOICES, PLAIN_VOICE

ROOT = Path(__file__).resolve().parents[2]


def test_every_table_of_names_covers_the_list() -> None:
    assert sorted(espeak_voices.SPEAKERS) == sorted(OPENAI_VOICES)
    assert sorted(voice_catalog.FEMALE_NAMES + voice_catalog.MALE_NAMES) == sorted(OPENAI_VOICES)


def test_the_plain_voice_is_espeaks_plain_one() -> None:
    assert espeak_voices.SPEAKERS[PLAIN_VOICE] == ""


def test_only_the_tables_spell_the_names() -> None:
    tables = {"openai_voices.py", "espeak_voices.py", "voice_catalog.py"}
    spelt = [
        str(path.relative_to(ROOT))
        for folder in ("app", "backends")
        for path in (ROOT / folder).rglob("*.py")
        if path.name not in tables and '"alloy"' in path.read_text("utf-8")
    ]
    assert not spelt
