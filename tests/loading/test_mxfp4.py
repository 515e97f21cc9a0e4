"""gpt-oss with experts in MXFP4, as mlx-community and as its makers store it: loads, and every site is what it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_lm.utils import load_model

import mlx_interp as mi
from mlx_interp.loading import profile
from mlx_interp.model import Model
from mlx_interp.sites import KINDS
from tests.loading.checkpoints import write_tokenizer
from tests.tiny import FAMILY_CONFIGS, NumberTokenizer, random_mlx_model

TOKENS = [5, 17, 3, 42, 8, 9]
CONFIG: dict[str, Any] = {
    **FAMILY_CONFIGS["gpt_oss"],
    "hidden_size": 64,
    "intermediate_size": 32,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "eos_token_id": 1,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}
MXFP4 = {"group_size": 32, "bits": 4, "mode": "mxfp4"}
Q8 = {"group_size": 32, "bits": 8, "mode": "affine"}


def quantised() -> Any:
    """mlx-lm's model with experts in MXFP4 and all other matrices in 8 bits, and the settings of each."""
    model = random_mlx_model(CONFIG)

    def how(path: str, module: nn.Module) -> bool | dict[str, Any]:
        if not hasattr(module, "to_quantized") or path.endswith("router"):
            return False
        return MXFP4 if ".experts." in path else Q8

    nn.quantize(model, **MXFP4, class_predicate=how)
    return model


@pytest.fixture(scope="module")
def community(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as mlx-community has it: quantised by mlx, one setting for each matrix that is not MXFP4."""
    folder = tmp_path_factory.mktemp("community")
    model = quantised()
    others = {path: Q8 for path, module in profile.quantized_modules(model) if module.mode == "affine"}
    settings = {**MXFP4, **others}
    (folder / "config.json").write_text(json.dumps({**CONFIG, "quantization": settings}))
    mx.save_safetensors(str(folder / "model.safetensors"), dict(tree_flatten(model.parameters())))
    write_tokenizer(folder, CONFIG["vocab_size"])
    return folder


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as openai has it: gate and up row by row in one array, blocks of 16 bytes, and all else as it is."""
    folder = tmp_path_factory.mktemp("original")
    model = random_mlx_model(CONFIG)
    nn.quantize(model, **MXFP4, class_predicate=lambda path, module: path.endswith("_proj") and ".experts." in path)
    weights: dict[str, mx.array] = {}
    for layer, block in enumerate(model.layers):
        name, experts = f"model.layers.{layer}.mlp.experts", block.mlp.experts
        gate, up, down = experts.gate_proj, experts.up_proj, experts.down_proj
        for part, kind in (("weight", "_blocks"), ("scales", "_scales"), ("bias", "_bias")):
            both = mx.stack([gate[part], up[part]], axis=2).flatten(1, 2)
            weights |= {f"{name}.gate_up_proj{kind}": both, f"{name}.down_proj{kind}": down[part]}
    rest = {name: a for name, a in tree_flatten(model.parameters()) if ".experts." not in name}
    weights = {name: blocks(a) if name.endswith("_blocks") else a for name, a in weights.items()}
    mx.save_safetensors(str(folder / "model.safetensors"), {**rest, **weights}, {"format": "pt"})
    how = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"]}
    (folder / "config.json").write_text(json.dumps({**CONFIG, "quantization_config": how}))
    write_tokenizer(folder, CONFIG["vocab_size"])
    return folder


def blocks(packed: mx.array) -> mx.array:
    """Words of eight numbers as blocks of 32, two numbers a byte."""
    made = packed.view(mx.uint8)
    return made.reshape(*made.shape[:-1], -1, 16)


def sites_of(model: Model) -> dict[str, np.ndarray]:
    names = [name for name in model.sites if name in KINDS and name != "experts"]
    out = model.run(TOKENS, capture=names, logits="all")
    return {str(site): np.asarray(out[str(site)]) for site in out.captured} | {"logits": np.asarray(out.logits)}


def assert_alike(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert np.linalg.norm(found[name] - value) < 1e-4 * np.linalg.norm(value), name


def test_every_site_is_that_of_the_same_numbers_in_full(community: Path) -> None:
    dense = quantised()
    profile.dequantize_layers(dense, mx.float32)
    plain = Model(dense, NumberTokenizer(), config=CONFIG, path=Path("dense"))
    kept, loaded, low = mi.load(community, dequantize=False), mi.load(community), mi.load(community, memory="low")
    assert mx.array_equal(low.run(TOKENS).logits, loaded.run(TOKENS).logits)
    assert low.n_parameters == kept.n_parameters == loaded.n_parameters
    assert {module.mode for _, module in profile.quantized_modules(kept.mlx_model)} == {"mxfp4", "affine"}
    assert kept.quantization == loaded.quantization == "mixed 4- and 8-bit mxfp4, group 32"
    expected = sites_of(plain)
    assert "expert_out.1" in expected
    assert_alike(sites_of(kept), expected)
    assert_alike(sites_of(loaded), expected)
    theirs = np.asarray(load_model(community)[0](mx.array([TOKENS])))
    own = np.asarray(kept.run(TOKENS, logits="all").logits)
    assert np.array_equal(own, np.asarray(kept.mlx_model(mx.array([TOKENS]))))
    # Dense matrices lie the other way round on Linux's CPU (engine/layout.py): MKL on AMD adds in another order there.
    assert np.abs(own - theirs).max() < 1e-6 * np.abs(theirs).max()


@pytest.mark.skipif(not profile.on_cpu(), reason="the CPU profile; run where MLX computes on CPU")
def test_experts_are_dequantised_like_all_else_where_that_is_faster(community: Path) -> None:
    kept = [path for path, _ in profile.quantized_modules(mi.load(community).mlx_model)]
    assert kept == ["model.embed_tokens"]  # which gives rows alone


def test_as_it_was_published_it_computes_what_transformers_does(original: Path) -> None:
    torch = pytest.importorskip("torch", reason="compares with transformers; `pip install torch` to run it")
    import transformers

    how = transformers.Mxfp4Config(dequantize=True)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        original, quantization_config=how, dtype=torch.float32, attn_implementation="eager"
    ).float()
    with torch.no_grad():
        expected = theirs(torch.tensor([TOKENS])).logits.numpy()
    for dequantize in (False, True):
        model = mi.load(original, dequantize=dequantize)
        found = np.asarray(model.run(TOKENS, logits="all").logits)
        assert np.abs(found - expected).max() < 1e-3 * np.abs(expected).max()
        assert model.network.layers[0].mlp.router.weight.dtype == mx.float32
