"""How an answer is denoised: the options, their rules, the reference's presets, and what a request may change.

Knows no tensor and no HTTP, so that the gateway may refuse a request by it. Rules: max_new_tokens is a multiple of
block_length; steps is a multiple of the number of blocks; a threshold and a factor exclude each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import msgspec

from backends.interface import ChatRequest, InvalidInput, Request

# Steps that outnumber the tokens commit nothing, and a schedule of any length would fill the memory.
MOST_STEPS = 65_536
_HOTTEST = 2.0  # highest temperature of the chat contract

Cache = Literal["none", "prefix", "dual"]


@dataclass(frozen=True, slots=True)
class DecodingOptions:
    """One way to denoise an answer.

    steps: in all blocks together; block_length, max_new_tokens: tokens; temperature: of the noise on the logits;
    cfg_scale: weight of the guidance away from an answer to a masked prompt; cache: "none" computes everything at every
    step, "prefix" keeps keys and values before the block, "dual" also those after it; threshold: confidence that
    commits a token (None: the fixed schedule); factor: the factor rule; early_stop: skip the blocks after one with an
    end token.
    """

    steps: int = 16
    block_length: int = 16
    max_new_tokens: int = 16
    temperature: float = 0.0
    cfg_scale: float = 0.0
    cache: Cache = "none"
    threshold: float | None = None
    factor: float | None = None
    early_stop: bool = False

    @property
    def blocks(self) -> int:
        return self.max_new_tokens // self.block_length

    @property
    def steps_per_block(self) -> int:
        return self.steps // self.blocks

    @property
    def parallel(self) -> bool:
        """Whether confidence decides how many tokens a step commits, not the schedule."""
        return self.threshold is not None or self.factor is not None

    def checked(self) -> DecodingOptions:
        """Return the options themselves. Raises InvalidInput with the rule that they break."""
        for name in ("steps", "block_length", "max_new_tokens"):
            _require(getattr(self, name) >= 1, name, f"{name} must be at least 1, not {getattr(self, name)}")
        most = max(MOST_STEPS, self.max_new_tokens)  # too many tokens are refused as such, by who knows the positions
        _require(self.steps <= most, "steps", f"steps must be at most {most}, not {self.steps}")
        length, block = self.max_new_tokens, self.block_length
        _require(
            length % block == 0,
            "max_new_tokens",
            f"max_new_tokens ({length}) must be a multiple of block_length ({block})",
        )
        rule = f"steps ({self.steps}) must be a multiple of the number of blocks ({length} / {block} = {self.blocks})"
        _require(self.steps % self.blocks == 0, "steps", rule)
        for name in ("temperature", "cfg_scale"):
            _require(0 <= getattr(self, name) < float("inf"), name, f"{name} must be 0 or more")
        _require(
            self.cache in ("none", "prefix", "dual"), "cache", f"cache must be none, prefix or dual, not {self.cache!r}"
        )
        _require(
            self.threshold is None or 0 < self.threshold <= 1, "threshold", "threshold must be above 0 and at most 1"
        )
        _require(self.factor is None or 0 < self.factor < float("inf"), "factor", "factor must be above 0")
        exclusive = self.threshold is None or self.factor is None
        _require(exclusive, "factor", "threshold and factor exclude each other: give one of them")
        return self


# Steps, block length and new tokens of the published scripts, which know neither caches nor confidence rules.
PRESETS: Mapping[str, DecodingOptions] = {
    "reference": DecodingOptions(steps=128, block_length=32, max_new_tokens=128),
    "mmsu": DecodingOptions(steps=4, block_length=4, max_new_tokens=4),
    "mmau": DecodingOptions(steps=16, block_length=16, max_new_tokens=16),
    "voicebench": DecodingOptions(steps=16, block_length=16, max_new_tokens=16),
}


class RequestOptions(msgspec.Struct, forbid_unknown_fields=True):
    """The documented extra fields of a request. A null or zero threshold or factor switches that rule off."""

    preset: str | None = None
    steps: int | None = None
    block_length: int | None = None
    max_new_tokens: int | None = None
    temperature: float | None = None
    cfg_scale: float | None = None
    cache: str | None = None
    threshold: float | msgspec.UnsetType | None = msgspec.UNSET
    factor: float | msgspec.UnsetType | None = msgspec.UNSET
    early_stop: bool | None = None


_RULES = ("threshold", "factor")  # confidence rules, which exclude each other
# Fields whose value replaces the deployment's as it is.
_PLAIN = tuple(name for name in RequestOptions.__struct_fields__ if name not in ("preset", "steps", *_RULES))


@dataclass(frozen=True, slots=True)
class ResolvedOptions:
    """The options that a request is denoised with, and notes for the client on what was changed to get there."""

    options: DecodingOptions
    notes: tuple[str, ...] = ()


def deployment_defaults(options: Mapping[str, Any]) -> DecodingOptions:
    """The defaults of a deployment from its options; a preset replaces all its decoding keys. Raises InvalidInput."""
    if options["preset"]:
        return PRESETS[options["preset"]]
    steps = options["steps"] or options["max_new_tokens"]
    factor = options["factor"] or None
    threshold = options["threshold"] or None if factor is None else None
    plain = {name: options[name] for name in _PLAIN}
    return DecodingOptions(steps=steps, threshold=threshold, factor=factor, **plain).checked()


def check_request(request: Request, options: Mapping[str, Any]) -> None:
    """Raises InvalidInput if a request's settings cannot be served; options: the deployment's."""
    try:
        defaults = deployment_defaults(options)
    except InvalidInput:
        return  # that is no fault of the request: the load will fail, and say why
    if isinstance(request, ChatRequest):
        resolve_request(request, defaults)


def resolve_request(request: ChatRequest, defaults: DecodingOptions) -> ResolvedOptions:
    """The options for a request: those of `resolve`, after its sampling settings were checked.

    Raises InvalidInput, also for sampling settings that masked diffusion does not have or the contract does not allow.
    """
    if request.top_p is not None and request.top_p != 1:
        raise InvalidInput(
            "top_p is not supported by this model: it samples by temperature", param="top_p", code="unsupported_value"
        )
    if request.temperature is not None and not 0 <= request.temperature <= _HOTTEST:
        raise InvalidInput(f"temperature must be 0 to {_HOTTEST:g}", param="temperature")
    return resolve(defaults, request.options, request.max_tokens, request.temperature)


def resolve(
    defaults: DecodingOptions,
    extra_fields: Mapping[str, Any],
    max_tokens: int | None = None,
    temperature: float | None = None,
) -> ResolvedOptions:
    """The deployment's defaults with a request's own settings over them.

    extra_fields: see RequestOptions, also as strings from a form; max_tokens: rounded up to whole blocks; steps that
    the request does not name follow the number of tokens at the default's tokens per step. Raises InvalidInput.
    """
    requested = _parse(extra_fields)
    base = _base(defaults, requested.preset)
    changes: dict[str, Any] = {name: value for name in _PLAIN if (value := getattr(requested, name)) is not None}
    if temperature is not None:
        changes.setdefault("temperature", temperature)
    changes |= _rule_changes(requested)
    notes: tuple[str, ...] = ()
    if max_tokens is not None:
        both = requested.max_new_tokens is not None
        _require(not both, "max_new_tokens", "give max_tokens or max_new_tokens, not both")
        block = changes.get("block_length", base.block_length)
        changes["max_new_tokens"], notes = _rounded_up(max_tokens, block)
    options = replace(base, **changes)
    return ResolvedOptions(replace(options, steps=_steps(base, options, requested.steps)).checked(), notes)


def _parse(extra_fields: Mapping[str, Any]) -> RequestOptions:
    try:
        return msgspec.convert(dict(extra_fields), RequestOptions, strict=False)
    except msgspec.ValidationError as error:
        known = ", ".join(RequestOptions.__struct_fields__)
        param = next((name for name in extra_fields if f"`{name}`" in str(error) or f"$.{name}`" in str(error)), None)
        raise InvalidInput(f"{error} (the decoding fields are: {known})", param=param) from error


def _base(defaults: DecodingOptions, preset: str | None) -> DecodingOptions:
    if not preset:
        return defaults
    _require(preset in PRESETS, "preset", f"preset must be one of {', '.join(PRESETS)}, not {preset!r}")
    return PRESETS[preset]


def _rule_changes(requested: RequestOptions) -> dict[str, Any]:
    """The confidence rules that a request names; one that it sets replaces the deployment's other one."""
    named = {rule: value or None for rule in _RULES if (value := getattr(requested, rule)) is not msgspec.UNSET}
    if named.get("factor") is not None:
        named.setdefault("threshold", None)
    if named.get("threshold") is not None:
        named.setdefault("factor", None)
    return named


def _rounded_up(max_tokens: int, block: int) -> tuple[int, tuple[str, ...]]:
    _require(max_tokens >= 1, "max_tokens", f"max_tokens must be at least 1, not {max_tokens}")
    _require(block >= 1, "block_length", f"block_length must be at least 1, not {block}")
    rounded = -(-max_tokens // block) * block
    if rounded == max_tokens:
        return rounded, ()
    return rounded, (f"max_tokens {max_tokens} was rounded up to {rounded}, whole blocks of {block}",)


def _steps(base: DecodingOptions, options: DecodingOptions, requested: int | None) -> int:
    """The steps requested, else as many per token as `base` has."""
    if requested is not None:
        return requested
    if min(options.block_length, options.max_new_tokens) < 1 or options.max_new_tokens % options.block_length:
        return base.steps  # the lengths are refused anyway
    per_block = round(options.block_length * base.steps / base.max_new_tokens)
    return max(1, per_block) * options.blocks


def _require(holds: bool, param: str, rule: str) -> None:
    if not holds:
        raise InvalidInput(rule, param=param)
