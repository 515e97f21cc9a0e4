"""What llama.cpp writes for each architecture, as data: names of metadata keys and tensors, and what a file leaves out.

A key or tensor that stands in no table stops the load: what nobody reads could be a wrong number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

Config = Mapping[str, Any]
Place = tuple[str, str]
"""Name of a module in mlx-lm, and the sizes of its weight: rows and columns, by the letters of `SIZES`."""

SIZES = {
    "D": "embedding_length",
    "F": "feed_forward_length",
    "V": "number of tokens",
    "P": "context_length",
    "H": "attention.key_length",
    "Q": "attention.head_count x attention.key_length",
    "K": "attention.head_count_kv x attention.key_length",
}
"""What the letters of tensor shapes stand for, as metadata calls it; "Q+2K" is a sum, "2F" and "3D" products."""

FIELDS = {
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "rope.freq_base": "rope_theta",
    "attention.sliding_window": "sliding_window",
}
"""Metadata keys, behind the architecture's name, that are fields of config.json under another name."""

REQUIRED = ("context_length", "embedding_length", "block_count", "feed_forward_length", "attention.head_count")

LLAMA_TENSORS: dict[str, Place] = {
    "token_embd": ("model.embed_tokens", "V D"),
    "output_norm": ("model.norm", "D"),
    "output": ("lm_head", "V D"),
    "blk.*.attn_norm": ("model.layers.*.input_layernorm", "D"),
    "blk.*.attn_q": ("model.layers.*.self_attn.q_proj", "Q D"),
    "blk.*.attn_k": ("model.layers.*.self_attn.k_proj", "K D"),
    "blk.*.attn_v": ("model.layers.*.self_attn.v_proj", "K D"),
    "blk.*.attn_output": ("model.layers.*.self_attn.o_proj", "D Q"),
    "blk.*.ffn_norm": ("model.layers.*.post_attention_layernorm", "D"),
    "blk.*.ffn_gate": ("model.layers.*.mlp.gate_proj", "F D"),
    "blk.*.ffn_up": ("model.layers.*.mlp.up_proj", "F D"),
    "blk.*.ffn_down": ("model.layers.*.mlp.down_proj", "D F"),
}
QK_NORMS: dict[str, Place] = {
    "blk.*.attn_q_norm": ("model.layers.*.self_attn.q_norm", "H"),
    "blk.*.attn_k_norm": ("model.layers.*.self_attn.k_norm", "H"),
}
GEMMA_TENSORS: dict[str, Place] = LLAMA_TENSORS | {
    "blk.*.post_attention_norm": ("model.layers.*.post_attention_layernorm", "D"),
    "blk.*.ffn_norm": ("model.layers.*.pre_feedforward_layernorm", "D"),
    "blk.*.post_ffw_norm": ("model.layers.*.post_feedforward_layernorm", "D"),
}
PHI3_TENSORS: dict[str, Place] = {
    **{name: place for name, place in LLAMA_TENSORS.items() if name not in ("blk.*.attn_q", "blk.*.attn_k")},
    "blk.*.attn_qkv": ("model.layers.*.self_attn.qkv_proj", "Q+2K D"),
    "blk.*.ffn_up": ("model.layers.*.mlp.gate_up_proj", "2F D"),
}
del PHI3_TENSORS["blk.*.attn_v"], PHI3_TENSORS["blk.*.ffn_gate"]
# With "model." in front mlx-lm's class takes matrices as they are, (out, in); without it, it transposes them.
GPT2_TENSORS: dict[str, Place] = {
    "token_embd": ("model.wte", "V D"),
    "position_embd": ("model.wpe", "P D"),
    "output_norm": ("model.ln_f", "D"),
    "output": ("lm_head", "V D"),
    "blk.*.attn_norm": ("model.h.*.ln_1", "D"),
    "blk.*.attn_qkv": ("model.h.*.attn.c_attn", "3D D"),
    "blk.*.attn_output": ("model.h.*.attn.c_proj", "D D"),
    "blk.*.ffn_norm": ("model.h.*.ln_2", "D"),
    "blk.*.ffn_up": ("model.h.*.mlp.c_fc", "F D"),
    "blk.*.ffn_down": ("model.h.*.mlp.c_proj", "D F"),
}


