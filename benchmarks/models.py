"""The benchmark's models: random weights, 12 layers, d_model 512, 8 heads, 8192 tokens, float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.models import gemma2, lfm2, llama, qwen2, qwen3_5, qwen3_moe

from mlx_interp import Model

CLASSES: dict[str, Any] = {
    "llama": llama,
    "gemma2": gemma2,
    "qwen2": qwen2,
    "qwen3_moe": qwen3_moe,
    "qwen3_5": qwen3_5,
    "lfm2": lfm2,
}
RECENT = ("qwen3_moe", "qwen3_5", "lfm2")
"""Experts, and layers that hold a state or reach a few positions: three of four in the last two."""

SIZES = {
    "num_hidden_layers": 12,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "vocab_size": 8192,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
}
OWN: dict[str, dict[str, Any]] = {
    "llama": {"tie_word_embeddings": False},
    "qwen2": {"tie_word_embeddings": False},
    "qwen3_moe": {
        "head_dim": 64,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 256,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "max_position_embeddings": 1024,
        "tie_word_embeddings": False,
    },
    "qwen3_5": {
        "head_dim": 64,
        "linear_num_key_heads": 8,
        "linear_num_value_heads": 8,
        "linear_key_head_dim": 64,
        "linear_value_head_dim": 64,
        "linear_conv_kernel_dim": 4,
        "full_attention_interval": 4,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
        "max_position_embeddings": 1024,
        "tie_word_embeddings": False,
    },
    "lfm2": {
        "block_dim": 512,
        "block_ff_dim": 2048,
        "block_multiple_of": 1,
        "block_ffn_dim_multiplier": 1.0,
        "block_auto_adjust_ff_dim": False,
        "conv_bias": False,
        "conv_L_cache": 3,
        "norm_eps": 1e-5,
        "layer_types": ["conv", "conv", "conv", "full_attention"] * 3,
        "max_position_embeddings": 1024,
        "tie_word_embeddings": True,
    },
    "gemma2": {
        "head_dim": 64,
        "query_pre_attn_scalar": 64,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        "tie_word_embeddings": True,
    },
}


class TokenIds:
    """The benchmark works on token ids alone."""

    def decode(self, tokens: list[int], **_: bool) -> str:
        return " ".join(map(str, tokens)) + " "


def benchmark_config(family: str) -> dict[str, Any]:
    config = {"model_type": family, **SIZES, **OWN[family]}
    if family == "qwen3_5":  # its language model is inside of a larger one
        return {"model_type": family, "vocab_size": SIZES["vocab_size"], "text_config": config}
    return config


def benchmark_model(family: str) -> Model:
    """mlx-lm's own class with its own random initialisation (seed 0), wrapped."""
    config = benchmark_config(family)
    mx.random.seed(0)
    network = CLASSES[family].Model(CLASSES[family].ModelArgs.from_dict(config))
    mx.eval(network.parameters())
    model = Model(network, TokenIds(), config=config, path=Path(f"random-{family}"))
    model.self_check()
    return model


def benchmark_tokens(n: int) -> list[int]:
    return [int(token) for token in np.random.default_rng(0).integers(1, 8192, n)]
