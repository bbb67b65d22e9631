"""English words in katakana, and in Japanese sentences."""

from __future__ import annotations

import pytest

from backends.embedded.english_kana import EnglishKana
from backends.embedded.espeak_phonemes import EspeakPhonemizer


@pytest.fixture(scope="module")
def kana() -> EnglishKana:
    return EnglishKana(EspeakPhonemizer().ipa)


@pytest.mark.parametrize(
    ("word", "katakana"),
    [
        ("Python", "パイソン"),  # an unstressed vowel is taken from the spelling
        ("computer", "コンピューター"),
        ("Tesla", "テスラ"),
        ("session", "セッション"),
        ("click", "クリック"),  # a short vowel before a final stop
        ("Starbucks", "スターバックス"),
        ("hacker", "ハッカー"),
        ("socket", "ソケット"),
        ("bridge", "ブリッジ"),
        ("meeting", "ミーティング"),
        ("finger", "フィンガー"),
        ("gateway", "ゲートウェイ"),
        ("people", "ピープル"),
        ("music", "ミュージック"),
        ("cube", "キューブ"),
        ("power", "パワー"),
        ("vision", "ビジョン"),
        ("video", "ビディオー"),
        ("beauty", "ビューティー"),
        ("it's", "イッツ"),
        ("...", ""),
    ],
)
def test_a_word_sounds_as_japanese_says_it(kana: EnglishKana, word: str, katakana: str) -> None:
    assert kana.of(word) == katakana
