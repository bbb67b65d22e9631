"""The language model: against transformers' Llama, in both directions, many answers at once, offloaded, and its
folder."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from backends.diffa.denoise import Window
from backends.diffa.llada import Pass, llada_config, load_llada
from backends.diffa.offload import Offload, Streamed, plan
from backends.diffa.placement import choose_offload, choose_precision, name_of, weight_bytes
from backends.diffa.ragged import Ragged, RaggedSequence
from backends.interface import ModelUnavailable, OutOfMemory, Placement
from backends.transformer.linear import Precision
from tests.backends.diffa.folders import DATA, read_tensors, write_llada

CPU, FLOAT = torch.device("cpu"), Precision(torch.float32)
HUGGING_FACE = {
    "wte": "model.embed_tokens", "ln_f": "model.norm", "attn_norm": "input_layernorm",
    "ff_norm": "post_attention_layernorm",
    "q_proj": "self_attn.q_proj", "k_proj": "self_attn.k_proj", "v_proj": "self_attn.v_proj",
    "attn_out": "self_attn.o_proj",
    "ff_proj": "mlp.gate_proj", "up_proj": "mlp.up_proj",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_llada(tmp_path_factory.mktemp("llada") / "llm", width=64, layers=3, heads=4, kv_heads=2, seed=1)


@pytest.fixture(scope="module")
def llada(folder):
    return load_llada(folder, FLOAT, CPU)


@pytest.fixture(scope="module")
def llama(folder):
    """transformers' Llama with the same weights."""
    config = LlamaConfig(
        vocab_size=320, hidden_size=64, intermediate_size=112, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, rms_norm_eps=1e-5, rope_parameters={"rope_type": "default", "rope_theta": 500_000.0},
        max_position_embeddings=1024, attn_implementation="eager",
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    model.load_state_dict({_llama_name(name): tensor for name, tensor in read_tensors(folder).items()})
    return model


def _llama_name(name: str) -> str:
    *path, part, weight = name.removeprefix("model.transformer.").split(".")
    if part == "ff_out":
        return f"model.layers.{path[1]}.mlp.down_proj.{weight}" if path else f"lm_head.{weight}"
    prefix = f"model.layers.{path[1]}." if path else ""
    return f"{prefix}{HUGGING_FACE[part]}.{weight}"


def test_logits_equal_transformers_llama_without_its_causal_mask(llada, llama):
    embeddings = llada.embed(torch.arange(40))
    visible = torch.zeros(1, 1, 40, 40)
    with torch.no_grad():
        wanted = llama(inputs_embeds=embeddings[None], attention_mask=visible).logits[0]
    torch.testing.assert_close(llada.logits(embeddings), wanted, atol=1e-4, rtol=0)


def test_attention_is_bidirectional(llada):
    """A later token changes an earlier position's logits."""
    ids = torch.arange(10, 22)
    changed = ids.clone()
    changed[-1] = 99
    first, second = llada.logits(llada.embed(ids))[0], llada.logits(llada.embed(changed))[0]
    assert (first - second).abs().max() > 0.05


def passes(llada, lengths, *, part):
    """Conversations of several prompt lengths whose caches are filled, and the pass that each wants next."""
    wanted = []
    for seed, (prompt, answer) in enumerate(lengths):
        noise = torch.Generator().manual_seed(seed)
        state = llada.sequence(torch.randn(1 + seed % 2, prompt, 64, generator=noise), answer, cached=True)
        ids = torch.randint(0, 300, (answer,), generator=noise)
        block = slice(0, 4)
        whole = Pass(state, ids, Window(0, answer, whole=True, block=block, keep=True))
        llada.block_logits([whole])
        wanted.append(Pass(state, ids, Window(0, 4, whole=False, block=block, keep=True)) if part else whole)
    return wanted


@pytest.mark.parametrize("part", [False, True])
def test_answers_of_any_length_share_one_pass(llada, part):
    wanted = passes(llada, [(30, 8), (7, 12), (91, 4), (30, 16)], part=part)
    alone = [llada.block_logits([one])[0] for one in wanted]
    together = llada.block_logits(wanted)
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=0)
    mixed = llada.block_logits([*wanted[:2], *passes(llada, [(5, 4)], part=not part)])
    torch.testing.assert_close(mixed[1], alone[1], atol=2e-5, rtol=0)


