"""What the host learns of the tokens on the device, and when: a few numbers every few steps, fetched without stalling.

A report says how far an answer goes on, how many speech codes it has, and whether it hums. It is asked for every few
steps and read at a later one, while the device works on; only a host that runs further ahead than that waits for it.
Knows tokens, and nothing of how they are made.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from backends.interface import InvalidInput
from backends.llasa.async_copy import Fetch
from backends.llasa.options import Sampling
from backends.llasa.vocabulary import Vocabulary

STUCK_WINDOW, STUCK_KINDS = 150, 8  # tokens looked at; fewer kinds among them are a hum or silence that will not end
STUCK_EVERY = (
    16  # tokens between two such looks: at fixed places, so that an answer never depends on when it is reported
)
_CHECK_EVERY = {"cpu": 1}  # steps between two reports
_CHECK_ELSEWHERE = 4


class Utterance:
    """One answer in the making. Its tokens stay on the device.

    produced: tokens drawn; length: those known to belong to the answer, the stop token included once it came;
    code_count: speech codes among these. ended: the stop token came; full: the limit was reached without one; stuck:
    the answer hums.
    """

    def __init__(
        self, prompt: Sequence[int], limit: int, sampling: Sampling, seed: int, *, variant: str = "", prefix: int = 0
    ) -> None:
        """limit: most new tokens; prefix: prompt rows shared with other prompts, whose keys and values may be
        reused."""
        if not prompt or limit < 1:
            raise InvalidInput("the prompt leaves no room for speech within max_length")
        self.prompt, self.limit, self.sampling, self.seed = list(prompt), limit, sampling, seed
        self.variant, self.prefix = variant, prefix
        self.ended = False
        self._repetition: tuple[int, int] | None = None  # length and code_count where the hum was noticed
        self.filled = self.produced = self.asked = self.length = self.code_count = 0
        self.slot = -1
        self.tokens, self.seen = torch.empty(0, dtype=torch.int64), torch.empty(0)
        self.generator = torch.Generator()

    @property
    def full(self) -> bool:
        return not self.ended and self.length >= self.limit

    @property
    def over(self) -> bool:
        return self.ended or self.full

    @property
    def stuck(self) -> bool:
        return self._repetition is not None

    @property
    def ready(self) -> bool:
        """The whole prompt is computed and a first token drawn."""
        return self.produced > 0

    @property
    def position(self) -> int:
        """Where its next row will stand."""
        return len(self.prompt) + self.produced - 1 if self.ready else self.filled

    @property
    def ids(self) -> list[int]:
        """The known tokens, brought to the host now."""
        found: list[int] = self.tokens[: self.length].tolist()
        return found

    def codes(self, vocabulary: Vocabulary) -> Tensor:
        """The known speech codes, int64 [code_count], on the device."""
        return vocabulary.kept_codes(self.tokens[: self.length], self.code_count)

    def learn(self, drawn: int, row: Sequence[int]) -> None:
        """Take in a report (`report`) made when `drawn` tokens were there."""
        going, speech, kinds, speech_after = row
        self.ended = going < drawn - self.length
        self.length += going + self.ended
        self.code_count += speech
        if kinds < STUCK_KINDS and not self.ended and self._repetition is None:
            self._repetition = _looked_at(drawn), self.code_count - speech_after

    def cut_repetition(self) -> None:
        """Give up what came after the place where it was noticed."""
        if self._repetition is not None:
            self.length, self.code_count = self._repetition


class TokenReporter:
    """Reports of all utterances that are being spoken; at most one set of them is under way."""

    def __init__(self, vocabulary: Vocabulary, device: torch.device) -> None:
        self._vocabulary = vocabulary
        self._every = _CHECK_EVERY.get(device.type, _CHECK_ELSEWHERE)
        self._steps = 0  # since the last question
        self._asked: list[tuple[Utterance, int]] = []
        self._answer: Fetch | None = None

    def look(self, utterances: Sequence[Utterance], *, waiting: bool) -> None:
        """After every step. waiting: nothing was left to draw, so that only a report can bring anything on."""
        self._steps += 1
        if waiting or self._steps >= self._every:
            self._read()
        self._read_if_there()
        if self._answer is None and any(self._is_due(utterance) for utterance in utterances):
            self._ask([utterance for utterance in utterances if utterance.produced > utterance.asked])
        self._read_if_there()

    def _is_due(self, utterance: Utterance) -> bool:
        fresh = utterance.produced > utterance.asked
        return fresh and (self._steps >= self._every or utterance.produced == utterance.limit)

    def _ask(self, utterances: Sequence[Utterance]) -> None:
        self._answer = Fetch(torch.stack([report(utterance, self._vocabulary) for utterance in utterances]))
        self._asked = [(utterance, utterance.produced) for utterance in utterances]
        for utterance in utterances:
            utterance.asked = utterance.produced
        self._steps = 0

    def _read_if_there(self) -> None:
        if self._answer is not None and self._answer.ready:
            self._read()

    def _read(self) -> None:
        if self._answer is None:
            return
        for (utterance, drawn), row in zip(self._asked, self._answer.rows(), strict=True):
            if not utterance.over:
                utterance.learn(drawn, row)
        self._answer, self._asked = None, []


def report(utterance: Utterance, vocabulary: Vocabulary) -> Tensor:
    """int64 [4], on the device, of the tokens drawn since the last report.

    How many come before a stop token; how many of these are speech; kinds of tokens in the window that is looked at for
    a hum; speech tokens after that window.
    """
    tokens, drawn = utterance.tokens, utterance.produced
    fresh, window_end = tokens[utterance.asked : drawn], _looked_at(drawn)
    going = (fresh == vocabulary.stop).cumsum(0) == 0
    speech = (going & vocabulary.speech_mask(fresh)).sum()
    after = vocabulary.speech_mask(tokens[window_end:drawn]).sum()
    return torch.stack([going.sum(), speech, kinds(tokens[:window_end]), after])


def kinds(tokens: Tensor) -> Tensor:
    """How many different ones there are among the last STUCK_WINDOW tokens, int64 []; that many if there are not
    enough."""
    if len(tokens) < STUCK_WINDOW:
        return torch.full((), STUCK_WINDOW, dtype=torch.int64, device=tokens.device)
    window = tokens[-STUCK_WINDOW:].sort().values
    return (window[1:] != window[:-1]).sum() + 1


def _looked_at(drawn: int) -> int:
    """Where the last window ends that is looked at for a hum."""
    return drawn // STUCK_EVERY * STUCK_EVERY
