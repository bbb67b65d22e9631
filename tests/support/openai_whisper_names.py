"""What openai-whisper, and whisper.cpp after it, call the tensors of a published Whisper."""

from __future__ import annotations

_NAMES = {
    "encoder.layer_norm": "encoder.ln_post",
    "decoder.layer_norm": "decoder.ln",
    "self_attn_layer_norm": "attn_ln",
    "encoder_attn_layer_norm": "cross_attn_ln",
    "final_layer_norm": "mlp_ln",
    "encoder_attn": "cross_attn",
    "self_attn": "attn",
    "q_proj": "query",
    "k_proj": "key",
    "v_proj": "value",
    "out_proj": "out",
    "fc1": "mlp.0",
    "fc2": "mlp.2",
    "layers": "blocks",
    "embed_tokens": "token_embedding",
    "embed_positions.weight": "positional_embedding",
}


def openai_whisper_name(published: str) -> str:
    """The name without "model." in front."""
    for old, new in _NAMES.items():
        published = published.replace(old, new)
    return published