def test_with_a_cache_the_first_pass_is_the_exact_one(llada):
    [one] = passes(llada, [(20, 8)], part=False)
    whole = llada.logits(torch.cat([one.sequence.prompt[0], llada.embed(one.ids)]))
    torch.testing.assert_close(llada.block_logits([one])[0][0], whole[20:24], atol=2e-5, rtol=0)


def test_a_part_without_its_cache_is_a_mistake():
    with pytest.raises(ValueError, match="cache"):
        Ragged([RaggedSequence(2, 4, 8)])


# --- Formats and placement --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [FLOAT, Precision(torch.bfloat16), Precision(torch.float32, "int8")], ids=name_of)
def test_offloaded_layers_compute_the_same(folder, kind):
    here = load_llada(folder, kind, CPU)
    away = load_llada(folder, kind, CPU, Offload(frozenset({0, 2}), table=True))
    embeddings = here.embed(torch.arange(30))
    # On the processor resident int8 layers also quantise activations, streamed ones do not.
    tolerance = 0.35 if kind.weights == "int8" else 1e-5
    torch.testing.assert_close(away.logits(embeddings), here.logits(embeddings), atol=tolerance, rtol=0)
    assert isinstance(away.stack.blocks[0].qkv, Streamed)
    assert not isinstance(away.stack.blocks[1].qkv, Streamed)
    assert away.stack.bytes() < here.stack.bytes() / 2