@dataclass(frozen=True)
class Described:
    """How llama.cpp writes one architecture."""

    model_type: str
    """What transformers calls it."""
    class_name: str
    tensors: Mapping[str, Place] = field(default_factory=lambda: LLAMA_TENSORS)
    fields: Mapping[str, str] = field(default_factory=lambda: FIELDS)
    permuted: tuple[str, ...] = ()
    """Tensors whose rows llama.cpp reorders, head by head, for its kind of RoPE."""
    norm_offset: float = 0.0
    """What llama.cpp adds to the weights of norms."""
    constants: Mapping[str, Any] = field(default_factory=dict)
    """Fields of config.json that no GGUF file of the architecture states."""
    implied: Callable[[Config], dict[str, Any]] = lambda config: {}
    """Fields that follow from others by the rules that llama.cpp has in its code."""
    partial_rope: bool = False
    """Whether RoPE may turn a part of each head."""
    extra: frozenset[str] = frozenset()
    """Further metadata keys that enter the config by `implied`, under their own names."""


def _gemma2(config: Config) -> dict[str, Any]:
    large = config["num_hidden_layers"] == 46  # 27B alone divides by the root of width / heads
    width = config["hidden_size"] // config["num_attention_heads"] if large else config["head_dim"]
    return {
        "query_pre_attn_scalar": width,
        "attn_logit_softcapping": config.get("attn_logit_softcapping", 50.0),
        "final_logit_softcapping": config.get("final_logit_softcapping", 30.0),
        "sliding_window": config.get("sliding_window", 4096),
    }


def _gemma3(config: Config) -> dict[str, Any]:
    large = config["num_hidden_layers"] == 62  # 27B alone divides by the root of width / heads
    width = config["hidden_size"] // config["num_attention_heads"] if large else config["head_dim"]
    return {"query_pre_attn_scalar": width}


GEMMA2 = Described(
    model_type="gemma2",
    class_name="Gemma2ForCausalLM",
    tensors=GEMMA_TENSORS,
    norm_offset=1.0,
    constants={"hidden_activation": "gelu_pytorch_tanh", "attention_bias": False},
    implied=_gemma2,
    extra=frozenset({"attn_logit_softcapping", "final_logit_softcapping"}),
)
LLAMA = Described("llama", "LlamaForCausalLM", permuted=("attn_q", "attn_k"), constants={"hidden_act": "silu"})

DESCRIBED: dict[str, Described] = {
    "llama": LLAMA,
    "qwen2": Described("qwen2", "Qwen2ForCausalLM", constants={"hidden_act": "silu"}),
    "qwen3": Described("qwen3", "Qwen3ForCausalLM", tensors=LLAMA_TENSORS | QK_NORMS, constants={"hidden_act": "silu"}),
    "gemma2": GEMMA2,
    "gemma3": replace(
        GEMMA2,
        model_type="gemma3_text",
        class_name="Gemma3ForCausalLM",
        tensors=GEMMA_TENSORS | QK_NORMS,
        constants={**GEMMA2.constants, "rope_local_base_freq": 10000.0, "sliding_window_pattern": 6},
        implied=_gemma3,
        extra=frozenset({"rope.freq_base_swa", "attention.sliding_window_pattern"}),
    ),
    "phi3": Described(
        "phi3", "Phi3ForCausalLM", tensors=PHI3_TENSORS, constants={"hidden_act": "silu"}, partial_rope=True
    ),
    "gpt2": Described(
        model_type="gpt2",
        class_name="GPT2LMHeadModel",
        tensors=GPT2_TENSORS,
        fields={
            "context_length": "n_positions",
            "embedding_length": "n_embd",
            "block_count": "n_layer",
            "feed_forward_length": "n_inner",
            "attention.head_count": "n_head",
            "attention.layer_norm_epsilon": "layer_norm_epsilon",
        },
        constants={"activation_function": "gelu_new"},
    ),
}
"""By the name in general.architecture. Mistral and SmolLM2 files call themselves "llama"."""
