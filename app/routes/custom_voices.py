"""audio/voices and audio/voice_consents: voices made of a recording, in the shape of OpenAI's API.

Owns the checks of what is uploaded and what becomes of it. Files are `app/custom_voices.py`'s; that such a voice speaks
is the business of the backends that clone. What is said in a consent is kept, not judged.
"""

from __future__ import annotations

import asyncio
import errno
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import numpy as np
from starlette.types import ASGIApp

from app.config.deployments import Deployment
from app.custom_voices import MOST_RECORDINGS, RATE, Recording, RecordingStore, StoreFull, consent_store, voice_store
from app.errors import (
    InvalidRequest,
    MissingParameter,
    NotFound,
    OperationNotSupported,
    ServiceUnavailable,
    StorageFull,
    TooLarge,
)
from app.routes.context import RequestContext
from app.routes.fields import clean, text_field
from app.routes.multipart import Form, parse_form
from app.routes.openapi_schema import answers, boolean, obj, schema_with, text
from app.routes.operations import FORM, JSON, LISTING_SCHEMES, Operation, Scheme
from app.routes.speech.route import clip_transcript
from app.routes.voice_documents import (
    CONSENT,
    CONSENT_FORM,
    CONSENT_PAGE,
    MOST_BYTES,
    NAME_CHARACTERS,
    RENAME,
    VOICE,
    VOICE_FORM,
    Document,
    consent_document,
    page,
    voice_document,
)
from backends.interface import ASR_SAMPLE_RATE, Samples

_TRANSCRIPT_CHARACTERS = 4096
_SHORTEST, _LONGEST = 0.5, 60.0  # seconds of a clip; a deployment may take less
_CONSENT_SECONDS = 120.0
_SILENT = 1e-3  # peak amplitude below which a clip holds no speech
_LANGUAGE = re.compile(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{1,8}){0,4}")  # BCP 47, without its rarest forms
_Result = TypeVar("_Result")


# --- Voices ----------------------------------------------------------------------------------------------------------


async def create_voice(context: RequestContext) -> ASGIApp:
    """A voice of a recording and the consent of whoever speaks in it."""
    fields = _form(context)
    deployment = _cloning(context, fields.text("model"))
    if (fields.text("type") or "audio_sample") != "audio_sample":
        raise OperationNotSupported("Voices are made of an audio_sample here, not of a prompt.", param="type")
    name, consent = _name(fields.text("name")), fields.text("consent")
    if consent is None:
        raise MissingParameter("You must provide a consent: the id of a voice consent.", param="consent")
    settings = context.gateway.settings
    if await _stored(consent_store(settings.models_dir).get, consent) is None:
        raise InvalidRequest(f"There is no voice consent {consent[:64]!r}.", param="consent")
    data = _upload(fields, "audio_sample")
    context.drop_body()
    samples = _checked_clip(await _samples(context, data, "audio_sample", _LONGEST), deployment)
    context.notes += [
        f"the clip is too long for {one.name}, which clones from at most {_longest(one):g} s"
        for one in _cloners(context)
        if len(samples) / RATE > _longest(one)
    ]
    transcript = await _transcript(context, fields, deployment, data)
    add = partial(voice_store(settings.models_dir).add, name, samples, transcript=transcript, consent=consent)
    return context.json(voice_document(await _stored(add)))


def _cloning(context: RequestContext, model: str | None) -> Deployment:
    """The deployment that the voice is checked for: the form's, or the first that clones voices, configured ones before
    those that every server has."""
    known = [context.find(model)] if model else _cloners(context)
    for deployment in known:
        if deployment.info.clones:
            return deployment
    raise OperationNotSupported(
        f"The deployment {model!r} does not clone voices." if model else "No deployment of this server clones voices.",
        param="model" if model else None,
    )


def _cloners(context: RequestContext) -> list[Deployment]:
    known = [one for one in context.gateway.deployments.values() if one.info.clones]
    return sorted(known, key=lambda one: one.builtin)


def _longest(deployment: Deployment) -> float:
    """Seconds of a clip that the deployment clones from."""
    return float(deployment.options.get("reference_seconds", _LONGEST))


