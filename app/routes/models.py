"""What can be asked for: the listings of models and deployments, under every scheme.

One shape holds the fields of Azure's and OpenAI's listings, because clients of either read it. Starts nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.types import ASGIApp

from app.config.deployments import Deployment
from app.routes.context import RequestContext
from app.routes.openapi_schema import answers, array, boolean, integer, obj, ref, schema_with, text
from app.routes.operations import LISTING_SCHEMES, Operation, Scheme

CREATED = 1_730_000_000  # Unix time; fixed, so that a listing is the same after every start
_OWNER = "speech-gateway"

_MODEL_FIELDS = {
    "id": text(""),
    "object": schema_with(text(""), enum=["model"]),
    "created": integer("Unix time."),
    "created_at": integer("Unix time."),
    "owned_by": text(""),
    "status": text(""),
    "lifecycle_status": text(""),
    "capabilities": obj({"inference": boolean(""), "transcription": boolean(""), "speech": boolean("")}),
    "deprecation": obj({"inference": {"type": ["integer", "null"]}}),
}
_DEPLOYMENT_FIELDS = {
    "id": text("Name to use in paths."),
    "model": text("What it serves."),
    "object": schema_with(text(""), enum=["deployment"]),
    "status": text(""),
    "owner": text(""),
    "created_at": integer("Unix time."),
    "updated_at": integer("Unix time."),
    "scale_settings": obj({"scale_type": text("")}),
}
SCHEMAS = {
    "Model": obj(_MODEL_FIELDS, tuple(_MODEL_FIELDS)),
    "ModelList": obj({"object": text(""), "data": array(ref("Model"))}, ("object", "data")),
    "Deployment": obj(_DEPLOYMENT_FIELDS, tuple(_DEPLOYMENT_FIELDS)),
    "DeploymentList": obj({"object": text(""), "data": array(ref("Deployment"))}, ("object", "data")),
}


async def list_models(context: RequestContext) -> ASGIApp:
    """Every name that requests may use, aliases included."""
    return _listed(context, _model)


async def get_model(context: RequestContext) -> ASGIApp:
    return _named(context, _model)


async def list_deployments(context: RequestContext) -> ASGIApp:
    return _listed(context, _deployment)


async def get_deployment(context: RequestContext) -> ASGIApp:
    return _named(context, _deployment)


_Document = Callable[[str, Deployment], dict[str, Any]]


def _listed(context: RequestContext, document: _Document) -> ASGIApp:
    known = context.gateway.deployments
    names = {**{name: name for name in known}, **known.aliases}
    return context.json({"object": "list", "data": [document(name, known[real]) for name, real in names.items()]})


def _named(context: RequestContext, document: _Document) -> ASGIApp:
    return context.json(document(context.parameter, context.find(context.parameter)))


def _model(name: str, deployment: Deployment) -> dict[str, Any]:
    tasks = deployment.tasks
    return {
        "id": name,
        "object": "model",
        "created": CREATED,
        "created_at": CREATED,
        "owned_by": _OWNER,
        "status": "succeeded",
        "lifecycle_status": "generally-available",
        "capabilities": {
            "fine_tune": False,
            "inference": True,
            "completion": False,
            "embeddings": False,
            "chat_completion": "chat" in tasks,
            "transcription": "transcription" in tasks,
            "speech": "speech" in tasks,
        },
        "deprecation": {"inference": None},
    }


def _deployment(name: str, deployment: Deployment) -> dict[str, Any]:
    return {
        "id": name,
        "model": deployment.model or deployment.info.name,
        "object": "deployment",
        "status": "succeeded",
        "owner": "organization-owner",
        "created_at": CREATED,
        "updated_at": CREATED,
        "scale_settings": {"scale_type": "standard"},
    }


_RESOURCE = frozenset({Scheme.RESOURCE})
OPERATIONS = (
    Operation(
        "models",
        "GET",
        list_models,
        access="listing",
        schemes=LISTING_SCHEMES,
        doc={"summary": "List what can be asked for", "responses": answers(ref("ModelList"))},
    ),
    Operation(
        "models/{model}",
        "GET",
        get_model,
        access="listing",
        schemes=LISTING_SCHEMES - {Scheme.AZURE},
        doc={"summary": "One model", "responses": answers(ref("Model"))},
    ),
    Operation(
        "deployments",
        "GET",
        list_deployments,
        schemes=_RESOURCE,
        doc={"summary": "List deployments, as older Azure tools do", "responses": answers(ref("DeploymentList"))},
    ),
    Operation(
        "deployments/{deployment}",
        "GET",
        get_deployment,
        schemes=_RESOURCE,
        doc={"summary": "One deployment", "responses": answers(ref("Deployment"))},
    ),
)
