"""Answers calls that the page cannot understand, which Gradio would call internal errors.

Knows where Gradio looks a function up and where it takes a call into its queue, and no function of ours.
"""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount

if TYPE_CHECKING:
    from fastapi import FastAPI

_LOOKUP = "get_fn"  # of gradio.route_utils: a number or a name in, a function of the page out


def refuse_unknown(host: FastAPI, path: str) -> None:
    """Let the Gradio app that is mounted at `path` answer 404 for a function that is not there, and 422 for a body of
    another shape."""
    from fastapi.exceptions import RequestValidationError
    from gradio.route_utils import FnIndexInferError

    handlers = {FnIndexInferError: _no_function, KeyError: _no_function, RequestValidationError: _wrong_shape}
    for route in host.routes:
        if isinstance(route, Mount) and route.path == path:
            for kind, handler in handlers.items():
                route.app.add_exception_handler(kind, handler)  # type: ignore[attr-defined]  # a FastAPI


def check_calls(blocks: Any) -> None:
    """Let the queue of a page (gradio.Blocks) refuse a call with too few values, of which Gradio would print a
    traceback, and give one with an empty session's name one of its own, which Gradio would lose."""
    push = blocks._queue.push

    async def checked_push(body: Any, request: Any, username: str | None) -> tuple[bool, Any, str]:
        function = blocks.fns.get(body.fn_index)
        if function is not None and len(body.data) < len(function.inputs):
            return False, f"The call needs {len(function.inputs)} values, not {len(body.data)}.", "validator_error"
        body.session_hash = body.session_hash or None
        answer: tuple[bool, Any, str] = await push(body=body, request=request, username=username)
        return answer

    blocks._queue.push = checked_push


async def _wrong_shape(_: Request, error: Exception) -> Response:
    """FastAPI's own answer repeats the body, and fails where that is no text."""
    problems: list[dict[str, object]] = [*getattr(error, "errors", list)()]
    return JSONResponse({"detail": [{key: one.get(key) for key in ("type", "loc", "msg")} for one in problems]}, 422)


async def _no_function(_: Request, error: Exception) -> Response:
    """Raises `error` again where it comes from elsewhere."""
    if not any(frame.name == _LOOKUP for frame in traceback.extract_tb(error.__traceback__)[-2:]):
        raise error
    return JSONResponse({"detail": "This page has no such function."}, 404)
