"""What a job will cost: work units times the seconds that one unit took lately on this deployment.

A unit is a second of audio (recorded, or estimated from the text to be spoken) or a token of a chat answer. Knows
neither queue nor worker; times are seconds.
"""

from __future__ import annotations

from backends.interface import (
    ASR_SAMPLE_RATE,
    AudioPart,
    ChatRequest,
    DiarizationRequest,
    Request,
    SpeechRequest,
    TranscriptionRequest,
)

CHARACTERS_PER_SECOND = 15.0  # of spoken English; a wide (CJK) character is a syllable or more
WIDE_CHARACTER = 0x2E80  # first code point of the CJK blocks
WIDE_WEIGHT = 2.5
DEFAULT_CHAT_TOKENS = 128
SMOOTHING = 0.3  # weight of the newest measurement
GUESS_SECONDS_PER_TOKEN = 0.1  # orders jobs until the first measurement; never used to refuse one
GUESS_REAL_TIME_FACTOR = 0.5


def work_units(request: Request) -> float:
    """Count seconds of audio or tokens; at least a small amount, because no job is free."""
    if isinstance(request, TranscriptionRequest | DiarizationRequest):
        return max(0.1, len(request.samples) / ASR_SAMPLE_RATE)
    if isinstance(request, SpeechRequest):
        return max(0.1, spoken_seconds(request.text) / max(request.speed, 0.25))
    return float(request.max_tokens or DEFAULT_CHAT_TOKENS)


def spoken_seconds(text: str) -> float:
    """Estimate the length of a text read aloud, seconds."""
    wide = sum(1 for character in text if ord(character) >= WIDE_CHARACTER)
    return (len(text) - wide + WIDE_WEIGHT * wide) / CHARACTERS_PER_SECOND


def audio_seconds(request: Request) -> float:
    """Length of the audio that a request brings or asks for: what a real-time factor is relative to."""
    if isinstance(request, ChatRequest):
        parts = [part for message in request.messages for part in message.parts]
        return sum(len(part.samples) for part in parts if isinstance(part, AudioPart)) / ASR_SAMPLE_RATE
    return work_units(request)


class Average:
    """Exponentially weighted; None until the first value."""

    def __init__(self) -> None:
        self.value: float | None = None

    def add(self, value: float) -> None:
        self.value = value if self.value is None else self.value + SMOOTHING * (value - self.value)


class Pricer:
    """Prices for one deployment, learnt from the jobs it finished."""

    def __init__(self) -> None:
        self._per_unit = Average()
        self._factor = Average()
        self._price = Average()

    @property
    def known(self) -> bool:
        """Whether prices rest on a measurement; only then may they refuse anyone."""
        return self._per_unit.value is not None

    @property
    def real_time_factor(self) -> float | None:
        """Seconds of work per second of audio."""
        return self._factor.value

    @property
    def typical(self) -> float:
        """Price of a job of which nothing is known yet: what jobs cost lately."""
        return self._price.value or 0.0

    def price(self, request: Request) -> float:
        """Predicted seconds in a worker slot."""
        units = work_units(request)
        if self._per_unit.value is not None:
            return units * self._per_unit.value
        return units * (GUESS_SECONDS_PER_TOKEN if isinstance(request, ChatRequest) else GUESS_REAL_TIME_FACTOR)

    def record(self, request: Request, seconds: float, units: float | None = None) -> None:
        """Learn from a job that took so many seconds. units: its real work units, if they are known better."""
        self._per_unit.add(seconds / max(units or work_units(request), 0.1))
        self._price.add(seconds)
        audio = audio_seconds(request)
        if audio > 0:
            self._factor.add(seconds / audio)
