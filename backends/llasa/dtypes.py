"""Dtypes of the language model and the codec for a placement.

"auto" is measured on a CPU, where 16-bit arithmetic is anything from twice as fast to half as fast. What the device
cannot do is replaced by float32 or float16, with the reason in the log.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import cache

import torch

from backends.llasa.xcodec2.decoder import linear
from backends.transformer.linear import Precision, make_linear

log = logging.getLogger(__name__)

_SHORT = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
_ROUNDS = 5
_ADVANTAGE = 0.9  # bfloat16 must take less than this part of float32's time


def language_dtype(dtype: str, device: str) -> str:
    """The precision name of the language model for a placement's dtype."""
    kind = torch.device(device).type
    if dtype == "auto":
        return _automatic(kind, decode_prefers_bfloat16)
    return _supported(_SHORT.get(dtype, dtype), kind)


def codec_dtype(dtype: str, language: str, device: str) -> torch.dtype:
    """The dtype of the codec's body; "auto": the language model's where it is a float type, else the faster one."""
    kind = torch.device(device).type
    if dtype == "auto":
        dtype = language if language in ("float32", "bfloat16") else _automatic(kind, codec_prefers_bfloat16)
    return torch.bfloat16 if _supported(dtype, kind) == "bfloat16" else torch.float32


def _automatic(kind: str, probe: Callable[[], bool]) -> str:
    if kind == "cpu":
        return "bfloat16" if probe() else "float32"
    return _supported("bfloat16", kind)


def _supported(dtype: str, kind: str) -> str:
    if dtype != "bfloat16":
        return dtype
    if kind == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        log.warning("this GPU has no bfloat16: using float16")
        return "float16"
    if kind not in ("cpu", "cuda", "xpu", "mps"):
        log.warning("bfloat16 is not used on %s: using float32", kind)
        return "float32"
    return dtype


@cache
def decode_prefers_bfloat16() -> bool:
    """Whether one row times a large matrix, which decoding is made of, is faster in bfloat16 than in float32 here."""
    weight = torch.randn(4096, 4096)
    layers = {name: make_linear(weight, Precision(getattr(torch, name), "packed")) for name in ("float32", "bfloat16")}
    times = {name: _best(lambda x, layer=layer: layer(x), name, 1) for name, layer in layers.items()}  # type: ignore[misc]
    return _reported("decoding", times)


@cache
def codec_prefers_bfloat16() -> bool:
    """Whether the codec's large products are faster in bfloat16 than in float32 here."""
    times = {}
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        times[name] = _best(linear(torch.randn(1024, 1024).to(dtype)), name, 256)
    return _reported("the codec", times)


def _best(layer: Callable[[torch.Tensor], torch.Tensor], dtype: str, rows: int) -> float:
    """Shortest of a few runs, seconds."""
    x = torch.randn(rows, 4096 if rows == 1 else 1024).to(getattr(torch, dtype))
    with torch.inference_mode():
        layer(x)
        times = []
        for _ in range(_ROUNDS):
            began = time.perf_counter()
            layer(x)
            times.append(time.perf_counter() - began)
    return min(times)


def _reported(what: str, times: dict[str, float]) -> bool:
    better = times["bfloat16"] < _ADVANTAGE * times["float32"]
    milliseconds = {name: round(seconds * 1e3, 3) for name, seconds in times.items()}
    log.info("%s runs in %s here (probe, ms: %s)", what, "bfloat16" if better else "float32", milliseconds)
    return better
