"""Who thinks of the answers: a chat deployment of this server, or an OpenAI-compatible endpoint somewhere else.

Owns what either is sent and what comes of it, as one stream of pieces. Knows no session and no speech.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
import structlog

from app.config.deployments import Deployment
from app.config.settings import RealtimeSettings
from app.errors import ModelUnavailable, ServiceUnavailable, shortened
from app.realtime.outputs import HistoryPart, Plan
from app.realtime.resampling import resampled
from app.serving.interfaces import Pool, Reservation
from backends.interface import (
    ASR_SAMPLE_RATE,
    AudioPart,
    ChatRequest,
    Done,
    Message,
    TextDelta,
    TextPart,
    TranscriptionRequest,
    Usage,
)

if TYPE_CHECKING:
    import httpx

_log = structlog.get_logger("gateway")
_CONNECT_SECONDS, _SILENT_SECONDS = 10.0, 120.0
_MOST_BYTES = 16 * 1024 * 1024  # of one answer of an endpoint
_MOST_CALLS = 64


@dataclass(frozen=True, slots=True)
class Call:
    """A function that the answer wants to have called. arguments: JSON text."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Thought:
    """The end of an answer. cut_short: at its longest."""

    usage: Usage = field(default_factory=Usage)
    cut_short: bool = False


Piece = str | Call | Thought


class Chat(Protocol):
    """One of the two. takes_audio: a user's speech as it is; calls: functions can be called."""

    @property
    def takes_audio(self) -> bool: ...

    @property
    def calls(self) -> bool: ...

    def answer(self, plan: Plan) -> AsyncGenerator[Piece, None]:
        """Pieces of text, calls, and last a Thought. Raises ApiError."""


@dataclass(slots=True)
class LocalChat:
    """A chat deployment. recognizer: writes down audio items that have no transcript."""

    pool: Pool
    deployment: Deployment
    recognizer: Deployment
    owner: str
    request_id: str
    calls: bool = False

    @property
    def takes_audio(self) -> bool:
        return self.deployment.info.chat_audio

    async def answer(self, plan: Plan) -> AsyncGenerator[Piece, None]:
        messages = await self._messages(plan)
        request = ChatRequest(messages, max_tokens=plan.max_tokens, temperature=plan.temperature)
        async with self._admitted() as reservation:
            said = False
            async for event in await reservation.run(request):
                if isinstance(event, TextDelta):
                    said = said or bool(event.text)
                    yield event.text
                elif isinstance(event, Done):
                    if event.text and not said:
                        yield event.text
                    yield Thought(event.usage, cut_short=event.finish_reason == "length")

    @asynccontextmanager
    async def _admitted(self) -> AsyncIterator[Reservation]:
        """A place in the queue. Raises ApiError; of a model that is missing, with what else can be done."""
        try:
            admitted = self.pool.admit(self.deployment, owner=self.owner, request_id=self.request_id)
            reservation = await admitted.__aenter__()
        except ModelUnavailable as error:
            hint = "Another chat deployment (realtime.chat) or endpoint (realtime.chat_url) can answer instead."
            raise ModelUnavailable(f"{error.message} {hint}") from error
        async with AsyncExitStack() as stack:
            stack.push_async_exit(admitted)
            yield reservation

    async def _messages(self, plan: Plan) -> tuple[Message, ...]:
        """Audio of the last turn only, and of earlier ones without a transcript: it fills the model's context."""
        messages = [Message("system", (TextPart(plan.instructions),))] if plan.instructions else []
        asked = [part for part in plan.history if part.role == "user"]
        messages += [await self._message(part, is_last=bool(asked) and part is asked[-1]) for part in plan.history]
        if not asked:
            messages.append(Message("user", (TextPart(plan.instructions or "Hello."),)))
        return tuple(messages)

    async def _message(self, part: HistoryPart, *, is_last: bool) -> Message:
        """What a function gave counts as told by the user, to a model that knows no functions."""
        return Message("user" if part.role == "tool" else part.role, (await self._part(part, is_last=is_last),))

    async def _part(self, part: HistoryPart, *, is_last: bool) -> TextPart | AudioPart:
        if self.takes_audio and part.audio and (is_last or not part.text):
            rate = part.format.rate
            samples = await asyncio.to_thread(resampled, part.format.samples(part.audio), rate, ASR_SAMPLE_RATE)
            return AudioPart(samples)
        return TextPart(part.text or await transcript(self.pool, self.recognizer, part, self.owner, self.request_id))


async def transcript(pool: Pool, recognizer: Deployment, part: HistoryPart, owner: str, request_id: str) -> str:
    """What is said in audio that no live job has written down, "" where there is none. Raises ApiError."""
    if not part.audio:
        return ""
    samples = await asyncio.to_thread(resampled, part.format.samples(part.audio), part.format.rate, ASR_SAMPLE_RATE)
    async with pool.admit(recognizer, owner=owner, request_id=request_id) as reservation:
        async for event in await reservation.run(TranscriptionRequest(samples)):
            if isinstance(event, Done):
                return event.text.strip()
    return ""


