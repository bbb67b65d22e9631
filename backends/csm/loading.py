"""All parts of a CSM deployment from disk: language model, tokenizer, codec, watermark. Knows no request."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from backends.csm.codec import Codec, load_mimi
from backends.csm.config import CsmConfig, read_config
from backends.csm.info import CsmOptions
from backends.csm.model import CsmModel, load_csm
from backends.csm.text import SpeechTokenizer, load_tokenizer
from backends.csm.watermark import Watermark, load_watermark
from backends.csm.watermark_model.key import installation_key, parse_key
from backends.interface import ModelFiles, ModelUnavailable, Placement
from backends.transformer.config import TransformerConfig
from backends.transformer.kernel_checks import fallbacks, int8_kernel

_SLOTS = {"cpu": 4, "cuda": 8}
_SMALL = 20_000_000  # matrix elements read per frame below which number formats make no difference


@dataclass(frozen=True, slots=True)
class Parts:
    """What was loaded. key: the watermark's message; detail: facts for /health; codec_identity: for caches of codes."""

    model: CsmModel
    tokenizer: SpeechTokenizer
    codec: Codec
    watermark: Watermark | None
    key: tuple[int, ...]
    slots: int
    dtype: str
    codec_identity: str
    detail: Mapping[str, Any]

    def bytes(self) -> int:
        return self.model.bytes() + self.codec.bytes()


def load_parts(model: ModelFiles, placement: Placement, options: CsmOptions) -> Parts:
    """Raises ModelUnavailable naming the missing part and the command or option that helps."""
    torch.set_num_threads(max(1, placement.threads))
    folder = find_folder(model.folder, model.model, model.models_dir)
    watermark = _load_watermark(
        options, model.models_dir
    )  # first: nothing is loaded for a deployment that must not speak
    key = _key(options, model.user_dir) if watermark else ()
    config = read_config(folder)
    device = placement.device
    dtype = placement.dtype if placement.dtype != "auto" else _best_dtype(device, (config.backbone, config.decoder))
    slots = options.max_batch or _SLOTS.get(torch.device(device).type, 4)
    language = load_csm(folder, device, dtype, rows=slots if torch.device(device).type == "cpu" else 0)
    codec_folder = find_folder(None, options.codec_model, model.models_dir) if options.codec_model else folder
    codec = _fitting_codec(load_mimi(codec_folder, device=device), config)
    tokenizer = load_tokenizer(Path(options.tokenizer or folder / "tokenizer.json"), config.text_vocabulary)
    return Parts(
        model=language,
        tokenizer=tokenizer,
        codec=codec,
        watermark=watermark,
        key=key,
        slots=slots,
        dtype=dtype,
        codec_identity=f"{codec_folder.name}:{codec.codebooks}:{codec.bins}:{_fingerprint(codec_folder)}",
        detail={
            "watermark": f"silentcipher, {options.watermark_statistics} statistics" if watermark else "off",
            "codebooks": config.codebooks,
            "kernels": fallbacks(),
        },
    )


def find_folder(given: Path | None, name: str, models_dir: Path) -> Path:
    """The folder of a model. Raises ModelUnavailable with the command that fetches it."""
    candidates = [given] if given else [Path(name), models_dir / name, models_dir / name.replace("/", "--")]
    for folder in candidates:
        if folder.exists():
            return folder
    raise ModelUnavailable(
        f"the weights of {name or given} are not in {models_dir}; fetch them with: speech-gateway pull {name}"
    )


def _load_watermark(options: CsmOptions, models_dir: Path) -> Watermark | None:
    if not options.watermark:
        return None
    try:
        folder = find_folder(None, options.watermark_model, models_dir)
    except ModelUnavailable as error:
        raise ModelUnavailable(f"{error.message} (speech without a watermark needs watermark = false)") from error
    return load_watermark(folder, options.watermark_statistics)


def _key(options: CsmOptions, user_dir: Path) -> tuple[int, ...]:
    return parse_key(options.watermark_key) if options.watermark_key else installation_key(user_dir)


def _best_dtype(device: str, stacks: tuple[TransformerConfig, ...]) -> str:
    """int8 on a CPU with a right kernel for it (4 times the speed of bfloat16 there) unless the model is tiny; bfloat16
    where it is native."""
    kind = torch.device(device).type
    if kind == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    read = sum(stack.layers * stack.width * (stack.hidden * 3 + stack.heads * stack.head_dim * 2) for stack in stacks)
    return "int8" if kind == "cpu" and read > _SMALL and int8_kernel() is not None else "float32"


def _fitting_codec(codec: Codec, config: CsmConfig) -> Codec:
    """The codec with as many codebooks as the model speaks in. Raises ModelUnavailable if it belongs to another
    model."""
    if codec.codebooks < config.codebooks:
        raise ModelUnavailable(f"the codec has {codec.codebooks} codebooks, the model speaks in {config.codebooks}")
    if codec.bins > config.audio_vocabulary:
        raise ModelUnavailable(f"the codec has {codec.bins} codes, the model knows {config.audio_vocabulary}")
    codec.use(config.codebooks)
    return codec


def _fingerprint(path: Path) -> str:
    """A hash of the weight files' names and sizes: another codec has other codes."""
    files = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
    listing = "".join(f"{file.name}:{file.stat().st_size};" for file in files)
    return hashlib.sha256(listing.encode()).hexdigest()[:16]
