"""Small random models of every family; sizes differ pairwise, so that a transposed axis fails and never broadcasts."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.utils import MODEL_REMAPPING

from mlx_interp.loading.profile import pack_layers, quantized_modules
from mlx_interp.model import Model

BASE = {
    "num_hidden_layers": 3,
    "hidden_size": 30,
    "intermediate_size": 44,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "rms_norm_eps": 1e-5,
    "vocab_size": 101,
    "max_position_embeddings": 128,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}

FAMILY_CONFIGS: dict[str, dict[str, Any]] = {
    # head_dim times heads differs from d_model, and biases are on: unusual but legal.
    "llama": {**BASE, "model_type": "llama", "head_dim": 8, "attention_bias": True, "mlp_bias": True},
    "qwen2": {**BASE, "model_type": "qwen2", "hidden_size": 48},
    "gemma2": {
        **BASE,
        "model_type": "gemma2",
        "head_dim": 8,
        "query_pre_attn_scalar": 13,
        "attn_logit_softcapping": 5.0,
        "final_logit_softcapping": 3.0,
        "tie_word_embeddings": True,
    },
}


FAMILY_CONFIGS |= {
    "mistral": {**BASE, "model_type": "mistral", "head_dim": 8},
    "qwen3": {**BASE, "model_type": "qwen3", "head_dim": 8, "attention_bias": False},
    "gemma": {**BASE, "model_type": "gemma", "head_dim": 8, "tie_word_embeddings": True},
    # d_head is what d_model and heads make it; RoPE turns half of it.
    "phi3": {**BASE, "model_type": "phi3", "hidden_size": 48, "partial_rotary_factor": 0.5},
    "granite": {
        **BASE,
        "model_type": "granite",
        "hidden_size": 48,
        "attention_bias": True,
        "mlp_bias": True,
        "embedding_multiplier": 1.7,
        "attention_multiplier": 0.31,
        "residual_multiplier": 0.6,
        "logits_scaling": 2.3,
    },
    # Two of three layers look back four positions, less than the prompts of the tests; each kind has its own RoPE base.
    "gemma3_text": {
        **BASE,
        "model_type": "gemma3_text",
        "head_dim": 8,
        "query_pre_attn_scalar": 13,
        "sliding_window": 4,
        "sliding_window_pattern": 3,
        "rope_theta": 50000.0,
        "rope_local_base_freq": 300.0,
    },
    "gpt2": {
        "model_type": "gpt2",
        "n_layer": 3,
        "n_embd": 48,
        "n_head": 6,
        "n_positions": 40,
        "n_ctx": 40,
        "layer_norm_epsilon": 1e-5,
        "vocab_size": 101,
    },
}
# Attention and MLP side by side; RoPE turns half of each head, under names of its own in one of them.
FAMILY_CONFIGS |= {
    "gpt_neox": {
        "model_type": "gpt_neox",
        "num_hidden_layers": 3,
        "hidden_size": 48,
        "intermediate_size": 192,
        "num_attention_heads": 6,
        "layer_norm_eps": 1e-5,
        "vocab_size": 101,
        "max_position_embeddings": 128,
        "rotary_emb_base": 10000,
        "rotary_pct": 0.5,
        "use_parallel_residual": True,
        "hidden_act": "gelu_pytorch_tanh",
        "tie_word_embeddings": False,
    },
    "phi": {
        **{key: value for key, value in BASE.items() if key != "rms_norm_eps"},
        "model_type": "phi",
        "hidden_size": 48,
        "layer_norm_eps": 1e-5,
        "partial_rotary_factor": 0.5,
        "hidden_act": "gelu_new",
    },
}
FAMILY_CONFIGS["gemma3"] = {
    "model_type": "gemma3",
    "text_config": {**FAMILY_CONFIGS["gemma3_text"], "tie_word_embeddings": True},
    "vocab_size": 101,
}


# Norms stand after attention and MLP alone, those of queries and keys run over all heads; two of three layers of one
# look back four positions.
FAMILY_CONFIGS |= {
    "olmo2": {**BASE, "model_type": "olmo2", "hidden_size": 60, "attention_bias": True},
    "olmo3": {
        **BASE,
        "model_type": "olmo3",
        "hidden_size": 48,
        "sliding_window": 4,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
}


NO_RMS = {key: value for key, value in BASE.items() if key != "rms_norm_eps"}
# Layers without positions; attention and MLP side by side behind one norm; neighbours turned, half of a head in one.
FAMILY_CONFIGS |= {
    "smollm3": {
        **BASE,
        "model_type": "smollm3",
        "hidden_size": 48,
        "attention_bias": True,
        "mlp_bias": True,
        "no_rope_layers": [1, 0, 1],
    },
    "cohere": {
        **NO_RMS,
        "model_type": "cohere",
        "hidden_size": 48,
        "layer_norm_eps": 1e-5,
        "attention_bias": True,
        "logit_scale": 0.3,
        "use_qk_norm": True,
        "tie_word_embeddings": True,
    },
    "cohere2": {
        **NO_RMS,
        "model_type": "cohere2",
        "hidden_size": 48,
        "head_dim": 8,
        "layer_norm_eps": 1e-5,
        "logit_scale": 0.3,
        "sliding_window": 4,
        "sliding_window_pattern": 3,
        "tie_word_embeddings": True,
    },
    "gptj": {
        "model_type": "gptj",
        "n_layer": 3,
        "n_embd": 48,
        "n_head": 6,
        "n_positions": 128,
        "rotary_dim": 4,
        "layer_norm_epsilon": 1e-5,
        "vocab_size": 101,
        "tie_word_embeddings": False,
    },
}


# Five experts of which a token takes two: weights by the softmax over all, made to sum to one or not, or over the two.
FAMILY_CONFIGS |= {
    "qwen3_moe": {
        **BASE,
        "model_type": "qwen3_moe",
        "head_dim": 8,
        "num_experts": 5,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 14,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    },
    "mixtral": {
        **BASE,
        "model_type": "mixtral",
        "hidden_size": 48,
        "num_local_experts": 5,
        "num_experts_per_tok": 2,
    },
    "olmoe": {
        **BASE,
        "model_type": "olmoe",
        "hidden_size": 48,
        "num_experts": 5,
        "num_experts_per_tok": 3,
        "norm_topk_prob": False,
    },
    # Beside sinks; two of three layers look back four positions.
    "gpt_oss": {
        **BASE,
        "model_type": "gpt_oss",
        "head_dim": 8,
        "num_local_experts": 5,
        "num_experts_per_tok": 2,
        "sliding_window": 4,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
}


# Queries grow with every four positions, less than the prompts of the tests.
MINISTRAL3_ROPE = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "original_max_position_embeddings": 4,
    "llama_4_scaling_beta": 0.3,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
}
FAMILY_CONFIGS["ministral3"] = {
    **{key: value for key, value in BASE.items() if key != "rope_theta"},
    "model_type": "ministral3",
    "head_dim": 8,
    "max_position_embeddings": 32,
    "rope_parameters": MINISTRAL3_ROPE,
}
FAMILY_CONFIGS["mistral3"] = {
    "model_type": "mistral3",
    "text_config": {**FAMILY_CONFIGS["ministral3"], "hidden_size": 48, "tie_word_embeddings": True},
    "vocab_size": 101,
}


# Two of three layers hold a state: two heads of keys, four of values, and a convolution over three positions.
FAMILY_CONFIGS["qwen3_5"] = {
    "model_type": "qwen3_5",
    "text_config": {
        **{key: value for key, value in BASE.items() if key not in ("rope_theta", "num_hidden_layers")},
        "model_type": "qwen3_5_text",
        "num_hidden_layers": 4,
        "head_dim": 8,
        "attention_bias": True,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 7,
        "linear_value_head_dim": 9,
        "linear_conv_kernel_dim": 3,
        "full_attention_interval": 3,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
    },
    "vocab_size": 101,
}


# Heads of two sizes, one RoPE each; the last three layers attend to keys of the two before them, with wider MLPs.
FAMILY_CONFIGS["gemma4_text"] = {
    **{key: value for key, value in BASE.items() if key not in ("rope_theta", "num_hidden_layers")},
    "model_type": "gemma4_text",
    "num_hidden_layers": 6,
    "head_dim": 8,
    "global_head_dim": 12,
    "sliding_window": 4,
    "layer_types": [*(["sliding_attention", "sliding_attention", "full_attention"] * 2)],
    "num_kv_shared_layers": 3,
    "use_double_wide_mlp": True,
    "hidden_size_per_layer_input": 7,
    "vocab_size_per_layer_input": 101,
    "final_logit_softcapping": 3.0,
    "tie_word_embeddings": True,
    "rope_parameters": {
        "full_attention": {"rope_type": "proportional", "rope_theta": 1000.0, "partial_rotary_factor": 0.5},
        "sliding_attention": {"rope_type": "default", "rope_theta": 300.0},
    },
}
FAMILY_CONFIGS["gemma4"] = {
    "model_type": "gemma4",
    "text_config": {
        **FAMILY_CONFIGS["gemma4_text"],
        "num_kv_shared_layers": 0,
        "hidden_size_per_layer_input": 0,
        "final_logit_softcapping": None,
        "use_double_wide_mlp": False,
    },
    "vocab_size": 101,
}


# Two of three layers are convolutions over three positions; MLPs are wider than the config's number.
FAMILY_CONFIGS["lfm2"] = {
    **{key: value for key, value in NO_RMS.items() if key not in ("rope_theta", "tie_word_embeddings")},
    "model_type": "lfm2",
    "num_hidden_layers": 4,
    "hidden_size": 48,
    "norm_eps": 1e-5,
    "conv_bias": True,
    "conv_L_cache": 3,
    "block_dim": 48,
    "block_multiple_of": 7,
    "block_ffn_dim_multiplier": 1.7,
    "block_auto_adjust_ff_dim": True,
    "layer_types": ["conv", "conv", "full_attention", "conv"],
    "tie_word_embeddings": True,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
}


# Queries and keys of 8 numbers without positions and 4 with, values of 7; the first layer's MLP is not made of experts.
FAMILY_CONFIGS["deepseek_v2"] = {
    **BASE,
    "model_type": "deepseek_v2",
    "num_key_value_heads": 6,
    "q_lora_rank": None,
    "kv_lora_rank": 10,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 7,
    "n_routed_experts": 5,
    "num_experts_per_tok": 2,
    "n_shared_experts": 2,
    "moe_intermediate_size": 14,
    "first_k_dense_replace": 1,
    "routed_scaling_factor": 1.3,
    "topk_method": "greedy",
    "rope_scaling": {
        "rope_type": "yarn",
        "factor": 8.0,
        "original_max_position_embeddings": 16,
        "beta_fast": 32,
        "beta_slow": 1,
        "mscale": 0.7,
        "mscale_all_dim": 0.7,
    },
}


# Two of four layers are state spaces: four heads of values, one of keys; no layer has positions.
FAMILY_CONFIGS["granitemoehybrid"] = {
    **{key: value for key, value in BASE.items() if key != "num_hidden_layers"},
    "model_type": "granitemoehybrid",
    "num_hidden_layers": 4,
    "hidden_size": 48,
    "attention_bias": True,
    "layer_types": ["mamba", "attention", "mamba", "mamba"],
    "position_embedding_type": "nope",
    "num_local_experts": 0,
    "shared_intermediate_size": 44,
    "mamba_n_heads": 4,
    "mamba_d_head": 24,
    "mamba_d_state": 7,
    "mamba_n_groups": 1,
    "mamba_d_conv": 3,
    "mamba_expand": 2,
    "mamba_conv_bias": True,
    "mamba_proj_bias": True,
    "time_step_limit": [0.0, 100.0],
    "embedding_multiplier": 1.7,
    "attention_multiplier": 0.31,
    "residual_multiplier": 0.6,
    "logits_scaling": 2.3,
    "tie_word_embeddings": True,
}


RECENT = frozenset({"ministral3", "mistral3", "qwen3_5", "gemma4_text", "gemma4", "lfm2", "deepseek_v2"}) | {
    "granitemoehybrid"
}
"""Families whose sweeps, prefixes and caches tests/engine/test_recent_families.py compares."""


EVERYWHERE = frozenset(
    {"cohere2", "gemma2", "gemma3_text", "gemma4_text", "gpt2", "gpt_neox", "gpt_oss", "llama"}
    | {"lfm2", "olmo2", "qwen3_5", "qwen3_moe"}
)
"""Families that `make test` runs the engine's tests on: together they have all that a description can say. The others
are marked slow."""


def each_family(names: Iterable[str]) -> list[Any]:
    """Parameters of a test that runs on every family: those with nothing of their own are left to `make test-all`."""
    return [pytest.param(one, marks=() if one in EVERYWHERE else pytest.mark.slow) for one in sorted(names)]


class NumberTokenizer:
    """Stands in where only token ids matter: text is numbers with spaces between."""

    bos_token = None
    eos_token_id = None
    chat_template = None

    def __call__(self, text: str, **_: Any) -> dict[str, Any]:
        words = text.split()
        ends = np.cumsum([len(word) + 1 for word in words])
        return {
            "input_ids": [int(word) for word in words],
            "offset_mapping": [(int(end) - len(word) - 1, int(end) - 1) for end, word in zip(ends, words, strict=True)],
        }

    def decode(self, tokens: list[int], **_: Any) -> str:
        return " ".join(map(str, tokens)) + " "

    def convert_ids_to_tokens(self, tokens: list[int]) -> list[str]:
        return [str(token) for token in tokens]


def random_mlx_model(config: dict[str, Any], seed: int = 0, spread: float = 0.5) -> Any:
    """mlx-lm's own model of a config with random weights, norms and biases included."""
    model_type = MODEL_REMAPPING.get(config["model_type"], config["model_type"])
    module = importlib.import_module(f"mlx_lm.models.{model_type}")
    model = module.Model(module.ModelArgs.from_dict(copy.deepcopy(config)))
    if config["model_type"] == "gemma3":
        model.language_model.sanitize({})  # as mlx-lm does where the checkpoint has no head: the embedding is it
    rng = np.random.default_rng(seed)
    weights = []
    for name, value in tree_flatten(model.parameters()):
        if value.ndim == 1:
            less_one = config["model_type"].startswith("gemma") and not config["model_type"].startswith("gemma4")
            near = 0.0 if name.endswith("bias") or less_one else 1.0
            if config["model_type"] == "granitemoehybrid" and name.endswith(("A_log", "dt_bias")):
                near = -1.0  # a state that remembers more than a position
            weights.append((name, mx.array(rng.normal(near, 0.2, value.shape).astype(np.float32))))
        else:
            scale = spread if "embed" in name else spread * 3 / value.shape[-1] ** 0.5
            weights.append((name, mx.array(rng.normal(0, scale, value.shape).astype(np.float32))))
    model.update(tree_unflatten(weights))
    mx.eval(model.parameters())
    return model


def tiny_model(family: str, seed: int = 0, **overrides: Any) -> Model:
    """A wrapped random model of a family, with a tokenizer of numbers."""
    config = {**FAMILY_CONFIGS[family], **overrides}
    return Model(random_mlx_model(config, seed), NumberTokenizer(), config=config, path=Path(f"random-{family}"))


PACKED: dict[str, dict[str, Any]] = {
    "llama": {"hidden_size": 64, "head_dim": 32, "intermediate_size": 96},
    "qwen3_moe": {"hidden_size": 64, "head_dim": 32, "moe_intermediate_size": 32},
}
"""Sizes of which quantised groups can be made."""


def packed_model(family: str) -> Model:
    """A wrapped random model whose quantised matrices are dequantised when a product needs them."""
    model = tiny_model(family, **PACKED[family])
    nn.quantize(
        model.mlx_model,
        group_size=32,
        bits=5,
        class_predicate=lambda path, module: hasattr(module, "to_quantized") and not path.endswith("mlp.gate"),
    )
    pack_layers(model.mlx_model, mx.float32, [path for path, _ in quantized_modules(model.mlx_model)])
    return model