@dataclass(slots=True)
class EndpointChat:
    """An endpoint that speaks OpenAI's chat completions."""

    settings: RealtimeSettings
    pool: Pool
    recognizer: Deployment
    owner: str
    request_id: str
    takes_audio: bool = False
    calls: bool = True

    async def answer(self, plan: Plan) -> AsyncGenerator[Piece, None]:
        import httpx

        body = await self._body(plan)
        timeout = httpx.Timeout(_SILENT_SECONDS, connect=_CONNECT_SECONDS)
        url = f"{self.settings.chat_url.rstrip('/')}/chat/completions"
        collected = _Collected()
        try:
            async with (
                httpx.AsyncClient(timeout=timeout, headers=self._headers()) as client,
                client.stream("POST", url, json=body) as response,
            ):
                if response.status_code != 200:
                    said = "\n".join([line async for line in _lines(response)])
                    raise ServiceUnavailable(f"The chat endpoint answered {response.status_code}: {said[:500]}")
                async for line in _lines(response):
                    if text := collected.take(line):
                        yield text
        except httpx.HTTPError as error:
            _log.warning("realtime.chat_endpoint", url=url, error=shortened(str(error)))  # clients need not know where
            raise ServiceUnavailable(f"The chat endpoint cannot be reached: {type(error).__name__}") from error
        for call in collected.calls():
            yield call
        yield Thought(collected.usage, cut_short=collected.cut_short)

    def _headers(self) -> dict[str, str]:
        key = self.settings.chat_key
        return {"authorization": f"Bearer {key.get_secret_value()}"} if key is not None else {}

    async def _body(self, plan: Plan) -> dict[str, Any]:
        messages = [{"role": "system", "content": plan.instructions}] if plan.instructions else []
        messages += [await self._message(part) for part in plan.history]
        body: dict[str, Any] = {
            "model": self.settings.chat_model,
            "messages": messages,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if plan.max_tokens is not None:
            body["max_tokens"] = plan.max_tokens
        if plan.tools:
            body["tools"] = [_tool(dict(tool)) for tool in plan.tools]
            body["tool_choice"] = _tool_choice(plan.tool_choice)
        return body

    async def _message(self, part: HistoryPart) -> dict[str, Any]:
        if part.role == "tool":
            return {"role": "tool", "tool_call_id": part.call_id, "content": part.text}
        if part.call_id:
            call = {"name": part.name, "arguments": part.text}
            return {"role": "assistant", "tool_calls": [{"id": part.call_id, "type": "function", "function": call}]}
        text = part.text or await transcript(self.pool, self.recognizer, part, self.owner, self.request_id)
        return {"role": part.role, "content": text}


async def _lines(response: httpx.Response) -> AsyncGenerator[str, None]:
    """The lines of an answer, read no further than it may be long. Raises ServiceUnavailable where it is longer."""
    rest, received = b"", 0
    async for chunk in response.aiter_bytes():
        received += len(chunk)
        if received > _MOST_BYTES:
            raise ServiceUnavailable(f"The chat endpoint's answer is longer than {_MOST_BYTES} bytes.")
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line.decode("utf-8", "replace").rstrip("\r")
    if rest:
        yield rest.decode("utf-8", "replace")


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    """The flat form of a session as chat completions want it."""
    tool.pop("type", None)
    return {"type": "function", "function": tool}


def _tool_choice(choice: Any) -> Any:
    if isinstance(choice, dict) and "name" in choice:
        return {"type": "function", "function": {"name": choice["name"]}}
    return choice


class _Collected:
    """What the chunks of an endpoint's answer add up to."""

    def __init__(self) -> None:
        self.usage, self.cut_short = Usage(), False
        self._calls: dict[int, dict[str, str]] = {}

    def take(self, line: str) -> str:
        """The text in one line of the stream. Raises ServiceUnavailable for what is no such stream."""
        kind, _, data = line.partition(":")
        if kind != "data" or data.strip() in ("", "[DONE]"):
            return ""
        try:
            chunk = msgspec.json.decode(data.encode())
            if chunk.get("error"):
                raise ServiceUnavailable(f"The chat endpoint failed: {shortened(json.dumps(chunk['error']))}")
            return self._chunk(chunk)
        except (msgspec.DecodeError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise ServiceUnavailable(f"The chat endpoint sent no chunk of an answer: {error}") from error

    def _chunk(self, chunk: dict[str, Any]) -> str:
        if counts := chunk.get("usage"):
            self.usage = Usage(int(counts.get("prompt_tokens") or 0), int(counts.get("completion_tokens") or 0))
        if not (choices := chunk.get("choices")):
            return ""
        choice = choices[0]
        self.cut_short = self.cut_short or choice.get("finish_reason") == "length"
        delta = choice.get("delta") or {}
        for given in delta.get("tool_calls") or ():
            self._add(given)
        return str(delta.get("content") or "")

    def _add(self, given: dict[str, Any]) -> None:
        """A piece of a call: the first has its id and name, all have a part of the arguments."""
        index = int(given.get("index") or 0)
        if index not in self._calls and len(self._calls) >= _MOST_CALLS:
            raise ValueError(f"more than {_MOST_CALLS} calls")
        call = self._calls.setdefault(index, {"id": "", "name": "", "arguments": ""})
        function = given.get("function") or {}
        call["id"] = given.get("id") or call["id"]
        call["name"] = function.get("name") or call["name"]
        call["arguments"] += function.get("arguments") or ""

    def calls(self) -> list[Call]:
        return [
            Call(call["id"] or f"call_{index}", call["name"], call["arguments"] or "{}")
            for index, call in sorted(self._calls.items())
        ]
