"""The state of one answer, and the reports that bring it from the device: a few numbers every few steps, no stalls.

A report says how many tokens belong to an answer, how many of them are speech codes, and whether it repeats itself. It
is requested every few steps and read at a later one, while the device works on; only a host that runs further ahead
than that waits for it. Knows tokens, and nothing of how they are made.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from backends.interface import InvalidInput
from backends.llasa.async_copy import Fetch
from backends.llasa.options import SamplingParams
from backends.llasa.vocabulary import Vocabulary

# Fewer different tokens than this among the last ones are a repetition or a silence that will not end.
REPETITION_WINDOW, REPETITION_DISTINCT = 150, 8
# Tokens between two such checks: at fixed positions, so that an answer never depends on when it is reported.
REPETITION_EVERY = 16
_REPORT_EVERY = {"cpu": 1}  # steps between two reports, by kind of device
_REPORT_EVERY_ELSEWHERE = 4


class Utterance:
    """One answer in progress. Its tokens stay on the device.

    produced: tokens drawn; length: those known to belong to the answer, the stop token included once it came;
    code_count: speech codes among these. ended: the stop token came; full: the limit was reached without one; stuck:
    the answer repeats itself.
    """

    def __init__(
        self,
        prompt: Sequence[int],
        limit: int,
        sampling: SamplingParams,
        seed: int,
        *,
        variant: str = "",
        prefix: int = 0,
    ) -> None:
        """limit: most new tokens; prefix: prompt rows shared with other prompts, whose keys and values may be
        reused."""
        if not prompt or limit < 1:
            raise InvalidInput("the prompt leaves no room for speech within max_length")
        self.prompt, self.limit, self.sampling, self.seed = list(prompt), limit, sampling, seed
        self.variant, self.prefix = variant, prefix
        self.ended = False
        self._repetition: tuple[int, int] | None = None  # length and code_count at which it was found
        self.filled = self.produced = self.reported = self.length = self.code_count = 0
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
        """The position of its next row."""
        return len(self.prompt) + self.produced - 1 if self.ready else self.filled

    @property
    def ids(self) -> list[int]:
        """The known tokens, copied to the host now."""
        ids: list[int] = self.tokens[: self.length].tolist()
        return ids

    def codes(self, vocabulary: Vocabulary) -> Tensor:
        """The known speech codes, int64 [code_count], on the device."""
        return vocabulary.kept_codes(self.tokens[: self.length], self.code_count)

    def update(self, drawn: int, row: Sequence[int]) -> None:
        """Apply a report (`report`) made when `drawn` tokens had been drawn."""
        going, speech, distinct, speech_after = row
        self.ended = going < drawn - self.length
        self.length += going + self.ended
        self.code_count += speech
        if distinct < REPETITION_DISTINCT and not self.ended and self._repetition is None:
            self._repetition = _window_end(drawn), self.code_count - speech_after

    def cut_repetition(self) -> None:
        """Drop the tokens after the window in which repetition was found."""
        if self._repetition is not None:
            self.length, self.code_count = self._repetition


class TokenReporter:
    """Requests and reads the reports of all utterances in progress; at most one set of them is pending."""

    def __init__(self, vocabulary: Vocabulary, device: torch.device) -> None:
        self._vocabulary = vocabulary
        self._every = _REPORT_EVERY.get(device.type, _REPORT_EVERY_ELSEWHERE)
        self._steps = 0  # since the last request
        self._requested: list[tuple[Utterance, int]] = []
        self._pending: Fetch | None = None

    def poll(self, utterances: Sequence[Utterance], *, waiting: bool) -> None:
        """Called after every step. waiting: there was nothing to draw, so only a report can change anything."""
        self._steps += 1
        if waiting or self._steps >= self._every:
            self._read()
        self._read_if_there()
        if self._pending is None and any(self._is_due(utterance) for utterance in utterances):
            self._request([utterance for utterance in utterances if utterance.produced > utterance.reported])
        self._read_if_there()

    def _is_due(self, utterance: Utterance) -> bool:
        fresh = utterance.produced > utterance.reported
        return fresh and (self._steps >= self._every or utterance.produced == utterance.limit)

    def _request(self, utterances: Sequence[Utterance]) -> None:
        self._pending = Fetch(torch.stack([report(utterance, self._vocabulary) for utterance in utterances]))
        self._requested = [(utterance, utterance.produced) for utterance in utterances]
        for utterance in utterances:
            utterance.reported = utterance.produced
        self._steps = 0

    def _read_if_there(self) -> None:
        if self._pending is not None and self._pending.ready:
            self._read()

    def _read(self) -> None:
        if self._pending is None:
            return
        for (utterance, drawn), row in zip(self._requested, self._pending.rows(), strict=True):
            if not utterance.over:
                utterance.update(drawn, row)
        self._pending, self._requested = None, []


def report(utterance: Utterance, vocabulary: Vocabulary) -> Tensor:
    """int64 [4], on the device, of the tokens drawn since the last report.

    How many come before a stop token; how many of these are speech; different tokens in the window that is checked for
    repetition; speech tokens after that window.
    """
    tokens, drawn = utterance.tokens, utterance.produced
    fresh, window_end = tokens[utterance.reported : drawn], _window_end(drawn)
    going = (fresh == vocabulary.stop).cumsum(0) == 0
    speech = (going & vocabulary.speech_mask(fresh)).sum()
    after = vocabulary.speech_mask(tokens[window_end:drawn]).sum()
    return torch.stack([going.sum(), speech, distinct_tokens(tokens[:window_end]), after])


def distinct_tokens(tokens: Tensor) -> Tensor:
    """Number of different ones among the last REPETITION_WINDOW tokens, int64 []; the window's size if it is not
    full."""
    if len(tokens) < REPETITION_WINDOW:
        return torch.full((), REPETITION_WINDOW, dtype=torch.int64, device=tokens.device)
    window = tokens[-REPETITION_WINDOW:].sort().values
    return (window[1:] != window[:-1]).sum() + 1


def _window_end(drawn: int) -> int:
    """End of the last window that is checked for repetition."""
    return drawn // REPETITION_EVERY * REPETITION_EVERY
