"""What a realtime session is set to: its document as clients see it, and how an update changes it.

Owns the GA shape, its defaults, and the rule that an update is a deep merge: absent keeps, null switches off, [] and ""
clear. An update is taken whole or not at all. Knows no socket and no model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from app.config.deployments import Deployment
from app.errors import ApiError, InvalidRequest, UnsupportedParameter
from app.realtime.fields import (
    DEFAULT_TURNS,
    EAGERNESS,
    INPUT_FIELDS,
    OUTPUT_FIELDS,
    SHARED_FIELDS,
    SPEECH_FIELDS,
    copied,
    merged,
)
from app.realtime.formats import AudioFormat, read_format
from backends.languages import language_code
from backends.live import LiveRequest, TurnDetection
from backends.openai_voices import PLAIN_VOICE

Kind = Literal["realtime", "transcription"]
LOGPROBS = "item.input_audio_transcription.logprobs"
# Names of models that upstream write while audio comes and have no turn detection: their clients commit each turn.
STREAMING_MODELS = ("gpt-realtime-whisper", "gpt-live-transcribe")
_OF_ANSWERS = ("create_response", "interrupt_response", "idle_timeout_ms")  # in turn_detection


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a session must know of the server.

    recognizer: the deployment of a transcription model's name, raising ApiError; diarizer: the one of that name that
    tells speakers apart, None for other names; transcription, voice: names where the client gives none; tools: whether
    the chat side can call functions; turn_seconds: longest turn.
    """

    recognizer: Callable[[str], Deployment]
    diarizer: Callable[[str], Deployment | None] = lambda name: None
    transcription: str = "whisper-1"
    voice: str = PLAIN_VOICE
    tools: bool = False
    turn_seconds: float = 300.0


