"""Decode a batch of windows token by token at given temperatures.

Owns the loop and the bookkeeping of probabilities. Knows no audio, no text, no fallback.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from backends.whisper.logit_filters import LogitFilter
from backends.whisper.network import Decoding, EncoderOutput, Floats, Network
from backends.whisper.repetition import looping_tail
from backends.whisper.tokenizer import SpecialTokens

_LOOK_FOR_LOOPS_EVERY = 16  # tokens


@dataclass(frozen=True, slots=True)
class WindowTask:
    """One window to decode. prompt: all tokens before the answer, the start token at `start_index`; forced: how many at
    its end are the beginning of the answer, known already; timestamps: the answer has times; frames: of a
    window shorter than the model's own; seed: of the choice."""

    encoder_output: EncoderOutput
    prompt: tuple[int, ...]
    start_index: int
    temperature: float = 0.0
    max_tokens: int = 224
    seed: int = 0
    forced: int = 0
    timestamps: bool = True
    frames: int = 0


@dataclass(slots=True)
class WindowResult:
    """tokens: the answer without the end token; logprobs: natural, one per token; ended: the end token came;
    doubtful: no temperature gave a good answer, and this is the best of them; rest: seconds at which the next window
    would begin, had the answer not left out speech before that (see `left_out`); 0 where it left out none."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    end_logprob: float = 0.0
    no_speech_prob: float = 0.0
    temperature: float = 0.0
    ended: bool = False
    looped: bool = False
    doubtful: bool = False
    rest: float = 0.0

    @property
    def avg_logprob(self) -> float:
        return (sum(self.logprobs) + self.end_logprob) / (len(self.tokens) + 1)


def decode_tasks(
    network: Network,
    special: SpecialTokens,
    rules: Callable[[bool], Sequence[LogitFilter]],
    tasks: Sequence[WindowTask],
) -> list[WindowResult]:
    """Results in the order of the tasks; those that follow the same rules, on windows of one length, are decoded
    together. rules: by whether the answer has times."""
    results: dict[int, WindowResult] = {}
    for timestamps, frames in dict.fromkeys((task.timestamps, task.frames) for task in tasks):
        rows = [row for row, task in enumerate(tasks) if task.timestamps == timestamps and task.frames == frames]
        for first in range(0, len(rows), network.max_batch):
            part = rows[first : first + network.max_batch]
            decoded = decode_windows(network, special, rules(timestamps), [tasks[row] for row in part])
            results.update(zip(part, decoded, strict=True))
    return [results[row] for row in range(len(tasks))]


def decode_windows(
    network: Network, special: SpecialTokens, rules: Sequence[LogitFilter], tasks: Sequence[WindowTask]
) -> list[WindowResult]:
    """All tasks together, at most network.max_batch; results in the order of the tasks."""
    loop = _Loop(network, special, rules, tasks)
    loop.run()
    return loop.results


class _Loop:
    def __init__(
        self, network: Network, special: SpecialTokens, rules: Sequence[LogitFilter], tasks: Sequence[WindowTask]
    ) -> None:
        self.special, self.rules, self.tasks = special, rules, tasks
        self.results = [WindowResult(temperature=task.temperature) for task in tasks]
        self.rngs = [np.random.default_rng(task.seed) for task in tasks]
        width = max(len(task.prompt) for task in tasks)
        room = network.dims.target_positions - width
        self.limits = [min(task.max_tokens, room) for task in tasks]
        self.padding = [width - len(task.prompt) for task in tasks]
        self.decoding: Decoding = network.decode([task.encoder_output for task in tasks], self.padding)
        self.active = list(range(len(tasks)))

    def run(self) -> None:
        logits = self._prefill()
        while True:
            self._choose(logits)
            if not self.active:
                return
            last = np.array([[self.results[row].tokens[-1]] for row in self.active], np.int64)
            logits = self.decoding.feed(last)[:, -1]

    def _prefill(self) -> Floats:
        tokens = np.array(
            [[self.special.end] * pad + list(task.prompt) for pad, task in zip(self.padding, self.tasks, strict=True)],
            np.int64,
        )
        starts = [pad + task.start_index for pad, task in zip(self.padding, self.tasks, strict=True)]
        first = min(starts)
        logits = self.decoding.feed(tokens, first)
        for result, at, row in zip(self.results, starts, logits, strict=True):
            if self.special.no_speech is not None:
                result.no_speech_prob = float(np.exp(log_softmax(row[at - first])[self.special.no_speech]))
        return logits[:, -1]

    def _choose(self, logits: Floats) -> None:
        """The next token of every active row; finished rows leave the batch."""
        logits = np.array(logits, dtype=np.float32)
        for rule in self.rules:
            rule.apply(logits, [self._chosen(row) for row in self.active])
        logits[~np.isfinite(logits.max(axis=-1)), self.special.end] = 0.0  # where nothing is allowed, the answer ends
        logprobs = log_softmax(logits)
        going = [index for index, row in enumerate(self.active) if self._take(row, logprobs[index])]
        if len(going) < len(self.active):
            self.active = [self.active[index] for index in going]
            if going:
                self.decoding.select(going)

    def _chosen(self, row: int) -> Sequence[int]:
        """The answer so far, with what was known of it before."""
        task, tokens = self.tasks[row], self.results[row].tokens
        return [*task.prompt[len(task.prompt) - task.forced :], *tokens] if task.forced else tokens

    def _take(self, row: int, logprobs: NDArray[np.float32]) -> bool:
        """Append one token to a row's result; False once the row is finished."""
        result, task = self.results[row], self.tasks[row]
        if len(result.tokens) >= self.limits[row]:
            return False
        token = _sample(logprobs, task.temperature, self.rngs[row])
        if token == self.special.end:
            result.end_logprob, result.ended = float(logprobs[token]), True
            return False
        result.tokens.append(token)
        result.logprobs.append(float(logprobs[token]))
        if len(result.tokens) % _LOOK_FOR_LOOPS_EVERY == 0 and looping_tail(result.tokens):
            result.looped = True
            return False
        return len(result.tokens) < self.limits[row]


def _sample(logprobs: NDArray[np.float32], temperature: float, rng: np.random.Generator) -> int:
    """The likeliest token, or one drawn from the tempered distribution (Gumbel's trick)."""
    if temperature <= 0:
        return int(logprobs.argmax())
    noise = rng.gumbel(size=len(logprobs))
    return int((logprobs / temperature + noise).argmax())


def log_softmax(logits: Floats) -> Floats:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    result: Floats = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result
