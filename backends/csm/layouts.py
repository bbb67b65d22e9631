"""The two published key layouts of CSM's language model, as renames of the core's canonical names.

The layout is detected by the names in the files, never by config.json: either configuration may stand beside either.
The layouts also differ in the order of q and k rows (rope convention); a mix-up would give plausible noise, so names
decide.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from backends.interface import ModelUnavailable
from backends.transformer.checkpoint import Checkpoint, llama_names, renamed

_TRANSFORMERS_INDEX = (
    "transformers.safetensors.index.json"  # an unusual stem, so that model.safetensors can lie beside it
)
_MODEL_INDEX = "model.safetensors.index.json"
_NAMED_AT_MOST = 4  # tensors of a stray layout listed in an error message

Rename = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Layout:
    """Names of the tensors outside the stacks, renames for the stacks, and what a checkpoint may hold besides."""

    name: str
    interleaved: bool
    text: str
    audio: str
    projection: str
    first_head: str
    other_heads: str
    backbone: Rename
    decoder: Rename
    ignored: tuple[str, ...]
    audio_copy: str = ""


_TORCHTUNE = {
    "attention_norm": "sa_norm.scale",
    "q": "attn.q_proj.weight",
    "k": "attn.k_proj.weight",
    "v": "attn.v_proj.weight",
    "o": "attn.output_proj.weight",
    "mlp_norm": "mlp_norm.scale",
    "gate": "mlp.w1.weight",
    "up": "mlp.w3.weight",
    "down": "mlp.w2.weight",
}

ORIGINAL = Layout(
    name="original",
    interleaved=True,
    text="text_embeddings.weight",
    audio="audio_embeddings.weight",
    projection="projection.weight",
    first_head="codebook0_head.weight",
    other_heads="audio_head",
    backbone=renamed("backbone.", _TORCHTUNE, norm="norm.scale"),
    decoder=renamed("decoder.", _TORCHTUNE, norm="norm.scale"),
    ignored=(r"(backbone|decoder)_causal_mask",),
)

TRANSFORMERS = Layout(
    name="transformers",
    interleaved=False,
    text="embed_text_tokens.weight",
    audio="backbone_model.embed_tokens.embed_audio_tokens.weight",
    projection="depth_decoder.model.inputs_embeds_projector.weight",
    first_head="lm_head.weight",
    other_heads="depth_decoder.codebooks_head.weight",
    backbone=llama_names("backbone_model."),
    decoder=llama_names("depth_decoder.model."),
    ignored=(
        r"depth_decoder\.model\.embed_tokens\.weight",  # the tied copy of the audio embeddings
        r"codec_model\..*",
        r"backbone_model\.embed_tokens\.audio_tokens_offsets",
        r".*\.rotary_emb\.(original_)?inv_freq",
    ),
    audio_copy="depth_decoder.model.embed_tokens.weight",
)


def open_language_model(folder: Path) -> tuple[Checkpoint, Layout]:
    """The tensors of the language model and their layout. Raises ModelUnavailable, naming what is missing or mixed."""
    shards, single = sorted(folder.glob("transformers-*-of-*.safetensors")), folder / "model.safetensors"
    for index in (_TRANSFORMERS_INDEX, _MODEL_INDEX):
        # The published repository holds both layouts: of the one, somebody may have fetched nothing but the index.
        if (folder / index).is_file() and not (index == _TRANSFORMERS_INDEX and single.is_file() and not shards):
            return _detected(Checkpoint.from_folder(folder, index))
    if shards:
        return _detected(Checkpoint.from_files(_all_shards(shards)))
    files = [single] if single.is_file() else _language_files(folder)
    return _detected(Checkpoint.from_files(files))


def _all_shards(shards: list[Path]) -> list[Path]:
    """Shards without an index: the names tell how many there must be."""
    total = int(shards[0].stem.rsplit("-", 1)[1])
    for number in range(1, total + 1):
        shard = shards[0].with_name(f"transformers-{number:05d}-of-{total:05d}.safetensors")
        if not shard.is_file():
            raise ModelUnavailable(f"{shard.parent} lacks the weight file {shard.name}")
    return shards


def _language_files(folder: Path) -> list[Path]:
    """Every safetensors file that holds a tensor of the language model (a codec may lie in the same folder)."""
    files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    if not files:
        raise ModelUnavailable(f"{folder} holds no *.safetensors file")
    return [file for file in files if _speaks(Checkpoint.from_files([file]).names)] or files


def _speaks(names: frozenset[str]) -> bool:
    return any(name.startswith(_STARTS[ORIGINAL.name] + _STARTS[TRANSFORMERS.name]) for name in names)


_STARTS: dict[str, tuple[str, ...]] = {
    "original": ("backbone.", "decoder.layers.0.attn.", "text_embeddings.", "audio_", "codebook0_head.", "projection."),
    "transformers": ("backbone_model.", "depth_decoder.", "embed_text_tokens.", "lm_head."),
}


def _detected(checkpoint: Checkpoint) -> tuple[Checkpoint, Layout]:
    matching = [
        layout
        for layout in (ORIGINAL, TRANSFORMERS)
        if any(n.startswith(_STARTS[layout.name]) for n in checkpoint.names)
    ]
    if len(matching) == 1:
        return checkpoint, matching[0]
    if not matching:
        raise ModelUnavailable(
            f"the weights in {checkpoint.source} are not CSM's: "
            f"neither {ORIGINAL.audio} nor {TRANSFORMERS.audio} is there"
        )
    named = {
        layout.name: sorted(n for n in checkpoint.names if n.startswith(_STARTS[layout.name])) for layout in matching
    }
    few, many = sorted(named, key=lambda layout: len(named[layout]))
    raise ModelUnavailable(
        f"the checkpoint in {checkpoint.source} mixes both key layouts: {', '.join(named[few][:_NAMED_AT_MOST])} "
        f"of the {few} one beside {named[many][0]} and others of the {many} one"
    )