def _checked_clip(samples: Samples, deployment: Deployment) -> Samples:
    seconds, longest = len(samples) / RATE, _longest(deployment)
    if not _SHORTEST <= seconds <= longest:
        raise InvalidRequest(
            f"The audio_sample is {seconds:.1f} s long; {deployment.name!r} clones from {_SHORTEST} to {longest:g} s.",
            param="audio_sample",
            code="audio_too_short" if seconds < _SHORTEST else None,
        )
    if np.abs(samples).max() < _SILENT:
        raise InvalidRequest("The audio_sample is silent.", param="audio_sample")
    return samples


async def _transcript(context: RequestContext, fields: Form, deployment: Deployment, data: bytes) -> str:
    """What the clip says: as sent, or as a transcription deployment writes it down."""
    sent = clean(
        text_field({"reference_text": fields.text("reference_text")}, "reference_text", _TRANSCRIPT_CHARACTERS)
    )
    if sent.strip():
        return sent.strip()
    recognizer = _recognizer(context, deployment)
    if recognizer is None:
        raise InvalidRequest("The audio_sample needs its transcript: send reference_text.", param="reference_text")
    speech = await _samples(context, data, "audio_sample", _LONGEST, ASR_SAMPLE_RATE)
    written = await clip_transcript(context, recognizer, speech)
    if not written:
        raise InvalidRequest(f"{recognizer.name!r} found no words in the audio_sample.", param="audio_sample")
    context.notes.append(f"the transcript of the clip was written by {recognizer.name}; reference_text sends a better")
    return written


def _recognizer(context: RequestContext, deployment: Deployment) -> Deployment | None:
    """The deployment's own, or the one that live audio goes to."""
    gateway = context.gateway
    own = str(deployment.options.get("transcription_deployment", ""))
    found = gateway.deployments.resolve(own or gateway.settings.realtime.transcription)
    return found if found is not None and "transcription" in found.tasks else None


# --- Consents --------------------------------------------------------------------------------------------------------


async def create_consent(context: RequestContext) -> ASGIApp:
    """A recording in which somebody consents to a voice of his own."""
    fields = _form(context)
    _cloning(context, None)
    name, language = _name(fields.text("name")), fields.text("language")
    if language is None:
        raise MissingParameter("You must provide the language of the consent, such as en-US.", param="language")
    if not _LANGUAGE.fullmatch(language):
        raise InvalidRequest(f"language must be a BCP 47 tag such as en-US, not {language[:40]!r}.", param="language")
    data = _upload(fields, "recording")
    context.drop_body()
    samples = await _samples(context, data, "recording", _CONSENT_SECONDS)
    add = partial(consent_store(context.gateway.settings.models_dir).add, name, samples, language=language)
    return context.json(consent_document(await _stored(add)))


async def list_consents(context: RequestContext) -> ASGIApp:
    recordings = await _stored(consent_store(context.gateway.settings.models_dir).all)
    return context.json(page(context.query, recordings, consent_document))


# --- Both ------------------------------------------------------------------------------------------------------------


class _Kind:
    """The operations on one recording of a kind."""

    def __init__(self, make_store: Callable[..., RecordingStore], document: Document, what: str, deleted: str) -> None:
        self._make_store, self._document, self._what, self._deleted = make_store, document, what, deleted

    async def retrieve(self, context: RequestContext) -> ASGIApp:
        return context.json(
            self._document(self._found(context, await _stored(self._store(context).get, context.parameter)))
        )

    async def update(self, context: RequestContext) -> ASGIApp:
        """Another name."""
        form = context.content_type.lower().startswith(FORM)
        name = _name(_form(context).text("name") if form else context.json_body().get("name"))
        renamed = await _stored(self._store(context).rename, context.parameter, name)
        return context.json(self._document(self._found(context, renamed)))

    async def delete(self, context: RequestContext) -> ASGIApp:
        if not await _stored(self._store(context).remove, context.parameter):
            self._found(context, None)
        return context.json({"id": context.parameter, "object": self._deleted, "deleted": True})

    def _store(self, context: RequestContext) -> RecordingStore:
        return self._make_store(context.gateway.settings.models_dir)

    def _found(self, context: RequestContext, recording: Recording | None) -> Recording:
        if recording is None:
            raise NotFound(f"There is no {self._what} {context.parameter[:64]!r}.")
        return recording


