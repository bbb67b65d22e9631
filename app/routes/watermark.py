"""POST audio/watermark/detect: whether speech carries the mark of this installation. For the administrator.

POST content_provenance_checks is the same in the shape of OpenAI's API, whose only name for a watermark is SynthID.

Owns the way of an upload to the detector, which is a short-lived process of the CSM backend: it needs torch and the
mark's networks, and neither a loaded model nor a worker.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from starlette.types import ASGIApp

from app.config.deployments import Deployment
from app.errors import (
    ApiError,
    InvalidRequest,
    ModelUnavailable,
    OperationNotSupported,
    ServiceUnavailable,
    from_failure,
)
from app.routes.context import RequestContext
from app.routes.multipart import parse_form
from app.routes.openapi_schema import answers, array, form, integer, number, obj, schema_with, text
from app.routes.operations import FORM, Operation
from app.serving.detector import DetectorChild, detector_child, marking
from app.serving.requirements import install_command
from app.temp_folders import TempFolder
from backends import children
from backends.interface import Failed, Samples

RATE = 44_100  # Hz, what the mark's networks hear
LONGEST_SECONDS = 600.0  # of an upload
_PATIENCE_SECONDS = 300.0
_MARK = "silentcipher"
_NOTE = "the watermark looked for is this installation's SilentCipher; synthid is the contract's word for a watermark"


async def detect(context: RequestContext) -> ASGIApp:
    """The whole way of one upload. "too short" is an answer, and another one than "not found"."""
    return context.json(await _looked_for(context))


async def check_provenance(context: RequestContext) -> ASGIApp:
    """The same upload; what is too short to be judged is not detected, and a note says so."""
    answer = await _looked_for(context)
    context.notes.append(_NOTE)
    if answer["status"] == "too short":
        context.notes.append("the audio is too short to look for a watermark in it")
    return context.json(provenance(answer, int(time.time())))


def provenance(answer: Mapping[str, Any], created_at: int) -> dict[str, Any]:
    """The detector's document as a content provenance check; created_at: Unix time."""
    detected = answer["status"] == "found" and bool(answer.get("ours"))
    result = {"type": "synthid", "watermark": _MARK, "outcome": "detected" if detected else "not_detected"}
    return {"object": "content_provenance_check", "created_at": created_at, "results": [result]}


async def _looked_for(context: RequestContext) -> dict[str, Any]:
    fields = parse_form(context.content_type, context.body, context.gateway.settings.limits.form_fields)
    deployment = _marking(context, fields.text("model"))
    upload = bytes(fields.file("file").data)
    with context.stage("decode"):
        decoded = await context.gateway.media.decode(upload, rate=RATE, max_seconds=LONGEST_SECONDS)
        context.keep(decoded)
    context.drop_body()
    samples = context.stack.enter_context(TempFolder("mark")).path / "samples.npy"
    await asyncio.to_thread(_save, samples, decoded.samples)
    with context.stage("model"):
        answer = await _run(detector_child(deployment, context.gateway.settings.models_dir, samples, rate=RATE))
    return {**answer, "duration": round(decoded.duration, 3)}


def _save(path: Path, samples: Samples) -> None:
    np.save(path, samples, allow_pickle=False)


def _marking(context: RequestContext, model: str | None) -> Deployment:
    """The deployment whose mark is sought: the path's, the form's, or the first that marks and has the networks for
    it."""
    if name := context.target.name if context.target else model:
        deployment = context.find(name)
        if "watermark_model" not in deployment.options:
            raise OperationNotSupported(f"The deployment {name!r} does not mark its speech.", param="model")
        return deployment
    for deployment in marking(context.gateway.deployments.values(), context.gateway.settings.models_dir):
        return deployment
    raise ModelUnavailable("No deployment of this server marks its speech.", should_retry=False)


async def _run(child: DetectorChild) -> dict[str, Any]:
    """The detector's document. Raises ApiError; leaves no process behind."""
    try:
        done = await children.run_async(child.command, child.environment, seconds=_PATIENCE_SECONDS, stdin=child.stdin)
    except TimeoutError:
        raise ServiceUnavailable("The search for the watermark took too long.", should_retry=False) from None
    return _answer(done.stdout)


def _answer(output: bytes) -> dict[str, Any]:
    """The document on the last line. A detector that cannot even start lacks its libraries."""
    try:
        document = msgspec.json.decode(output.strip().rsplit(b"\n", 1)[-1], type=dict[str, Any])
    except msgspec.DecodeError:
        raise ModelUnavailable(
            "The watermark detector cannot run: its libraries are missing. Install them with: "
            f"{install_command('torch')}.",
            should_retry=False,
        ) from None
    if "error" in document:
        raise _failure(str(document.get("kind", "")), str(document["error"]))
    return document


def _failure(kind: str, message: str) -> ApiError:
    if kind == "invalid_input":
        return InvalidRequest(message, param="file")
    return from_failure(Failed(kind, message))


_FOUND = obj(
    {
        "status": schema_with(text(""), enum=["found", "not found", "too short"]),
        "message": array(integer("One byte of the hidden message.")),
        "confidence": number("Share of agreeing symbols."),
        "ours": {"type": "boolean", "description": "The message is this installation's key."},
        "duration": number("Seconds."),
    },
    ("status", "message", "confidence"),
)
_DOC: dict[str, Any] = {
    "summary": "Look for the watermark in speech (admin key)",
    "tags": ["speech"],
    "requestBody": form(
        {"file": {"type": "string", "format": "binary"}, "model": text("A deployment that marks its speech.")},
        ("file",),
    ),
    "responses": answers(_FOUND),
}

_CHECKED = obj(
    {
        "object": schema_with(text(""), enum=["content_provenance_check"]),
        "created_at": integer("Unix time."),
        "results": array(
            obj(
                {
                    "type": schema_with(text("The contract's word for a watermark."), enum=["synthid"]),
                    "watermark": schema_with(text("What it really is."), enum=[_MARK]),
                    "outcome": schema_with(text("Of this installation's mark."), enum=["detected", "not_detected"]),
                },
                ("type", "watermark", "outcome"),
            )
        ),
    },
    ("object", "created_at", "results"),
)

OPERATIONS = (
    Operation("audio/watermark/detect", "POST", detect, access="admin", consumes=(FORM,), doc=_DOC),
    Operation(
        "content_provenance_checks",
        "POST",
        check_provenance,
        access="admin",
        consumes=(FORM,),
        doc={
            "summary": "Look for this installation's watermark in audio (admin key)",
            "tags": ["speech"],
            "requestBody": _DOC["requestBody"],
            "responses": answers(_CHECKED),
        },
    ),
)