def test_the_plan_keeps_what_fits(llada):
    config, kind = llada.config, FLOAT
    whole = weight_bytes(config, kind)
    assert plan(config.stack, config.rows, kind, 2 * whole, 0) is None
    some = plan(config.stack, config.rows, kind, whole, 0)
    assert some is not None
    assert 0 < len(some.layers) <= 3
    fewer = plan(config.stack, config.rows, kind, whole, whole // 4)
    assert fewer is not None
    assert len(fewer.layers) >= len(some.layers)
    with pytest.raises(OutOfMemory):
        plan(config.stack, config.rows, kind, 1000, 0)


def test_int8_brings_the_published_size_under_10_gb(tmp_path):
    """Shapes of LLaDA-8B, weights of none: int8 matrices, the table in bfloat16, and half a gigabyte of audio side."""
    write = json.loads((DATA / "llm" / "config.json").read_text(encoding="utf-8"))
    write |= {"d_model": 4096, "n_heads": 32, "n_kv_heads": 32, "n_layers": 32, "mlp_hidden_size": 12288}
    write |= {"vocab_size": 126464, "embedding_size": 126464, "max_sequence_length": 4096}
    (tmp_path / "config.json").write_text(json.dumps(write), encoding="utf-8")
    config = llada_config(tmp_path)
    assert weight_bytes(config, Precision(torch.bfloat16)) == 16_031_162_368
    assert weight_bytes(config, Precision(torch.bfloat16, "int8")) + 500_000_000 < 10_000_000_000
    offload = plan(config.stack, config.rows, Precision(torch.bfloat16), 16 * 2**30, 500_000_000)
    assert offload is not None
    assert 0 < len(offload.layers) < 16


def test_precision_follows_the_placement(llada):
    assert name_of(choose_precision(Placement(dtype="bfloat16"), llada.config)) == "bfloat16"
    assert name_of(choose_precision(Placement(dtype="int8"), llada.config)) == "int8"
    whole = weight_bytes(llada.config, FLOAT)
    assert name_of(choose_precision(Placement(memory_bytes=whole // 2 + 1000), llada.config)) == "bfloat16"
    assert name_of(choose_precision(Placement(), llada.config)) in ("float32", "bfloat16")


def test_a_budget_that_nothing_can_meet_is_told(llada):
    with pytest.raises(OutOfMemory, match="budget of cpu"):
        choose_offload(Placement(memory_bytes=1000), llada.config, FLOAT, 0, allowed=True)
    tight = Placement(device="cuda:0", memory_bytes=weight_bytes(llada.config, FLOAT))
    assert choose_offload(tight, llada.config, FLOAT, 0, allowed=True) is not None
    with pytest.raises(OutOfMemory, match="offload"):
        choose_offload(tight, llada.config, FLOAT, 0, allowed=False)
    assert choose_offload(Placement(), llada.config, FLOAT, 0, allowed=False) is None


# --- The folder -------------------------------------------------------------------------------------------------------


def broken(folder, tmp_path, change):
    target = tmp_path / "llm"
    shutil.copytree(folder, target)
    change(target)
    with pytest.raises(ModelUnavailable) as caught:
        load_llada(target, FLOAT, CPU)
    return str(caught.value)


def _rewrite(target, change):
    file = sorted(target.glob("*.safetensors"))[0]
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


def test_a_missing_shard_is_named(folder, tmp_path):
    assert "model-00002-of-00003.safetensors" in broken(
        folder, tmp_path, lambda target: (target / "model-00002-of-00003.safetensors").unlink()
    )


def test_a_missing_tensor_is_named(folder, tmp_path):
    def drop(target):
        index = json.loads((target / "model.safetensors.index.json").read_text(encoding="utf-8"))
        name = "model.transformer.blocks.1.up_proj.weight"
        tensors = {n: t for n, t in read_tensors(target).items() if n != name}
        for file in target.glob("*.safetensors"):
            file.unlink()
        save_file(tensors, target / "model.safetensors")
        (target / "model.safetensors.index.json").unlink()
        assert name in index["weight_map"]

    assert "model.transformer.blocks.1.up_proj.weight" in broken(folder, tmp_path, drop)


def test_a_wrong_shape_and_a_stranger_are_named(folder, tmp_path):
    def widen(tensors):
        name = next(iter(tensors))
        tensors[name] = torch.cat([tensors[name]] * 2)

    assert "shape" in broken(folder, tmp_path, lambda target: _rewrite(target, widen))
    shutil.rmtree(tmp_path / "llm")
    stranger = {"model.transformer.blocks.9.attn_norm.weight": torch.ones(64)}

    def add(target):
        single = read_tensors(target) | stranger
        for file in target.glob("*.safetensors*"):
            file.unlink()
        save_file(single, target / "model.safetensors")

    assert "blocks.9.attn_norm" in broken(folder, tmp_path, add)


@pytest.mark.parametrize(
    ("key", "value"), [("model_type", "llama"), ("include_qkv_bias", True), ("activation_type", "gelu")]
)
def test_another_architecture_is_refused(folder, tmp_path, key, value):
    def change(target):
        config = json.loads((target / "config.json").read_text(encoding="utf-8"))
        (target / "config.json").write_text(json.dumps(config | {key: value}), encoding="utf-8")

    assert key in broken(folder, tmp_path, change)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("n_layers", 10**9),
        ("n_layers", "many"),
        ("n_heads", 0),
        ("d_model", None),
        ("mlp_hidden_size", 2**50),
        ("rope_theta", -1.0),
    ],
)
def test_impossible_sizes_are_refused(folder, tmp_path, key, value):
    def change(target):
        config = json.loads((target / "config.json").read_text(encoding="utf-8"))
        (target / "config.json").write_text(json.dumps(config | {key: value}), encoding="utf-8")

    assert "not a usable LLaDA configuration" in broken(folder, tmp_path, change)


def test_a_folder_without_config_or_weights(folder, tmp_path):
    assert "config.json" in broken(folder, tmp_path, lambda target: (target / "config.json").unlink())
    (tmp_path / "llm" / "config.json").write_bytes((folder / "config.json").read_bytes())
    for file in (tmp_path / "llm").glob("*.safetensors*"):
        file.unlink()
    with pytest.raises(ModelUnavailable, match="safetensors"):
        load_llada(tmp_path / "llm", FLOAT, CPU)


def test_missing_key_value_heads_mean_plain_attention(tmp_path):
    target = write_llada(tmp_path / "llm", shards=1, n_kv_heads=None)
    assert load_llada(target, FLOAT, CPU).config.stack.kv_heads == 6
