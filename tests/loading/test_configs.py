"""Configs written by transformers 5 load with the numbers that transformers computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mlx_interp as mi
from mlx_interp.loading.configs import normalised
from tests.loading.checkpoints import write_tokenizer

SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "eos_token_id": 1,
    "bos_token_id": None,
    "pad_token_id": None,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 5e4,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
EVEN = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
GPT2_NAMES_OTHERWISE = ("hidden", "num", "intermediate")
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 3e5}}),
    "llama with RoPE scaling": ("Llama", {"rope_parameters": LLAMA3_ROPE}),
    "llama with linear RoPE scaling": (
        "Llama",
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}},
    ),
    "llama with tied head": ("Llama", {"tie_word_embeddings": True}),
    "qwen2": ("Qwen2", {}),
    "mistral": ("Mistral", {"head_dim": 10, "sliding_window": None}),
    "qwen2 with tied head": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3", {"head_dim": 10}),
    "qwen3 with yarn": (
        "Qwen3",
        {
            "head_dim": 10,
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 1e4,
                "factor": 4.0,
                "original_max_position_embeddings": 16,
            },
        },
    ),
    "gemma": ("Gemma", {"head_dim": 10}),
    "phi3": ("Phi3", {"sliding_window": None}),
    "phi3 with part of each head turned": (
        "Phi3",
        {
            "sliding_window": None,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5},
        },
    ),
    "granite": (
        "Granite",
        {"embedding_multiplier": 1.7, "attention_multiplier": 0.31, "residual_multiplier": 0.6, "logits_scaling": 2.3},
    ),
    # The root of 64 is a bfloat16 number, so that the rounding of mlx-lm's embedding scale is none.
    "gemma3": (
        "Gemma3Text",
        {**EVEN, "head_dim": 10, "query_pre_attn_scalar": 13, "sliding_window": 8, "num_hidden_layers": 7},
    ),
    "gemma3 with scaled global layers": (
        "Gemma3Text",
        {
            **EVEN,
            "head_dim": 10,
            "sliding_window": 8,
            "num_hidden_layers": 7,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e5},
                "sliding_attention": {"rope_type": "default", "rope_theta": 300.0},
            },
        },
    ),
    "gpt2": ("GPT2", {"n_embd": 48, "n_layer": 3, "n_head": 6, "n_positions": 64}),
    "gemma2": ("Gemma2", {"head_dim": 10, "query_pre_attn_scalar": 13, "attn_logit_softcapping": 4.0}),
}


@pytest.mark.parametrize("case", CASES)
def test_logits_equal_those_of_transformers(case: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="compares with transformers; `pip install torch` to run it")
    import transformers

    name, fields = CASES[case]
    torch.manual_seed(0)
    sizes = {
        key: value for key, value in SIZES.items() if name != "GPT2" or not key.startswith(("hidden", "num", "inter"))
    }
    config = getattr(transformers, f"{name}Config")(**{**sizes, **fields})
    config._attn_implementation = "eager"
    causal = {"GPT2": "GPT2LMHeadModel", "Gemma3Text": "Gemma3ForCausalLM"}.get(name, f"{name}ForCausalLM")
    reference = getattr(transformers, causal)(config).eval()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.15)
    reference.save_pretrained(tmp_path)
    write_tokenizer(tmp_path)

    tokens = np.random.default_rng(0).integers(2, 64, size=40).tolist()
    with torch.no_grad():
        expected = reference(torch.tensor([tokens])).logits[0].numpy()
    out = mi.load(tmp_path).run([tokens], logits="all")
    assert out.logits is not None
    bound = 1e-3 if name == "Gemma" else 1e-4  # mlx-lm's GELU for Gemma: docs/differences.md
    assert np.abs(np.asarray(out.logits)[0] - expected).max() < bound * np.abs(expected).max()


def test_rope_parameters_win_over_the_old_fields() -> None:
    config = normalised({"rope_theta": 1.0, "rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}, ())
    assert config["rope_theta"] == 5e5
    assert config["rope_scaling"] is None


def test_rope_scaling_keeps_its_settings() -> None:
    config = normalised({"rope_parameters": LLAMA3_ROPE}, ())
    assert config["rope_scaling"]["factor"] == 8.0
    assert config["rope_scaling"]["type"] == "llama3"


def test_local_and_global_layers_keep_their_own_base() -> None:
    rope = {
        "full_attention": {"rope_theta": 1e6, "rope_type": "default"},
        "sliding_attention": {"rope_theta": 1e4, "rope_type": "default"},
    }
    config = normalised({"rope_parameters": rope}, ())
    assert (config["rope_theta"], config["rope_local_base_freq"]) == (1e6, 1e4)


def test_an_unsaid_head_is_tied_only_if_no_other_is_stored() -> None:
    config = {"vocab_size": 5}
    assert normalised(config, ["model.norm.weight"])["tie_word_embeddings"] is True
    assert normalised(config, ["lm_head.weight"])["tie_word_embeddings"] is False
    assert normalised({**config, "tie_word_embeddings": True}, ["lm_head.weight"])["tie_word_embeddings"] is True


def test_what_an_old_config_says_stays_as_it_is() -> None:
    config = {"model_type": "llama", "rope_theta": 2.0, "rope_scaling": None, "tie_word_embeddings": False}
    found = normalised(config, ())
    assert {key: found[key] for key in config} == config
    assert normalised(found, ()) == found
