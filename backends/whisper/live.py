"""A live session of Whisper: turns cut by the speech detector, confirmed words while they grow, whole texts at their
ends.

Owns the order of what one session tells, and how often it decodes. A turn's final text is an ordinary transcription of
its audio; `live_turn` decodes what is open; the backend runs both in its steps.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Iterator

from backends.audio.turns import Turn, TurnCutter
from backends.device_loss import device_lost
from backends.interface import (
    ASR_SAMPLE_RATE,
    BackendError,
    Done,
    Event,
    Failed,
    InvalidInput,
    OutOfMemory,
    Segment,
    TranscriptionRequest,
    Usage,
)
from backends.live import Feed, LiveEvent, LiveRequest, LiveSettings, TurnDelta, TurnDone, TurnFailed
from backends.memory import is_out_of_memory
from backends.whisper.active_window import ActiveWindow
from backends.whisper.job import WhisperJob
from backends.whisper.live_policy import LocalAgreement
from backends.whisper.live_turn import OpenTurn
from backends.whisper.recognizer import Recognizer

_MOST_TURNS = 8  # complete ones that wait; beyond that no more audio is taken
# Seconds of new speech between two decodes of an open turn: as often as costs this share of a step's time at most.
_SHORTEST_CHUNK, _LONGEST_CHUNK = 0.6, 5.0
_WHOLE_WINDOW_CHUNK = 1.0  # the first, where a decode costs a whole window however little there is to hear
_SHARE = 0.4


def single_failure(error: Exception) -> Failed:
    """What a turn is told for an exception. Raises it again where the device is lost."""
    if device_lost(error) is not None:
        raise error
    if isinstance(error, BackendError):
        return error.to_event()
    traceback.print_exception(error)
    if is_out_of_memory(error):
        return OutOfMemory(f"out of memory: {error}").to_event()
    return Failed("internal", f"{type(error).__name__}: {error}")


class LiveWhisperJob:
    """One session. chunk: seconds of new speech after which its open turn is decoded again."""

    def __init__(self, request: LiveRequest, recognizer: Recognizer) -> None:
        """Raises ModelUnavailable without the speech detector."""
        state = recognizer.whisper.detector().new_state()
        self._recognizer = recognizer
        self._cutter = TurnCutter(request, lambda frames: state.probabilities(frames).tolist())
        self._open: OpenTurn | None = None
        self._final: WhisperJob | None = None
        self._segments: list[Segment] = []
        self._sent: dict[int, str] = {}  # of complete turns
        self.chunk = _SHORTEST_CHUNK if recognizer.whisper.network.short_windows else _WHOLE_WINDOW_CHUNK

    @property
    def _request(self) -> LiveRequest:
        return self._cutter.request

    def feed(self, feed: Feed) -> None:
        self._cutter.feed(feed)
        if isinstance(feed, LiveSettings) and self._open is not None and not self._open.sent:
            self._open = None  # which is begun anew, with what is asked now; words that went out stay as they are

    def has_work(self) -> bool:
        cutter = self._cutter
        return bool(cutter.events or cutter.committed or cutter.over or self.is_due())

    def is_full(self) -> bool:
        return len(self._cutter.committed) >= _MOST_TURNS

    def is_over(self) -> bool:
        return self._cutter.over and not self._cutter.committed and not self._cutter.events

    def done(self) -> Done:
        return Done(usage=Usage(audio_seconds=self._cutter.position / ASR_SAMPLE_RATE))

    def close(self) -> None:
        """Let go of all audio."""
        if self._final is not None:
            self._final.recording.close()
        self._cutter.committed.clear()
        self._cutter.open = self._open = self._final = None

    # --- Before a step ------------------------------------------------------------------------------------------------

    def happened(self) -> list[LiveEvent]:
        """What turn detection and the client did since the last step."""
        self._follow()
        return self._cutter.take_events()

    def _follow(self) -> OpenTurn | None:
        """The decodes of the turn that is open now; what was told of one that is complete stays known."""
        if self._open is not None and self._open.turn is not self._cutter.open:
            if self._open.turn.end is not None:
                self._sent[self._open.turn.number] = self._open.sent
            self._open = None
        if self._open is None and self._cutter.open is not None:
            self._open = self._opened(self._cutter.open)
        return self._open

    def _opened(self, turn: Turn) -> OpenTurn | None:
        """None where the turn cannot be decoded as it is asked for, which its final text will tell."""
        whisper = self._recognizer.whisper
        try:
            languages = self._recognizer.among(self._request.languages)
            language = self._recognizer.language(self._request.language, languages)
        except InvalidInput:
            return None
        return OpenTurn(turn, LocalAgreement(whisper.tokenizer), whisper, language, languages, self._request.logprobs)

    def is_due(self) -> bool:
        """Whether the open turn is to be decoded. It is not while a complete one waits."""
        opened = self._follow()
        return opened is not None and not self._cutter.committed and opened.is_due(self.chunk)

    def partial(self) -> ActiveWindow:
        """The decode that is due."""
        if self._open is None:
            raise ValueError("no turn is open")
        return self._open.item(self._request.prompt, self._request.keywords)

    def final(self) -> WhisperJob | None:
        """The transcription of the oldest complete turn; None if there is none, or it cannot be begun."""
        if self._final is None and self._cutter.committed:
            turn, asked = self._cutter.committed[0], self._request
            request = TranscriptionRequest(
                turn.samples(),
                asked.language,
                asked.languages,
                prompt=asked.prompt,
                keywords=asked.keywords,
                words=asked.words,
                logprobs=asked.logprobs,
                options=asked.options,
            )
            try:
                self._final = self._recognizer.job(request)
            except InvalidInput as error:
                self._cutter.events += self.failed(error.to_event())
        return self._final

    # --- After a step -------------------------------------------------------------------------------------------------

    def decoded(self, item: ActiveWindow, spent: float) -> Iterator[LiveEvent]:
        """Words that are certain now. spent: seconds of the step; dearer steps come less often."""
        self.chunk = min(_LONGEST_CHUNK, max(_SHORTEST_CHUNK, spent / _SHARE))
        opened = self._open
        if opened is None:
            return
        opened.language = item.decoding_options.language
        opened.trim(item)
        for text, logprobs in opened.take_news():
            yield TurnDelta(opened.turn.number, text, logprobs)

    def finished(self, events: Iterable[Event]) -> Iterator[LiveEvent]:
        """What a step gave to the final transcription of a turn."""
        for event in events:
            if isinstance(event, Segment):
                self._segments.append(event)
            elif isinstance(event, Done):
                yield from self._complete(event)

    def _complete(self, done: Done) -> Iterator[LiveEvent]:
        """The rest of the words, unless the final text is another than was told, and the whole."""
        turn = self._end_turn()
        segments, self._segments = tuple(self._segments), []
        sent, text = self._sent.pop(turn.number, ""), done.text.strip()
        logprobs = tuple(one for segment in segments for one in segment.logprobs)
        if text.startswith(sent) and len(text) > len(sent):
            yield TurnDelta(turn.number, text[len(sent) :])
        yield TurnDone(
            turn.number, text, turn.seconds, done.language, segments, logprobs, done.notes, dict(done.timings)
        )

    def failed(self, why: Failed) -> list[LiveEvent]:
        """The complete turn that was decoded cannot be; a decode of the open one is dropped in silence."""
        if not self._cutter.committed:
            return []
        turn = self._end_turn()
        self._sent.pop(turn.number, None)
        self._segments = []
        return [TurnFailed(turn.number, why)]

    def _end_turn(self) -> Turn:
        if self._final is not None:
            self._final.recording.close()
            self._final = None
        return self._cutter.committed.popleft()
