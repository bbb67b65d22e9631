"""The body of a chat request, read and checked: what is asked for, what is refused, what is ignored.

A parameter that would silently change the answer is refused; one that would not is ignored and named in a header. The
messages are read in `messages`. Runs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from app.config.deployments import Deployment
from app.errors import InvalidRequest, MissingParameter, UnsupportedParameter, UnsupportedValue
from app.routes.chat.history import SpokenHistory
from app.routes.chat.messages import SentMessage, read_messages
from app.routes.fields import as_mapping, checked_number, read_flag, read_options, read_seed, voice_name
from app.writers.formats import CHAT_FORMATS
from backends.interface import ChatRequest, Message

MOST_STOPS = 4
MOST_TOKENS = 1_000_000
_READ = frozenset(
    {
        "model", "messages", "modalities", "audio", "stream", "stream_options", "max_tokens", "max_completion_tokens",
        "temperature", "top_p", "stop", "seed", "options", "n",
    }
)  # fmt: skip
# Refused unless they hold the value that changes nothing.
_NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "response_format": ({"type": "text"},),
    "web_search_options": (),
    "data_sources": ([],),
}


@dataclass(frozen=True, slots=True)
class SpokenOptions:
    """How the answer is to be spoken. format: a key of writers.formats.MEDIA_TYPES."""

    voice: str
    format: str


@dataclass(frozen=True, slots=True)
class ChatBody:
    """One request. spoken: None for text answers; ignored: keys that mean nothing here."""

    messages: tuple[SentMessage, ...]
    spoken: SpokenOptions | None = None
    stream: bool = False
    include_usage: bool = False
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()

    def request(self, messages: tuple[Message, ...]) -> ChatRequest:
        """The backend's request, once the audio is decoded."""
        return ChatRequest(
            messages=messages,
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            stop=self.stop,
            seed=self.seed,
            options=self.options,
        )


def read_chat(body: Mapping[str, Any], deployment: Deployment, memory: SpokenHistory) -> ChatBody:
    """Raises InvalidRequest and its kin, naming the parameter."""
    _refuse_unsupported(body)
    stream = read_flag(body.get("stream"), "stream")
    decoding = _decoding_names(deployment)
    return ChatBody(
        messages=read_messages(body.get("messages"), memory.transcript),
        spoken=_spoken(body, deployment, stream=stream),
        stream=stream,
        include_usage=_include_usage(body),
        max_tokens=max_tokens(body),
        temperature=_number(body, "temperature", 2.0),
        top_p=_number(body, "top_p", 1.0),
        stop=_stops(body.get("stop")),
        seed=read_seed(body),
        options={key: body[key] for key in body if key in decoding and body[key] is not None} | read_options(body),
        ignored=tuple(key for key in body if key not in _READ | _NEUTRAL.keys() | decoding),
    )


def _decoding_names(deployment: Deployment) -> frozenset[str]:
    names = {*deployment.info.request_fields, *(f.name for f in fields(deployment.info.options))}
    return frozenset(names - _READ - _NEUTRAL.keys())


def _refuse_unsupported(body: Mapping[str, Any]) -> None:
    count = body.get("n")
    if count is not None and (isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= 128):
        raise InvalidRequest("n must be a whole number from 1 to 128.", param="n")
    if count not in (None, 1):
        raise UnsupportedParameter("n above 1 is not supported: there is one answer per request.", param="n")
    for name, neutral in _NEUTRAL.items():
        if body.get(name) is not None and body[name] not in neutral:
            raise UnsupportedParameter(f"The parameter {name} is not supported here.", param=name)


def _spoken(body: Mapping[str, Any], deployment: Deployment, *, stream: bool) -> SpokenOptions | None:
    modalities = body.get("modalities")
    if modalities is None:
        return None
    if not isinstance(modalities, list) or not modalities or not all(kind in ("text", "audio") for kind in modalities):
        raise InvalidRequest('modalities must be ["text"] or ["text", "audio"].', param="modalities")
    if "audio" not in modalities:
        return None
    if body.get("audio") is None:
        raise MissingParameter("The modality audio needs the parameter audio with voice and format.", param="audio")
    audio = as_mapping(body["audio"], "audio")
    kind = audio.get("format")
    if kind is None:
        raise MissingParameter("You must provide the format of the audio.", param="audio.format")
    if kind not in CHAT_FORMATS:
        raise InvalidRequest(f"audio.format must be one of {', '.join(CHAT_FORMATS)}.", param="audio.format")
    if stream and kind != "pcm16":
        raise UnsupportedValue("audio.format must be pcm16 when the answer is streamed.", param="audio.format")
    voice = voice_name(audio.get("voice"), "audio.voice")
    audio_deployment(deployment)
    return SpokenOptions(voice, "pcm" if kind == "pcm16" else kind)


def audio_deployment(deployment: Deployment) -> str:
    """Name of the deployment that speaks this one's answers. Raises UnsupportedValue where there is none."""
    if not deployment.audio_deployment:
        raise UnsupportedValue(
            f"The deployment {deployment.name!r} answers in text only: it has no audio_deployment configured.",
            param="modalities",
        )
    return deployment.audio_deployment


def max_tokens(body: Mapping[str, Any]) -> int | None:
    """max_completion_tokens, or its older name. Raises InvalidRequest."""
    for name in ("max_completion_tokens", "max_tokens"):
        value = body.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST_TOKENS:
            raise InvalidRequest(f"{name} must be a whole number from 1 to {MOST_TOKENS}.", param=name)
        return value
    return None


def _include_usage(body: Mapping[str, Any]) -> bool:
    options = body.get("stream_options")
    if options is None:
        return False
    return read_flag(as_mapping(options, "stream_options").get("include_usage"), "stream_options.include_usage")


def _number(body: Mapping[str, Any], name: str, high: float) -> float | None:
    return None if body.get(name) is None else checked_number(body[name], name, 0.0, high)


def _stops(value: object) -> tuple[str, ...]:
    stops = [value] if isinstance(value, str) else value
    if stops is None:
        return ()
    if (
        not isinstance(stops, list)
        or len(stops) > MOST_STOPS
        or not all(isinstance(stop, str) and stop for stop in stops)
    ):
        raise InvalidRequest(
            f"stop must be a string or a list of at most {MOST_STOPS} strings, none empty.", param="stop"
        )
    return tuple(stops)
