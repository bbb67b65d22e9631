"""One pocketsphinx decoder: samples in, words with times and posteriors out.

Owns the decoder's configuration, its reset between utterances and the closed grammar. Knows no requests and no pauses.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from backends.interface import ASR_SAMPLE_RATE, ModelUnavailable, Samples, Word

_FRAMES_PER_SECOND = 100
_ALTERNATIVE = re.compile(r"\(\d+\)$")  # "the(2)" is another pronunciation of "the"
_NOT_IN_WORDS = re.compile(r"[^a-z' ]+")


@dataclass(frozen=True, slots=True)
class Heard:
    """text: "" when nothing was understood; words: with times in seconds from the begin of the utterance."""

    text: str
    words: tuple[Word, ...]


NOTHING = Heard("", ())


class SphinxDecoder:
    """The loaded English model, with its full vocabulary or a closed list of sentences."""

    def __init__(self, sentences: Sequence[str] = ()) -> None:
        try:
            from pocketsphinx import Decoder
        except ImportError as error:
            raise ModelUnavailable(
                "pocketsphinx is not installed; add the extra `embedded`: uv sync --inexact --extra embedded"
            ) from error
        self._decoder: Any = Decoder(loglevel="FATAL", samprate=ASR_SAMPLE_RATE)
        self._sentences = {spoken_form(sentence): sentence for sentence in sentences}
        if self._sentences:
            self._use_grammar()

    def _use_grammar(self) -> None:
        words = {word for form in self._sentences for word in form.split()}
        unknown = sorted(word for word in words if not self._decoder.lookup_word(word))
        if unknown or "" in self._sentences:
            raise ModelUnavailable(
                f"option sentences: not in the dictionary of pocketsphinx: {', '.join(unknown) or 'empty'}"
            )
        choices = " | ".join(self._sentences)
        self._decoder.add_jsgf_string("closed", f"#JSGF V1.0; grammar closed; public <sentence> = {choices};")
        self._decoder.activate_search("closed")

    def decode(self, utterance: Samples) -> Heard:
        """The words of one utterance ([time] at 16 kHz).

        The feature extraction is set up anew first (0.1 ms): otherwise the cepstral mean of whatever was decoded before
        shifts the result, and an answer would depend on the previous caller.
        """
        self._decoder.reinit_feat()
        self._decoder.start_utt()
        self._decoder.process_raw(_as_int16(utterance), full_utt=True)
        self._decoder.end_utt()
        hypothesis, path = self._decoder.hyp(), self._decoder.seg()
        if hypothesis is None or path is None:
            return NOTHING
        words = tuple(_word(part) for part in path if _is_word(part.word))
        if not self._sentences:
            return Heard(" ".join(word.word for word in words), words)
        sentence = self._sentences.get(hypothesis.hypstr)
        return Heard(sentence, words) if sentence else NOTHING


def spoken_form(sentence: str) -> str:
    """Lower-case words without marks, as the pronouncing dictionary spells them."""
    return " ".join(_NOT_IN_WORDS.sub(" ", sentence.lower().replace("’", "'")).split())


def _as_int16(samples: Samples) -> bytes:
    return (np.clip(samples, -1.0, 1.0) * 32767).astype("<i2").tobytes()


def _is_word(label: str) -> bool:
    """Not a sentence mark or filler such as <sil> or [NOISE]."""
    return not label.startswith(("<", "["))


def _word(part: Any) -> Word:
    """`prob` is a posterior in the linear domain; end_frame is the last frame of the word."""
    return Word(
        word=_ALTERNATIVE.sub("", part.word),
        start=part.start_frame / _FRAMES_PER_SECOND,
        end=(part.end_frame + 1) / _FRAMES_PER_SECOND,
        probability=min(max(float(part.prob), 0.0), 1.0),
    )
