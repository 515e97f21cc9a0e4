"""The benchmark's models: random weights, 12 layers, d_model 512, 8 heads, 8192 tokens, float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.models import gemma2, llama, qwen2

from mlx_interp import Model

CLASSES: dict[str, Any] = {"llama": llama, "gemma2": gemma2, "qwen2": qwen2}

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
    return {"model_type": family, **SIZES, **OWN[family]}


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
