"""The generation options of one request: the deployment's, overridden by the request's own, and checked.

Knows names, types and ranges, and nothing of tensors, prompts or audio: the gateway may refuse a request by it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from backends.interface import InvalidInput, Request, SpeechRequest
from backends.llasa.info import LlasaOptions


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """temperature 0 = greedy; top_k 0 = off; top_p 1 = off; repetition_penalty 1 = off."""

    temperature: float = 0.8
    top_k: int = 50
    top_p: float = 1.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        """Raises InvalidInput for a value out of range."""
        for name, wrong, rule in (
            ("temperature", not 0 <= self.temperature <= 10, "must lie in 0..10"),
            ("top_k", self.top_k < 0, "must not be negative"),
            ("top_p", not 0 < self.top_p <= 1, "must be above 0 and at most 1"),
            ("repetition_penalty", not 0 < self.repetition_penalty <= 10, "must be above 0 and at most 10"),
        ):
            if wrong:
                raise InvalidInput(f"{name} {rule}", param=name)


@dataclass(frozen=True, slots=True)
class GenerationOptions:
    """Settings of one answer. The names are keys of a deployment (info.py) that a request may set, too.

    max_new_tokens: ends every sentence there (0: judged by its text); system: the system message.
    """

    temperature: float = 0.8
    top_k: int = 50
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    max_length: int = 2048
    max_new_tokens: int = 0
    sentence_characters: int = 300
    chaining: bool = False
    retries: int = 2
    date: str = ""
    system: str = ""
    language: str = ""
    japanese_filter: bool = False

    @property
    def sampling(self) -> SamplingParams:
        return SamplingParams(self.temperature, self.top_k, self.top_p, self.repetition_penalty)


def check_request(request: Request, options: Mapping[str, Any]) -> None:
    """Raises InvalidInput if a request's settings cannot be served; options: the deployment's."""
    if isinstance(request, SpeechRequest):
        read_generation_options(default_generation_options(LlasaOptions(**options)), request.options)


def default_generation_options(options: LlasaOptions) -> GenerationOptions:
    """The generation options of a deployment."""
    own = {field.name for field in fields(LlasaOptions)}
    return GenerationOptions(
        **{field.name: getattr(options, field.name) for field in fields(GenerationOptions) if field.name in own}
    )


def read_generation_options(defaults: GenerationOptions, options: Mapping[str, Any]) -> GenerationOptions:
    """`defaults` with a request's options over them. Raises InvalidInput naming the option."""
    types = {field.name: field.type for field in fields(GenerationOptions)}
    overrides: dict[str, Any] = {}
    for name, value in options.items():
        if name not in types:
            raise InvalidInput(f"there is no option {name!r}; there are {', '.join(types)}", param=f"options.{name}")
        _check_type(name, value, str(types[name]))
        overrides[name] = value
    generation = replace(defaults, **overrides)
    _check(generation, defaults)
    return generation


def _check_type(name: str, value: Any, kind: str) -> None:
    good = {
        "float": isinstance(value, int | float) and not isinstance(value, bool),
        "int": isinstance(value, int) and not isinstance(value, bool),
        "bool": isinstance(value, bool),
        "str": isinstance(value, str),
    }[kind]
    if not good:
        raise InvalidInput(f"{name} must be of type {kind}", param=f"options.{name}")


def _check(generation: GenerationOptions, defaults: GenerationOptions) -> None:
    try:
        _ = generation.sampling  # checks its own ranges
    except InvalidInput as error:
        raise InvalidInput(error.message, param=f"options.{error.param}") from error
    ranges = {
        "max_length": (64, defaults.max_length),
        "max_new_tokens": (0, defaults.max_length),
        "sentence_characters": (20, 4096),
        "retries": (0, 10),
    }
    for name, (low, high) in ranges.items():
        if not low <= getattr(generation, name) <= high:
            raise InvalidInput(f"{name} must lie in {low}..{high}", param=f"options.{name}")
    for name, most in (("date", 40), ("system", 4096)):
        if len(getattr(generation, name)) > most:
            raise InvalidInput(f"{name} is longer than {most} characters", param=f"options.{name}")