_VOICES = _Kind(voice_store, voice_document, "voice", "audio.voice.deleted")
_CONSENTS = _Kind(consent_store, consent_document, "voice consent", "audio.voice_consent")


def _form(context: RequestContext) -> Form:
    return parse_form(context.content_type, context.body, context.gateway.settings.limits.form_fields)


def _name(given: object) -> str:
    if given is None or given == "":
        raise MissingParameter("You must provide a name.", param="name")
    name = " ".join(clean(text_field({"name": given}, "name", NAME_CHARACTERS)).split())
    if not name:
        raise InvalidRequest("The name is blank.", param="name")
    return name


def _upload(fields: Form, param: str) -> bytes:
    data = fields.file(param).data
    if len(data) > MOST_BYTES:
        raise TooLarge(f"The {param} has {len(data)} bytes; at most {MOST_BYTES} are allowed.", param=param)
    return bytes(data)


async def _samples(context: RequestContext, data: bytes, param: str, longest: float, rate: int = RATE) -> Samples:
    with context.stage("decode"):
        decoded = await context.gateway.media.decode(data, rate=rate, param=param, max_seconds=longest)
        context.keep(decoded)
    if not len(decoded.samples):
        raise InvalidRequest(f"The {param} is too short.", param=param, code="audio_too_short")
    return decoded.samples


async def _stored(work: Callable[..., _Result], *arguments: str) -> _Result:
    """What the store gives, in a thread. Raises ApiError for a disk that is full or not writable."""
    with _disk_errors():
        return await asyncio.to_thread(work, *arguments)


@contextmanager
def _disk_errors() -> Iterator[None]:
    try:
        yield
    except StoreFull:
        raise InvalidRequest(f"There are {MOST_RECORDINGS} of them; delete one first.") from None
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise StorageFull("The disk for voices is full.") from error
        reason = error.strerror or type(error).__name__
        raise ServiceUnavailable(f"The folder for voices cannot be used: {reason}.", should_retry=False) from error


# --- Operations ------------------------------------------------------------------------------------------------------

_SCHEMES = LISTING_SCHEMES - {Scheme.AZURE}


def _doc(summary: str, answer: Mapping[str, Any], body: Mapping[str, Any] | None = None) -> dict[str, Any]:
    document = {"summary": summary, "tags": ["speech"], "responses": answers(dict(answer))}
    return document | ({"requestBody": dict(body)} if body else {})


def _single(path: str, kind: _Kind, what: str, schema: Mapping[str, Any], deleted: str) -> tuple[Operation, ...]:
    """Retrieve, rename and delete."""
    gone = obj(
        {"id": text(""), "object": schema_with(text(""), enum=[deleted]), "deleted": boolean("")},
        ("id", "object", "deleted"),
    )
    operation = partial(Operation, path, schemes=_SCHEMES)
    return (
        operation("GET", kind.retrieve, doc=_doc(f"One {what}", schema)),
        operation(
            "POST",
            kind.update,
            access="admin",
            consumes=(JSON, FORM),
            doc=_doc(f"Rename a {what} (admin key)", schema, RENAME),
        ),
        operation("DELETE", kind.delete, access="admin", doc=_doc(f"Delete a {what} (admin key)", gone)),
    )


OPERATIONS = (
    Operation(
        "audio/voices",
        "POST",
        create_voice,
        access="admin",
        schemes=_SCHEMES,
        consumes=(FORM,),
        doc=_doc("Make a voice of a recording (admin key)", VOICE, VOICE_FORM),
    ),
    *_single("audio/voices/{voice_id}", _VOICES, "voice", VOICE, "audio.voice.deleted"),
    Operation(
        "audio/voice_consents",
        "GET",
        list_consents,
        schemes=_SCHEMES,
        doc=_doc("Consents to voices", CONSENT_PAGE),
    ),
    Operation(
        "audio/voice_consents",
        "POST",
        create_consent,
        access="admin",
        schemes=_SCHEMES,
        consumes=(FORM,),
        doc=_doc("Keep a consent to a voice (admin key)", CONSENT, CONSENT_FORM),
    ),
    *_single("audio/voice_consents/{consent_id}", _CONSENTS, "voice consent", CONSENT, "audio.voice_consent"),
)
