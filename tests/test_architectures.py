"""A config is understood in full or refused by name."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

from mlx_interp import architectures
from mlx_interp.architectures import FAMILIES, family_of
from mlx_interp.errors import UnsupportedModel
from tests.tiny import FAMILY_CONFIGS


def test_a_family_is_described_in_twenty_lines_at_most() -> None:
    lines = {}
    for path in Path(architectures.__file__).parent.glob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
                made = ast.unparse(node.value)
                if made.startswith(("Family(", "replace(")) and "model_type=" in made:
                    assert node.end_lineno is not None
                    lines[ast.unparse(node.targets[0])] = node.end_lineno - node.lineno + 1
    assert len(lines) >= len(FAMILIES)
    assert {name: n for name, n in lines.items() if n > 20} == {}


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_described_config_is_understood(family: str) -> None:
    assert family_of({**FAMILY_CONFIGS[family], "torch_dtype": "float16", "use_cache": True}).model_type == family


@pytest.mark.parametrize(
    ("config", "hint"),
    [
        ({"model_type": "qwen2", "head_dim": 16, "num_attention_heads": 4, "hidden_size": 32}, "'head_dim' = 16"),
        ({"model_type": "qwen2", "use_sliding_window": True}, "'use_sliding_window' = True"),
        ({"model_type": "llama", "is_causal": False}, "'is_causal' = False"),
        ({"model_type": "llama", "per_layer_config": {"0": {"num_attention_heads": 2}}}, "'per_layer_config' = "),
        ({"model_type": "llama", "partial_rotary_factor": 0.5}, "'partial_rotary_factor' = 0.5"),
        (
            {"model_type": "llama", "auto_map": {"AutoModelForCausalLM": "modeling_own.OwnForCausalLM"}},
            "'auto_map' names",
        ),
        ({"model_type": "gemma2", "attn_logit_softcapping": None}, "'attn_logit_softcapping' = None"),
        ({"model_type": "gemma2", "final_logit_softcapping": None}, "'final_logit_softcapping' = None"),
        ({"model_type": "gemma3_text", "final_logit_softcapping": 30.0}, "'final_logit_softcapping' = 30.0"),
        ({"model_type": "gemma", "hidden_act": "silu"}, "'hidden_act' = 'silu'"),
        ({"model_type": "llama", "hidden_act": "gelu"}, "'hidden_act' = 'gelu'"),
        ({"model_type": "gemma2", "tie_word_embeddings": False}, "'tie_word_embeddings' = False"),
        ({"model_type": "gemma2", "hidden_activation": "silu"}, "'hidden_activation' = 'silu'"),
        ({"model_type": "gemma3_text", "num_hidden_layers": 4, "sliding_window_pattern": 6}, "has no global layer"),
        (
            {"model_type": "gemma3_text", "num_hidden_layers": 6, "layer_types": ["full_attention"] * 6},
            "layer_types that differ",
        ),
        ({"model_type": "gemma3", "text_config": {"use_bidirectional_attention": True}}, "bidirectional"),
        ({"model_type": "gpt2", "n_embd": 48, "n_inner": 100}, "MLP of 100, mlx-lm's is 4 x 48"),
        ({"model_type": "gpt2", "n_embd": 48, "activation_function": "relu"}, "'activation_function' = 'relu'"),
        ({"model_type": "gpt2", "scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ({"model_type": "lama"}, "did you mean 'llama'"),
        ({"model_type": "mamba2"}, "is not described"),
        ({}, "no 'model_type'"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(config: dict[str, Any], hint: str) -> None:
    with pytest.raises(UnsupportedModel, match=hint):
        family_of(config)


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "qwen2", "head_dim": 8, "num_attention_heads": 4, "hidden_size": 32},
        {"model_type": "qwen2", "use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 21},
        {"model_type": "llama", "pretraining_tp": 2, "hidden_act": "silu", "mlp_bias": False},
        {"model_type": "llama", "attention_sinks": 4, "unk_token_id": 0, "use_scaled_rope": True},
        {"model_type": "phi3", "auto_map": {"AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM"}},
        {"model_type": "gemma", "hidden_act": "gelu", "hidden_activation": None},
        {"model_type": "gpt2", "n_embd": 48, "n_inner": 192, "activation_function": "gelu_new"},
        {"model_type": "gemma3", "text_config": {"num_hidden_layers": 34, "sliding_window": 1024}},
    ],
)
def test_keys_that_change_nothing_are_accepted(config: dict[str, Any]) -> None:
    assert family_of(config).model_type == config["model_type"]
