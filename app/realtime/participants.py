"""Who recognizes, thinks and speaks in one session: the configured deployments, or those that the client names.

Owns these choices and what is said where one of them is missing. Runs nothing.
"""

from __future__ import annotations

from app.config.deployments import Deployment, Deployments
from app.errors import ApiError, InvalidRequest, ModelUnavailable
from app.realtime.chat import Chat, EndpointChat, LocalChat
from app.realtime.driver import AnswerMakers
from app.realtime.outputs import Plan
from app.realtime.session import Surroundings
from app.realtime.voice import SpokenAnswers, Voice
from app.routes.context import Gateway
from app.routes.transcriptions.speakers import transcriber_of
from backends.interface import Task


class Participants:
    """The choices for one session. chat: a deployment that its URL names."""

    def __init__(self, gateway: Gateway, chat: Deployment | None, *, owner: str, request_id: str) -> None:
        self._gateway, self._settings = gateway, gateway.settings.realtime
        self._named, self._owner, self._request_id = chat, owner, request_id
        self._answers = SpokenAnswers()

    def surroundings(self) -> Surroundings:
        """What the session's core must know."""
        return Surroundings(
            recognizer=self.recognizer,
            diarizer=self.diarizer,
            transcription=self._settings.transcription,
            voice=self._settings.voice,
            tools=self._asks_endpoint,
            turn_seconds=self._settings.turn_seconds,
        )

    def makers(self) -> AnswerMakers:
        return AnswerMakers(self._chat, self._voice)

    @property
    def takes_audio(self) -> bool:
        """Whether the chat side takes a user's speech as it is."""
        if self._asks_endpoint:
            return False
        found = self._named or self._gateway.deployments.resolve(self._settings.chat)
        return found is not None and found.info.chat_audio

    def recognizer(self, name: str) -> Deployment:
        """The deployment that transcribes under this name or alias. Raises InvalidRequest, and ModelUnavailable where a
        diarizer has no transcriber."""
        diarizer = self.diarizer(name)
        if diarizer is not None:
            return transcriber_of(diarizer, self._gateway.deployments)
        return self._find(name, "transcription")

    def diarizer(self, name: str) -> Deployment | None:
        """The deployment of this name that tells speakers apart; None where the name means no such one."""
        found = self._gateway.deployments.resolve(name)
        return found if found is not None and "diarization" in found.tasks else None

    @property
    def _asks_endpoint(self) -> bool:
        return self._named is None and bool(self._settings.chat_url)

    def _find(self, name: str, task: Task) -> Deployment:
        return find(self._gateway.deployments, name, task)

    def _configured(self, key: str, name: str, task: Task) -> Deployment:
        try:
            return self.recognizer(name) if task == "transcription" else self._find(name, task)
        except ApiError as error:
            raise ModelUnavailable(f"{error.message} Set realtime.{key} to a deployment that does {task}.") from error

    def _chat(self) -> Chat:
        """Raises ModelUnavailable where nobody is configured."""
        settings, pool = self._settings, self._gateway.pool
        recognizer = self._configured("transcription", settings.transcription, "transcription")
        if self._asks_endpoint:
            return EndpointChat(settings, pool, recognizer, self._owner, self._request_id)
        deployment = self._named or self._configured("chat", settings.chat, "chat")
        return LocalChat(pool, deployment, recognizer, self._owner, self._request_id)

    def _voice(self, plan: Plan) -> Voice:
        speech = self._configured("speech", self._settings.speech, "speech")
        return Voice(self._gateway, speech, plan, self._answers, owner=self._owner, request_id=self._request_id)


def find(deployments: Deployments, name: str, task: Task) -> Deployment:
    """The deployment that does `task` under this name or alias. Raises InvalidRequest."""
    found = deployments.resolve(name)
    if found is None:
        raise InvalidRequest(f"The model {name[:256]!r} does not exist here.", code="model_not_found")
    if task not in found.tasks:
        raise InvalidRequest(f"The model {name[:256]!r} does no {task}.", code="OperationNotSupported")
    return found
