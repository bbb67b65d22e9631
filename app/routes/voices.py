"""Voices: what a name in a request means to a deployment, and the listings that Open WebUI asks for.

A backend's own names are known once its model was loaded; until then the backend itself judges.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from starlette.types import ASGIApp

from app.config.deployments import Deployment
from app.custom_voices import Recording, RecordingStore, voice_store
from app.errors import InvalidRequest, UnsupportedValue
from app.routes.context import Gateway, RequestContext
from app.routes.fields import DEFAULT_VOICE
from app.routes.openapi_schema import answers, array, obj, text
from app.routes.operations import LISTING_SCHEMES, MODEL_SCHEMES, Operation
from app.routes.voice_documents import VOICE_PAGE_FIELDS, page, voice_document
from backends.interface import Voice
from backends.openai_voices import OPENAI_VOICES, PLAIN_VOICE


async def backend_voice(gateway: Gateway, deployment: Deployment, name: str) -> str:
    """The backend's voice for a name in a request: configured, its own, or one of OpenAI's names mapped in a fixed
    order.

    A name that is none of these is returned as it is, for the backend to judge: some know more voices than they list.
    The id of a custom voice is judged here: a backend may go on with one that was deleted.
    Raises ApiError if the model has to be loaded for this and cannot.
    """
    if name in deployment.voices:
        return deployment.voices[name]
    if _custom_voices(gateway).is_id(name):
        await _check_custom(gateway, deployment, name)
    if name.lower() not in (*OPENAI_VOICES, DEFAULT_VOICE):
        return name
    own = await _own_voices(gateway, deployment)
    if name.lower() == DEFAULT_VOICE and DEFAULT_VOICE not in own:
        name = PLAIN_VOICE
    if not own or name.lower() in own:
        return name.lower()
    return own[OPENAI_VOICES.index(name.lower()) % len(own)]


async def fallback_voice(gateway: Gateway, deployment: Deployment, name: str) -> str:
    """The same for a deployment that answers in another's place, which need not know the other's own voices."""
    if deployment.info.clones and _custom_voices(gateway).is_id(name):
        return await backend_voice(gateway, deployment, name)
    known = {*deployment.voices, *OPENAI_VOICES, *await _own_voices(gateway, deployment)}
    return await backend_voice(gateway, deployment, name if name in known else PLAIN_VOICE)


def _custom_voices(gateway: Gateway) -> RecordingStore:
    return voice_store(gateway.settings.models_dir)


async def _check_custom(gateway: Gateway, deployment: Deployment, name: str) -> None:
    """Raises UnsupportedValue where the deployment cannot speak with custom voices, InvalidRequest for a missing
    one."""
    if not deployment.info.clones:
        raise UnsupportedValue(f"{deployment.name!r} does not speak with custom voices.", param="voice")
    if await asyncio.to_thread(_custom_voices(gateway).get, name) is None:
        raise InvalidRequest(f"There is no voice {name!r}.", param="voice")


async def _own_voices(gateway: Gateway, deployment: Deployment) -> list[str]:
    """The ids that the backend lists; its model is loaded if it never was."""
    capabilities = gateway.pool.capabilities(deployment) or await gateway.pool.load(deployment.name)
    return [voice.id for voice in capabilities.voices]


async def list_voices(context: RequestContext) -> ASGIApp:
    """The voices of one deployment (named by the path or `?model=`), or of all that speak; beside them the custom ones
    as a page of OpenAI's shape."""
    custom = await asyncio.to_thread(_custom_voices(context.gateway).all)
    seen: dict[str, dict[str, Any]] = {}
    for deployment in _asked(context):
        for voice in voices_of(context.gateway, deployment, custom):
            seen.setdefault(voice["id"], voice)
    return context.json({"voices": list(seen.values()), **page(context.query, custom, voice_document)})


async def list_speech_models(context: RequestContext) -> ASGIApp:
    """Every name that a speech request may use as its model."""
    known = context.gateway.deployments
    names = [*known, *known.aliases]
    return context.json({"models": [{"id": name} for name in names if _speaks(known.resolve(name))]})


def voices_of(gateway: Gateway, deployment: Deployment, custom: Sequence[Recording] = ()) -> Iterator[dict[str, Any]]:
    """{"id", "name"}: configured names, OpenAI's, those of `custom` where it clones, and the backend's own if its model
    was loaded once. Loads nothing.

    The backend's own voices have "languages" (BCP 47) and "licence" too, where they are known.
    """
    for name in deployment.voices:
        yield {"id": name, "name": name}
    for name in OPENAI_VOICES:
        yield {"id": name, "name": name.capitalize()}
    for one in custom if deployment.info.clones else ():
        yield {"id": one.id, "name": one.name}
    capabilities = gateway.pool.capabilities(deployment)
    for voice in capabilities.voices if capabilities is not None else ():
        if not _custom_voices(gateway).is_id(voice.id):  # what a model saw when it was loaded may be gone
            yield _document(voice)


def _document(voice: Voice) -> dict[str, Any]:
    document: dict[str, Any] = {"id": voice.id, "name": voice.name or voice.id}
    if voice.languages:
        document["languages"] = list(voice.languages)
    if voice.licence:
        document["licence"] = voice.licence
    return document


def _asked(context: RequestContext) -> list[Deployment]:
    known = context.gateway.deployments
    if context.target is not None:
        return [context.target.deployment]
    if name := context.query.get("model") or context.query.get("model_id"):
        return [context.find(name)]
    return [deployment for deployment in known.values() if _speaks(deployment)]


def _speaks(deployment: Deployment | None) -> bool:
    return deployment is not None and "speech" in deployment.tasks


def _doc(
    summary: str, key: str, fields: tuple[str, ...], more: Mapping[str, Any] | None = None, **beside: Any
) -> dict[str, Any]:
    item = obj({field: text("") for field in fields} | dict(more or {}), fields)
    return {"summary": summary, "tags": ["speech"], "responses": answers(obj({key: array(item)} | beside, (key,)))}


_OF_OWN_VOICES = {
    "languages": array(text("BCP 47 code.")),
    "licence": text("Of this voice, where it differs from its model's."),
}

# Open WebUI sends no key here; nothing is told that is worth one.
OPERATIONS = (
    Operation(
        "audio/voices",
        "GET",
        list_voices,
        access="listing",
        schemes=LISTING_SCHEMES | MODEL_SCHEMES,
        doc=_doc("Voices, as Open WebUI asks for them", "voices", ("id", "name"), _OF_OWN_VOICES, **VOICE_PAGE_FIELDS),
    ),
    Operation(
        "audio/speech/voices",
        "GET",
        list_voices,
        access="listing",
        schemes=MODEL_SCHEMES,
        doc=_doc("Voices, as clients of Speaches ask for them", "voices", ("id", "name"), _OF_OWN_VOICES),
    ),
    Operation(
        "audio/models",
        "GET",
        list_speech_models,
        access="listing",
        schemes=LISTING_SCHEMES | MODEL_SCHEMES,
        doc=_doc("Names of speech models, as Open WebUI asks for them", "models", ("id",)),
    ),
)
