"""Makes the answers of one session: chat and speech, chained by the sentence, so that speech begins before the answer
is complete.

Owns the tasks that make them. What they give goes to a sink, which is the session. Cancelling a task ends both jobs at
their next step.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Protocol

import structlog

from app.errors import ApiError, internal_error
from app.realtime.chat import Call, Chat, Piece, Thought
from app.realtime.outputs import Plan
from app.realtime.voice import Voice
from backends.audio.sentences import sentences
from backends.interface import Usage

_VERBATIM_CHARACTERS = 4096  # of a text to be spoken that are cut into sentences at once
_log = structlog.get_logger("gateway")


class Sink(Protocol):
    """What becomes of an answer. Each names the response; one that has ended drops what still comes."""

    def say(self, response_id: str, text: str) -> None: ...

    def sound(self, response_id: str, data: bytes) -> None: ...

    def call(self, response_id: str, call: Call) -> None: ...

    def answered(self, response_id: str, usage: Usage, *, cut_short: bool) -> None: ...

    def answer_failed(self, response_id: str, error: ApiError) -> None: ...

    async def reader(self) -> None:
        """Return once the client has read enough for more to be made."""


class Responder:
    """chat: makes who thinks; raises ApiError where nobody is configured. voice: makes who speaks."""

    def __init__(self, sink: Sink, chat: Callable[[], Chat], voice: Callable[[Plan], Voice]) -> None:
        self._sink, self._chat, self._voice = sink, chat, voice
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def start(self, plan: Plan) -> None:
        task = asyncio.create_task(self._make(plan), name="realtime answer")
        self._tasks[plan.response_id] = task
        task.add_done_callback(lambda _: self._tasks.pop(plan.response_id, None))

    def stop(self, response_id: str) -> None:
        if (task := self._tasks.get(response_id)) is not None:
            task.cancel()

    async def close(self) -> None:
        """End all; returns when they have let go of their models."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _make(self, plan: Plan) -> None:
        try:
            thought, spoken = await self._spoken(plan) if plan.spoken else (await self._written(plan), Usage())
        except ApiError as error:
            self._sink.answer_failed(plan.response_id, error)
        except Exception as error:
            _log.error("internal_error", exc_info=error)
            self._sink.answer_failed(plan.response_id, internal_error())
        else:
            usage = Usage(
                thought.usage.input_tokens,
                thought.usage.output_tokens + spoken.output_tokens,
                thought.usage.input_audio_tokens,
                spoken.output_tokens,
            )
            self._sink.answered(plan.response_id, usage, cut_short=thought.cut_short)

    async def _written(self, plan: Plan) -> Thought:
        """A text, passed on as it comes."""
        thought = Thought()
        async with aclosing(self._pieces(plan)) as pieces:
            async for piece in pieces:
                if isinstance(piece, Thought):
                    thought = piece
                elif isinstance(piece, Call):
                    self._sink.call(plan.response_id, piece)
                else:
                    self._sink.say(plan.response_id, piece)
                    await self._sink.reader()
        return thought

    async def _spoken(self, plan: Plan) -> tuple[Thought, Usage]:
        """While one sentence is spoken, the next ones are thought of."""
        waiting: asyncio.Queue[str | Call | None] = asyncio.Queue()
        thinking = asyncio.create_task(self._think(plan, waiting), name="realtime chat")
        try:
            voice = self._voice(plan)
            while (piece := await waiting.get()) is not None:
                if isinstance(piece, Call):
                    self._sink.call(plan.response_id, piece)
                else:
                    await self._speak(plan, voice, piece)
            self._sink.sound(plan.response_id, voice.finish())
            return await thinking, voice.usage
        finally:
            thinking.cancel()
            await asyncio.gather(thinking, return_exceptions=True)

    async def _speak(self, plan: Plan, voice: Voice, text: str) -> None:
        """The words are told before their audio."""
        self._sink.say(plan.response_id, text)
        async with aclosing(voice.speak(text.strip())) as pieces:
            async for data in pieces:
                self._sink.sound(plan.response_id, data)
                await self._sink.reader()

    async def _think(self, plan: Plan, waiting: asyncio.Queue[str | Call | None]) -> Thought:
        """Put the answer's sentences into the queue, each as soon as it is complete; None is the end."""
        cutter, thought = SentenceCutter(), Thought()
        try:
            async with aclosing(self._pieces(plan)) as pieces:
                async for piece in pieces:
                    if isinstance(piece, Thought):
                        thought = piece
                        continue
                    for sentence in cutter.push(piece) if isinstance(piece, str) else cutter.finish():
                        waiting.put_nowait(sentence)
                    if isinstance(piece, Call):
                        waiting.put_nowait(piece)
            for sentence in cutter.finish():
                waiting.put_nowait(sentence)
            return thought
        finally:
            waiting.put_nowait(None)

    async def _pieces(self, plan: Plan) -> AsyncGenerator[Piece, None]:
        if plan.verbatim is not None:
            for start in range(0, len(plan.verbatim), _VERBATIM_CHARACTERS):
                yield plan.verbatim[start : start + _VERBATIM_CHARACTERS]
                await asyncio.sleep(0)  # cutting all of a long text at once would take the whole server's time
            yield Thought()
            return
        async with aclosing(self._chat().answer(plan)) as pieces:
            async for piece in pieces:
                yield piece


class SentenceCutter:
    """A text that comes in pieces, as sentences. All of them joined are the text."""

    def __init__(self) -> None:
        self._text = ""

    def push(self, text: str) -> list[str]:
        """The sentences that are complete now."""
        self._text += text
        found = sentences(self._text)
        return self._cut(found[:-1])

    def finish(self) -> list[str]:
        """The rest."""
        rest = self._cut(sentences(self._text))
        self._text = ""
        return rest

    def _cut(self, found: list[str]) -> list[str]:
        """White space stays with the sentence before it."""
        pieces, begin = list[str](), 0
        for sentence in found:
            end = self._text.index(sentence, begin) + len(sentence)
            while end < len(self._text) and self._text[end].isspace():
                end += 1
            pieces.append(self._text[begin:end])
            begin = end
        self._text = self._text[begin:]
        return pieces
