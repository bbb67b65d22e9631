"""The request option that turns the reading of text on or off. The gateway and the worker both know it."""

from __future__ import annotations

from dataclasses import replace

from backends.interface import InvalidInput, SpeechRequest

OPTION = "normalize_text"  # in a request's options; a deployment has a key of that name


def wants_reading(request: SpeechRequest, default: bool) -> bool:
    """Whether the text is read as a person would. Raises InvalidInput if the option is no boolean."""
    wanted = request.options.get(OPTION, default)
    if not isinstance(wanted, bool):
        raise InvalidInput(f"options.{OPTION} must be true or false", param="options")
    return wanted


def without_reading_option(request: SpeechRequest) -> SpeechRequest:
    """The request as backends know it. Raises InvalidInput if the option is no boolean."""
    wants_reading(request, True)
    return replace(request, options={name: value for name, value in request.options.items() if name != OPTION})
