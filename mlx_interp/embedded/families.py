"""The config.json of each embedded model: the three families at the same small size."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedTokenizerFast

from mlx_interp.errors import UnknownModel, nearest

FAMILIES = ("llama", "gemma2", "qwen2")

_COMMON: dict[str, Any] = {
    "hidden_size": 128,
    "num_hidden_layers": 8,
    "intermediate_size": 384,
    "num_attention_heads": 4,
    "max_position_embeddings": 2048,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "float32",
}

_OWN: dict[str, dict[str, Any]] = {
    "llama": {
        "architectures": ["LlamaForCausalLM"],
        "num_key_value_heads": 4,
        "head_dim": 32,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "attention_bias": False,
        "mlp_bias": False,
    },
    "gemma2": {
        "architectures": ["Gemma2ForCausalLM"],
        "num_key_value_heads": 2,
        "head_dim": 32,
        "query_pre_attn_scalar": 32,
        "hidden_activation": "gelu_pytorch_tanh",
        "rms_norm_eps": 1e-6,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        "sliding_window": 2048,
        "attention_bias": False,
    },
    "qwen2": {
        "architectures": ["Qwen2ForCausalLM"],
        "num_key_value_heads": 2,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
    },
}


def has_bos(family: str) -> bool:
    """Llama and Gemma put a BOS before every text; Qwen has none."""
    return family != "qwen2"


def model_config(family: str, tokenizer: PreTrainedTokenizerFast, **sizes: int) -> dict[str, Any]:
    """The config of one family for a tokenizer; `sizes` overrides fields, for tests.

    Raises UnknownModel for a family that is not trained here.
    """
    if family not in FAMILIES:
        raise UnknownModel(f"no family {family!r}: {nearest(family, FAMILIES)}there are {', '.join(FAMILIES)}")
    ids = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    return {"model_type": family, **_COMMON, **_OWN[family], **ids, **sizes}
