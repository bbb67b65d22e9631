"""What may be shown of an answer after each block."""

from __future__ import annotations

import pytest

from backends.diffa.answer_text import AnswerText

EOS, EOT = 301, 305


@pytest.fixture
def encode(model):
    return model.tokenizer.encode


def shown(model, blocks, stop=()):
    text = AnswerText(model.tokenizer, stop)
    deltas = [text.add(block) for block in blocks]
    deltas.append(text.finish())
    assert "".join(deltas) == text.text
    return deltas, text


def test_deltas_join_to_the_stripped_text(model, encode):
    deltas, text = shown(model, [encode("  \n"), encode(" Hello "), encode("world \n")])
    assert deltas == ["", "Hello", " world", ""]
    assert text.finish_reason == "length"


def test_an_end_token_ends_it(model, encode):
    deltas, text = shown(model, [encode("Yes "), [*encode("it is. "), EOT, *encode("not")], encode("more")])
    assert deltas == ["Yes", " it is.", "", ""]
    assert (text.finish_reason, text.ended, text.stopped) == ("stop", True, False)
    assert text.tokens == len(encode("Yes ")) + len(encode("it is. ")) + 1


def test_half_a_character_waits(model, encode):
    ids = encode("aü日")
    assert len(ids) == 6
    deltas, _ = shown(model, [ids[:2], ids[2:4], ids[4:]])
    assert deltas == ["a", "ü", "日", ""]


def test_a_stop_text_is_cut_even_across_blocks(model, encode):
    deltas, text = shown(model, [encode("one EN"), encode("D two"), encode(" three")], stop=("END", "zzz"))
    assert deltas == ["one", "", "", ""]
    assert text.text == "one"
    assert (text.stopped, text.finish_reason) == (True, "stop")


def test_what_looked_like_a_stop_text_is_shown_after_all(model, encode):
    deltas, text = shown(model, [encode("one EN"), encode("E two"), encode(" EN")], stop=("END",))
    assert text.text == "one ENE two EN"
    assert deltas == ["one", " ENE two", "", " EN"]