class Session:
    """One session's settings."""

    def __init__(self, kind: Kind, identity: str, model: str, expires_at: int, surroundings: Surroundings) -> None:
        """model: as the URL names it; of a transcription session, the transcription model ("": the default)."""
        self.kind, self.identity = kind, identity
        self._model, self._expires_at, self._surroundings = model, expires_at, surroundings
        self._turns_chosen = False
        self.fields: dict[str, Any] = _defaults(kind, model or surroundings.transcription, surroundings)
        self._settle_turns()

    def update(self, given: Mapping[str, Any], *, spoken: bool = False) -> None:
        """Merge a client's session. spoken: audio was sent, so that the voice stays. Raises ApiError, with nothing
        changed."""
        kind = given.get("type", self.kind)
        if kind != self.kind:
            raise InvalidRequest(
                f"Passing a {kind} session update event to a {self.kind} session is not allowed.", param="session.type"
            )
        known = SHARED_FIELDS | (SPEECH_FIELDS if self.kind == "realtime" else {})
        audio = {"input": INPUT_FIELDS} | ({"output": OUTPUT_FIELDS} if self.kind == "realtime" else {})
        fields = merged(copied(self.fields), given, known | {"audio": audio}, "session")
        self._check(fields, spoken)
        self.fields = fields
        self._turns_chosen = self._turns_chosen or _gives_turns(given)
        self._settle_turns()

    def document(self) -> dict[str, Any]:
        """The whole session, as it is in effect."""
        name = "realtime.session" if self.kind == "realtime" else "realtime.transcription_session"
        head = {"type": self.kind, "object": name, "id": self.identity, "expires_at": self._expires_at}
        if self.kind == "realtime":
            head["model"] = self._model
        fields = copied(self.fields)
        unshown = (EAGERNESS, *(_OF_ANSWERS if self.kind == "transcription" else ()))
        if self.turns is not None:
            shown = {name: value for name, value in self.turns.items() if name not in unshown}
            fields["audio"]["input"]["turn_detection"] = shown
        return head | fields

    # --- What the settings mean ---------------------------------------------------------------------------------------

    @property
    def input(self) -> dict[str, Any]:
        found: dict[str, Any] = self.fields["audio"]["input"]
        return found

    @property
    def input_format(self) -> AudioFormat:
        return read_format(self.input["format"], "session.audio.input.format")

    @property
    def turns(self) -> dict[str, Any] | None:
        """turn_detection; None where the client commits."""
        found: dict[str, Any] | None = self.input["turn_detection"]
        return found

    @property
    def transcribes(self) -> bool:
        """Whether the client is told what was said."""
        return self.kind == "transcription" or self.input["transcription"] is not None

    @property
    def logprobs(self) -> bool:
        return LOGPROBS in (self.fields.get("include") or ())

    @property
    def recognizer(self) -> Deployment:
        """The deployment that writes down what is said. Raises ApiError."""
        chosen = (self.input["transcription"] or {}).get("model")
        return self._surroundings.recognizer(chosen or self._surroundings.transcription)

    @property
    def diarizer(self) -> Deployment | None:
        """The deployment that tells speakers apart, if that is asked for."""
        chosen = (self.input["transcription"] or {}).get("model")
        return self._surroundings.diarizer(chosen) if chosen else None

    def live_request(self) -> LiveRequest:
        """What the recognizer is told."""
        wanted = self.input["transcription"] or {}
        turns = self.turns
        detection = turns and TurnDetection(
            turns["threshold"], turns["prefix_padding_ms"], turns["silence_duration_ms"]
        )
        language, languages = _languages(wanted)
        return LiveRequest(
            language=language,
            languages=languages,
            prompt=wanted.get("prompt") or "",
            keywords=tuple(wanted.get("keywords") or ()),
            logprobs=self.logprobs,
            words=self.diarizer is not None and self.recognizer.info.words,
            turn_detection=detection or None,
            max_turn_seconds=self._surroundings.turn_seconds,
        )

    # --- Updates ------------------------------------------------------------------------------------------------------

    def _check(self, fields: dict[str, Any], spoken: bool) -> None:
        """What one field alone does not tell."""
        wanted = fields["audio"]["input"]["transcription"]
        if wanted is not None and wanted.get("model"):
            try:
                deployment = self._surroundings.recognizer(wanted["model"])
            except ApiError as error:
                error.param = "session.audio.input.transcription.model"
                raise
            diarizer = self._surroundings.diarizer(wanted["model"])
            if diarizer is not None and (wanted.get("prompt") or wanted.get("keywords")):
                raise UnsupportedParameter(
                    f"prompt and keywords are not supported by the model {diarizer.name!r}.",
                    param="session.audio.input.transcription.prompt",
                )
            if diarizer is not None or not deployment.info.logprobs:
                fields["include"] = None  # reported truly: there will be none
        if self.kind != "realtime":
            return
        if fields["tools"] and not self._surroundings.tools:
            raise InvalidRequest(
                "The chat deployment of this server calls no functions: set realtime.chat_url to one that does.",
                param="session.tools",
                code="unsupported_value",
            )
        if spoken and fields["audio"]["output"]["voice"] != self.fields["audio"]["output"]["voice"]:
            raise InvalidRequest(
                "The voice cannot be changed once the session has spoken.",
                param="session.audio.output.voice",
                code="cannot_update_voice",
            )

    def _settle_turns(self) -> None:
        """A streaming model's name means that the client commits, unless it has said otherwise."""
        if self.kind != "transcription" or self._turns_chosen:
            return
        streams = (self.input["transcription"] or {}).get("model", "").startswith(STREAMING_MODELS)
        self.input["turn_detection"] = None if streams else dict(DEFAULT_TURNS)


def _defaults(kind: Kind, model: str, surroundings: Surroundings) -> dict[str, Any]:
    audio: dict[str, Any] = {
        "input": {
            "format": AudioFormat().document(),
            "transcription": {"model": model} if kind == "transcription" else None,
            "noise_reduction": None,
            "turn_detection": dict(DEFAULT_TURNS),
        }
    }
    if kind == "transcription":
        return {"include": None, "audio": audio}
    audio["output"] = {"format": AudioFormat().document(), "voice": surroundings.voice, "speed": 1.0}
    return {
        "output_modalities": ["audio"],
        "instructions": "",
        "tools": [],
        "tool_choice": "auto",
        "max_output_tokens": "inf",
        "parallel_tool_calls": True,
        "reasoning": None,
        "prompt": None,
        "tracing": None,
        "truncation": "auto",
        "include": None,
        "audio": audio,
    }


def _gives_turns(given: Mapping[str, Any]) -> bool:
    audio = given.get("audio")
    inputs = audio.get("input") if isinstance(audio, Mapping) else None
    return isinstance(inputs, Mapping) and "turn_detection" in inputs


def _languages(wanted: Mapping[str, Any]) -> tuple[str | None, tuple[str, ...]]:
    """The language, None to detect it, and those among which it is detected. One that is named counts alone: an update
    sets it beside languages of an earlier one."""
    named = [wanted["language"]] if wanted.get("language") else wanted.get("languages") or []
    codes = tuple(dict.fromkeys(code for text in named if (code := language_code(text)) is not None))
    return (codes[0], ()) if len(codes) == 1 else (None, codes)
