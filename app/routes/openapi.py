"""The OpenAPI 3.1 document, built from the table of operations: every operation under every scheme that serves it.

Owns paths, parameters, security and the error answers that all operations share. What each operation takes and gives is
written beside it.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterable, Iterator
from typing import Any

import app.routes
from app import VERSION
from app.http.versions import DATED, V1
from app.routes.openapi_schema import Schema, obj, ref, schema_with, text
from app.routes.operations import Operation, Scheme

_NULLABLE: Schema = {"type": ["string", "null"]}
_ERROR = obj(
    {
        "error": obj(
            {
                "code": _NULLABLE,
                "message": text(""),
                "type": text(""),
                "param": _NULLABLE,
                "innererror": {"type": "object"},
            },
            ("code", "message", "type", "param"),
        )
    },
    ("error",),
)
_STATUSES = {
    "400": "The request is wrong, or not for this deployment.",
    "401": "No key, or not a valid one.",
    "403": "Not allowed with this key or from this page.",
    "404": "No such deployment, model or api-version.",
    "405": "Not with this method.",
    "408": "The upload took too long.",
    "413": "The body is too large.",
    "429": "The predicted wait is too long; retry-after says when to try again.",
    "500": "A defect of the server.",
    "503": "The deployment cannot run now, or the server is shutting down.",
}
_SECURITY = {
    "apiKey": {"type": "apiKey", "in": "header", "name": "api-key"},
    "bearer": {"type": "http", "scheme": "bearer"},
    "subscriptionKey": {"type": "apiKey", "in": "header", "name": "Ocp-Apim-Subscription-Key"},
    "subscriptionQuery": {"type": "apiKey", "in": "query", "name": "subscription-key"},
}


def document(operations: Iterable[Operation]) -> dict[str, Any]:
    """The whole document of these operations, ready for JSON."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        for scheme in sorted(operation.schemes):
            paths.setdefault(scheme.prefix + operation.path, {})[operation.method.lower()] = _operation(
                operation, scheme
            )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Speech gateway",
            "version": VERSION,
            "description": "A local server for Azure OpenAI's audio API and its plain OpenAI form.",
        },
        "paths": paths,
        "components": {"schemas": {"Error": _ERROR, **_schemas()}, "securitySchemes": _SECURITY},
    }


def _operation(operation: Operation, scheme: Scheme) -> dict[str, Any]:
    doc = dict(operation.doc)
    name = re.sub(r"[^a-z0-9]+", "_", operation.path.lower()).strip("_") or "index"
    doc["operationId"] = f"{name}_{operation.method.lower()}_{scheme.replace('-', '_')}"
    doc["tags"] = [scheme.value]
    doc["parameters"] = [*_parameters(operation, scheme), *operation.doc.get("parameters", ())]
    doc["responses"] = dict(operation.doc.get("responses", {})) | dict(_errors(operation))
    doc["security"] = [] if operation.access == "public" else [{name: []} for name in _SECURITY]
    return doc


def _parameters(operation: Operation, scheme: Scheme) -> Iterator[dict[str, Any]]:
    for name in re.findall(r"{(\w+)}", scheme.prefix + operation.path):
        yield {"name": name, "in": "path", "required": True, "schema": schema_with(text(""), minLength=1)}
    if scheme.dated:
        yield {
            "name": "api-version",
            "in": "query",
            "required": True,
            "schema": schema_with(text(""), enum=sorted(DATED)),
        }
    elif scheme is Scheme.AZURE_V1:
        yield {"name": "api-version", "in": "query", "schema": schema_with(text(""), enum=sorted(V1 | DATED))}


def _errors(operation: Operation) -> Iterator[tuple[str, Any]]:
    for status, description in _STATUSES.items():
        if status not in operation.doc.get("responses", {}):
            yield status, {"description": description, "content": {"application/json": {"schema": ref("Error")}}}


def _schemas() -> dict[str, Schema]:
    """The named schemas (SCHEMAS) of every module beside the routes that has some."""
    schemas: dict[str, Schema] = {}
    for module in sorted(module.name for module in pkgutil.walk_packages(app.routes.__path__, "app.routes.")):
        schemas |= getattr(importlib.import_module(module), "SCHEMAS", {})
    return schemas
