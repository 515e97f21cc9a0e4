"""The config.json of each embedded model: the families at the same small size."""

from __future__ import annotations

from typing import Any

from mlx_interp.deferred import transformers
from mlx_interp.errors import UnknownModel, nearest

FAMILIES = ("llama", "gemma2", "qwen2", "mistral", "gpt2")

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
    # A window shorter than some in-context prompts: mlx-lm leaves it out, and the library says so where it matters.
    "mistral": {
        "architectures": ["MistralForCausalLM"],
        "num_key_value_heads": 2,
        "head_dim": 32,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "sliding_window": 128,
    },
    "qwen2": {
        "architectures": ["Qwen2ForCausalLM"],
        "num_key_value_heads": 2,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
    },
}

_GPT2: dict[str, Any] = {
    "architectures": ["GPT2LMHeadModel"],
    "n_embd": 128,
    "n_layer": 8,
    "n_head": 4,
    "n_positions": 512,
    "n_ctx": 512,
    "layer_norm_epsilon": 1e-5,
    "activation_function": "gelu_new",
    "tie_word_embeddings": True,
    "torch_dtype": "float32",
}


def has_bos(family: str) -> bool:
    """Llama, Mistral and Gemma put a BOS before every text; Qwen and GPT-2 have none."""
    return family not in ("qwen2", "gpt2")


def model_config(family: str, tokenizer: transformers.PreTrainedTokenizerFast, **sizes: int) -> dict[str, Any]:
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
    settings = _GPT2 if family == "gpt2" else {**_COMMON, **_OWN[family]}
    return {"model_type": family, **settings, **ids, **sizes}
