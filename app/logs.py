"""Structured logs on stderr: JSON lines for machines, readable lines for people.

Knows no event's meaning. What is logged never holds audio, texts or keys; callers pass ids, names, sizes and times
only.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, MutableMapping
from typing import Any

import msgspec
import structlog

from app.config.settings import LogSettings
from app.errors import shortened

_SHARED: tuple[Callable[..., Any], ...] = (
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
)
_SECRET = ("key", "authorization", "token", "secret")


def configure(settings: LogSettings) -> None:
    """Set up structlog and the standard library's logging, whose lines look the same."""
    renderer = _renderer(settings.format)
    level = getattr(logging, settings.level.upper())
    structlog.configure(
        processors=[*_SHARED, _without_secrets, _shortened, structlog.processors.format_exc_info, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
            foreign_pre_chain=list(_SHARED),
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(level, logging.INFO))
    logging.getLogger("uvicorn.access").disabled = True  # our own line has the request id and no query string
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)  # the banner and our own lines tell of start and stop


def _renderer(form: str) -> Callable[..., Any]:
    if form == "json" or (form == "auto" and not sys.stderr.isatty()):
        return structlog.processors.JSONRenderer(serializer=_to_json)
    return structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty() and sys.platform != "win32", pad_event_to=18)


def _to_json(event: Any, **_: Any) -> str:
    return msgspec.json.encode(event, enc_hook=str).decode("utf-8")


def _shortened(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Shorten values that clients, models or files chose."""
    for name, value in event.items():
        if isinstance(value, str):
            event[name] = shortened(value)
    return event


def _without_secrets(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Hide every field that is named like a secret."""
    for name in event:
        if any(part in name.lower() for part in _SECRET):
            event[name] = "(hidden)"
    return event
