"""CSM against two independent implementations: transformers' own model, and torchtune's builder as the original uses
it."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from backends.csm.layouts import ORIGINAL
from backends.csm.model import load_csm
from scripts.fixtures.tiny_csm import language_tensors
from tests.backends.csm.paths import TINY8

SEGMENTS = [
    {"text_ids": [1, 20, 30, 2], "codes": torch.randint(0, 30, (4, 5), generator=torch.Generator().manual_seed(1))},
    {"text_ids": [1, 7, 9, 11, 2]},
]
LLAMA3 = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 32.0}


def transformers_config() -> dict[str, Any]:
    """Other widths, head counts and codebooks than the reference data; rope with the original numbers."""
    depth = {
        "num_codebooks": 4,
        "backbone_hidden_size": 48,
        "vocab_size": 33,
        "hidden_size": 40,
        "intermediate_size": 56,
        "num_hidden_layers": 1,
        "num_attention_heads": 5,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "max_position_embeddings": 5,
        "rope_parameters": LLAMA3
        | {"low_freq_factor": 0.002, "high_freq_factor": 0.008, "original_max_position_embeddings": 4},
    }
    codec = {
        "model_type": "mimi",
        "num_hidden_layers": 1,
        "hidden_size": 32,
        "num_filters": 4,
        "intermediate_size": 8,
        "upsample_groups": 32,
        "num_quantizers": 4,
        "codebook_size": 32,
    }
    return {
        "num_codebooks": 4,
        "vocab_size": 33,
        "text_vocab_size": 50,
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "num_key_value_heads": 3,
        "head_dim": 8,
        "audio_token_id": 48,
        "audio_eos_token_id": 49,
        "bos_token_id": 1,
        "pad_token_id": 0,
        "codebook_pad_token_id": 32,
        "rope_parameters": LLAMA3
        | {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64},
        "depth_decoder_config": depth,
        "codec_config": codec,
    }


@pytest.mark.slow
def test_equals_transformers(tmp_path: Path) -> None:
    """A folder as save_pretrained writes it: one of the tied tables is dropped, the codec is inside."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the library's own imports
        from transformers import CsmConfig, CsmForConditionalGeneration

        torch.manual_seed(0)
        oracle = CsmForConditionalGeneration(CsmConfig(**transformers_config())).eval()
        for parameter in oracle.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.3)
        oracle.save_pretrained(tmp_path)
    ours = load_csm(tmp_path)
    tokens, mask = ours.prompt_rows(SEGMENTS)
    frames = torch.randint(0, 33, (3, 4), generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        rows = ours.embed_rows(tokens, mask)
        audio = torch.cat([oracle.backbone_model.embed_tokens(frames[None, i : i + 1])[0] for i in range(2)])
        hidden = oracle.backbone_model(inputs_embeds=torch.cat([rows, audio])[None]).last_hidden_state[
            0, len(tokens) - 1 :
        ]
        expected = [oracle.lm_head(hidden)]
        inputs = torch.cat([torch.zeros(3, 1, dtype=torch.int64), frames], 1)
        depth = oracle.depth_decoder(input_ids=inputs[:, :4], backbone_last_hidden_state=hidden).logits
    expected += list(depth.unbind(1))
    assert torch.allclose(ours.logits(tokens, mask, frames), torch.stack(expected, 1), atol=1e-4)


@pytest.mark.filterwarnings("ignore")  # torchtune imports torchao and the old dataset code, which warn in many ways
def test_equals_torchtune(tmp_path: Path) -> None:
    """The original code's two stacks, built by torchtune's builder, fed with our embeddings."""
    pytest.importorskip("torchtune", exc_type=ImportError)
    from torchtune.models.llama3_2 import llama3_2

    from scripts.fixtures.tiny_csm import ORIGINAL_CONFIG

    tensors = language_tensors(ORIGINAL, seed=4)
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(ORIGINAL_CONFIG), encoding="utf-8")
    ours = load_csm(tmp_path)
    for name, stack in (("backbone", ours.backbone), ("decoder", ours.decoder)):
        sizes = stack.config
        oracle = llama3_2(
            vocab_size=10,
            num_layers=sizes.layers,
            num_heads=sizes.heads,
            num_kv_heads=sizes.kv_heads,
            embed_dim=sizes.width,
            max_seq_len=2048,
            intermediate_dim=sizes.hidden,
        )
        oracle.tok_embeddings = oracle.output = torch.nn.Identity()
        prefix = f"{name}."
        oracle.load_state_dict(
            {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        )
        x = torch.randn(2, 30, sizes.width, generator=torch.Generator().manual_seed(3))
        from backends.transformer.attention import Whole

        with torch.inference_mode():
            assert torch.allclose(stack(x, Whole(30, causal=True)), oracle(x), atol=1e-4)


def test_reference_data_is_the_one_described() -> None:
    told = json.loads((TINY8 / "expected.json").read_text(encoding="utf-8"))
    assert all(case["transformers_codes_equal"] for case in told["cases"])
