"""Small words to write OpenAPI schemas with. Knows no operation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Schema = dict[str, Any]


def text(description: str) -> Schema:
    return _plain("string", description)


def number(description: str) -> Schema:
    return _plain("number", description)


def integer(description: str) -> Schema:
    return _plain("integer", description)


def boolean(description: str) -> Schema:
    return _plain("boolean", description)


def array(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def obj(properties: Mapping[str, Schema], required: tuple[str, ...] = ()) -> Schema:
    """An object; keys that are not named are allowed."""
    schema: Schema = {"type": "object", "properties": dict(properties)}
    return schema | ({"required": list(required)} if required else {})


def schema_with(schema: Schema, **facts: Any) -> Schema:
    """The schema with further facts: enum, minimum, maximum, default ..."""
    return schema | facts


def ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def form(properties: Mapping[str, Schema], required: tuple[str, ...]) -> dict[str, Any]:
    """A multipart request body."""
    return {"required": True, "content": {"multipart/form-data": {"schema": obj(properties, required)}}}


def json_body(schema: Schema) -> dict[str, Any]:
    """A JSON request body."""
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def answers(schema: Schema, description: str = "The answer.") -> dict[str, Any]:
    """The `responses` of an operation that answers 200 with JSON."""
    return {"200": {"description": description, "content": {"application/json": {"schema": schema}}}}


def _plain(kind: str, description: str) -> Schema:
    return {"type": kind} | ({"description": description} if description else {})
