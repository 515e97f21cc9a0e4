"""Keys of config.json as published checkpoints have them, around a small random model of each family."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

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
GPT2 = {"vocab_size": 64, "n_embd": 48, "n_layer": 3, "n_head": 6, "n_positions": 64}
GEMMA3 = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 7}
SHORT, LONG = [1.0, 1.1, 1.2, 1.3], [1.0, 2.0, 4.0, 8.0]
PYTHIA: dict[str, Any] = {"intermediate_size": 192, "num_key_value_heads": 6, "hidden_act": "gelu_pytorch_tanh"}
PYTHIA_ROPE = {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e3, "partial_rotary_factor": 0.5}
OFF: dict[str, Any] = {"sliding_window": None}


@dataclass(frozen=True)
class Variant:
    """A published form: the class it is of, how the weights were made, and what its config.json says otherwise."""

    kind: str
    fields: dict[str, Any] = field(default_factory=dict)
    """Arguments of the configuration class that the weights are made with."""
    written: dict[str, Any] = field(default_factory=dict)
    """Keys that config.json then has as well."""
    without: tuple[str, ...] = ()
    """Keys that it lacks."""
    ignored: tuple[str, ...] = ()
    """Keys that must be listed as bookkeeping."""


def old(theta: float, **rope: Any) -> dict[str, Any]:
    """RoPE as transformers 4 wrote it."""
    return {"rope_theta": theta, "rope_scaling": rope or None, "torch_dtype": "bfloat16"}


NEW = ("rope_parameters", "dtype", "layer_types")
LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
    "rope_type": "llama3",
}
YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
LONGROPE = {"type": "longrope", "short_factor": SHORT, "long_factor": LONG}
BOOKKEEPING = {
    "_name_or_path": "somebody/something",
    "auto_map": {
        "AutoConfig": "configuration_phi3.Phi3Config",
        "AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM",
    },
}
GEMMA4 = {
    "num_hidden_layers": 4,
    "head_dim": 10,
    "global_head_dim": 12,
    "sliding_window": 8,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "num_kv_shared_layers": 2,
    "hidden_size_per_layer_input": 6,
    "vocab_size_per_layer_input": 64,
}
LFM2 = {
    "num_hidden_layers": 4,
    "layer_types": ["conv", "full_attention"] * 2,
    "rope_parameters": {"rope_type": "default", "rope_theta": 300.0},
    "block_multiple_of": 8,
}
DEEPSEEK_V2 = {
    "num_key_value_heads": 6,
    "q_lora_rank": None,
    "kv_lora_rank": 12,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 10,
    "n_routed_experts": 5,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 1,
    "rope_parameters": {
        "rope_type": "yarn",
        "rope_theta": 1e4,
        "factor": 4.0,
        "original_max_position_embeddings": 16,
        "mscale": 0.7,
        "mscale_all_dim": 0.9,
    },
}
GPT_OSS: dict[str, Any] = {
    "head_dim": 8,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "sliding_window": 8,
    "max_position_embeddings": 64,
    "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
}
GRANITE4 = {
    "num_hidden_layers": 4,
    "layer_types": ["mamba", "attention", "mamba", "mamba"],
    "num_local_experts": 0,
    "shared_intermediate_size": 72,
    "mamba_n_heads": 4,
    "mamba_d_head": 24,
    "mamba_d_state": 7,
    "embedding_multiplier": 1.7,
    "attention_multiplier": 0.31,
    "residual_multiplier": 0.6,
    "logits_scaling": 2.3,
    "position_embedding_type": "nope",
    "tie_word_embeddings": True,
}
QWEN3_5 = {
    "num_hidden_layers": 4,
    "head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 7,
    "linear_value_head_dim": 9,
}
MINISTRAL3 = {
    "type": "yarn",
    "rope_theta": 1e6,
    "factor": 16.0,
    "original_max_position_embeddings": 5,
    "max_position_embeddings": 64,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale_all_dim": 1.0,
    "mscale": 1.0,
    "llama_4_scaling_beta": 0.4,
}

VARIANTS: dict[str, Variant] = {
    "llama, transformers 4": Variant("Llama", {}, {**old(5e5), "pretraining_tp": 1}, NEW),
    "llama, products split in training": Variant("Llama", {}, {**old(1e4), "pretraining_tp": 2}, NEW),
    "llama 3.1": Variant("Llama", {}, {**old(5e5, **LLAMA3), "mlp_bias": False}, NEW),
    "llama, wrapped by Unsloth": Variant(
        "Llama",
        {},
        {"unsloth_fixed": True, "unsloth_version": "2024.9", "_attn_implementation_autoset": True, "unk_token_id": 0},
        ignored=("_attn_implementation_autoset", "unk_token_id", "unsloth_fixed", "unsloth_version"),
    ),
    "llama, a model for browsers": Variant(
        "Llama",
        {},
        {
            "transformers.js_config": {"dtype": "q4", "kv_cache_dtype": {"q4f16": "float16"}},
            "is_llama_config": True,
            "rope_interleaved": False,
        },
        ignored=("is_llama_config", "rope_interleaved", "transformers.js_config"),
    ),
    "llama, lengths beside": Variant(
        "Llama",
        {},
        {"max_sequence_length": 2048, "seq_length": 2048, "_flash_attn_2_enabled": True, "use_scaled_rope": False},
        ignored=("_flash_attn_2_enabled", "max_sequence_length", "seq_length", "use_scaled_rope"),
    ),
    "llama, named": Variant("Llama", {}, {"model_name": "x", "name": "y", "mask_token_id": 3}, ignored=("model_name",)),
    "llama, original length at the top": Variant(
        "Llama",
        {"max_position_embeddings": 64},
        {**old(1e4, **{**YARN, "original_max_position_embeddings": 16}), "original_max_position_embeddings": 16},
        NEW,
    ),
    "llama, another implementation of attention": Variant(
        "Llama",
        {},
        {"_attn_implementation": "sdpa", "_pre_quantization_dtype": "bfloat16"},
        ignored=("_pre_quantization_dtype",),
    ),
    "llama, least": Variant(
        "Llama",
        {"num_key_value_heads": 6},
        {},
        (*NEW, "head_dim", "num_key_value_heads", "attention_bias", "mlp_bias", "tie_word_embeddings", "hidden_act"),
    ),
    "llama, tied without a word": Variant("Llama", {"tie_word_embeddings": True}, {}, ("tie_word_embeddings",)),
    "llama, nulls": Variant(
        "Llama", {"num_key_value_heads": 6}, {"head_dim": None, "num_key_value_heads": None, "rope_scaling": None}
    ),
    "llama, a window that its class does not know": Variant(
        "Llama",
        {},
        {"sliding_window": 4, "layer_types": ["sliding_attention"] * 3},
        ignored=("layer_types", "sliding_window"),
    ),
    "llama, yarn with attention factor": Variant(
        "Llama", {"max_position_embeddings": 64}, old(1e4, **YARN, attention_factor=0.7, finetuned=True), NEW
    ),
    "llama, yarn with mscale": Variant(
        "Llama", {"max_position_embeddings": 64}, old(1e4, **YARN, mscale=0.7, mscale_all_dim=1.4, beta_fast=16), NEW
    ),
    "llama, yarn without rounding": Variant(
        "Llama", {"max_position_embeddings": 64, "head_dim": 32}, old(1e4, **YARN, truncate=False), NEW
    ),
    "llama, dynamic NTK": Variant(
        "Llama", {"max_position_embeddings": 16}, old(1e4, type="dynamic", factor=2.0), NEW
    ),
    "mistral": Variant("Mistral", OFF, {**old(1e6), "sliding_window": None}, NEW),
    "mistral, a bias that its class does not know": Variant(
        "Mistral", OFF, {"attention_bias": False}, (), ("attention_bias",)
    ),
    "mistral, yarn": Variant("Mistral", {**OFF, "max_position_embeddings": 64}, old(1e6, **YARN), NEW),
    "qwen2.5": Variant(
        "Qwen2", {}, {**old(1e6), "use_sliding_window": False, "sliding_window": 4, "max_window_layers": 2}, NEW
    ),
    "qwen2, router left over": Variant("Qwen2", {}, {"output_router_logits": False}, (), ("output_router_logits",)),
    "qwen2.5, yarn": Variant("Qwen2", {"max_position_embeddings": 64}, {**old(1e6, **YARN), "use_mrope": False}, NEW),
    "qwen3": Variant("Qwen3", {"head_dim": 10}, old(1e6), NEW),
    "qwen3, llama 3's RoPE": Variant("Qwen3", {"head_dim": 10, "max_position_embeddings": 64}, old(1e6, **LLAMA3), NEW),
    "gemma": Variant("Gemma", {"head_dim": 10}, {**old(1e4), "hidden_act": "gelu", "hidden_activation": None}, NEW),
    "gemma, dynamic NTK": Variant(
        "Gemma", {"head_dim": 10, "max_position_embeddings": 16}, old(1e4, type="dynamic", factor=2.0), NEW
    ),
    "gemma 2": Variant("Gemma2", {"head_dim": 10}, {**old(1e4), "cache_implementation": "hybrid"}, NEW),
    "gemma 2, linear": Variant("Gemma2", {"head_dim": 10}, old(1e4, type="linear", factor=4.0), NEW),
    "gemma 2, llama 3's RoPE": Variant("Gemma2", {"head_dim": 10}, old(1e4, **LLAMA3), NEW),
    "gemma 3, transformers 4": Variant(
        "Gemma3Text",
        {**GEMMA3, "head_dim": 10, "sliding_window": 8},
        {**old(1e6, rope_type="linear", factor=8.0), "rope_local_base_freq": 300.0, "sliding_window_pattern": 6},
        (*NEW, "_sliding_window_pattern"),
    ),
    "phi 3": Variant("Phi3", OFF, {**old(1e4), **BOOKKEEPING, "attention_bias": False}, NEW, ("attention_bias",)),
    "phi 3.5, short of its original length": Variant(
        "Phi3",
        {**OFF, "max_position_embeddings": 128},
        {**old(1e4, **LONGROPE), "original_max_position_embeddings": 64},
        NEW,
    ),
    "phi 3.5, beyond its original length": Variant(
        "Phi3",
        {**OFF, "max_position_embeddings": 128},
        {**old(1e4, **LONGROPE), "original_max_position_embeddings": 16},
        NEW,
    ),
    "phi 4 mini": Variant(
        "Phi3",
        {**OFF, "max_position_embeddings": 128},
        {
            **old(1e4, type="longrope", short_factor=SHORT[:3], long_factor=LONG[:3]),
            "partial_rotary_factor": 0.75,
            "original_max_position_embeddings": 16,
            "interpolate_factor": 1,
        },
        NEW,
    ),
    "pythia": Variant("GPTNeoX", PYTHIA, {"rotary_pct": 0.25, "rotary_emb_base": 10000}, NEW),
    "pythia, transformers 5": Variant("GPTNeoX", {**PYTHIA, "rope_parameters": PYTHIA_ROPE}),
    "pythia, MLP after attention": Variant("GPTNeoX", {**PYTHIA, "use_parallel_residual": False}),
    "phi-2": Variant("Phi", {"partial_rotary_factor": 0.4}, {**old(1e4), "qk_layernorm": False}, NEW),
    "phi-2, least": Variant("Phi", {}, {}, (*NEW, "partial_rotary_factor", "hidden_act")),
    "granite": Variant("Granite", {"embedding_multiplier": 1.7, "logits_scaling": 2.3}, old(1e7), NEW),
    "granite, least": Variant(
        "Granite",
        {},
        {},
        (*NEW, "attention_multiplier", "embedding_multiplier", "logits_scaling", "residual_multiplier"),
    ),
    "olmo 2": Variant("Olmo2", {"rms_norm_eps": 1e-6}, old(5e5), NEW),
    "olmo 2, tied without a word": Variant("Olmo2", {"tie_word_embeddings": True}, {}, ("tie_word_embeddings",)),
    "olmo 3": Variant(
        "Olmo3",
        {"num_hidden_layers": 5, "sliding_window": 8, "max_position_embeddings": 64},
        old(5e5, rope_type="yarn", factor=4.0, original_max_position_embeddings=16, attention_factor=1.2),
        NEW,
    ),
    "olmo 3, another base": Variant(
        "Olmo3", {"num_hidden_layers": 4, "sliding_window": 8}, old(3e3), ("rope_parameters", "dtype")
    ),
    "smollm3": Variant(
        "SmolLM3",
        {"num_hidden_layers": 4},
        {**old(5e6), "pretraining_tp": 2, "max_window_layers": 28, "use_sliding_window": False},
        NEW,
    ),
    "smollm3, yarn": Variant("SmolLM3", {"max_position_embeddings": 64}, old(5e6, **YARN), NEW),
    "smollm3, least": Variant("SmolLM3", {"num_hidden_layers": 4}, {}, (*NEW, "no_rope_layers")),
    "command r": Variant("Cohere", {}, {**old(8e6), "logit_scale": 0.0625, "use_qk_norm": False}, NEW),
    "command r, least": Variant("Cohere", {"num_key_value_heads": 6}, {}, (*NEW, "logit_scale", "num_key_value_heads")),
    "command r7b": Variant(
        "Cohere2",
        {"num_hidden_layers": 5, "sliding_window": 8},
        {**old(5e4), "sliding_window_pattern": 4, "rotary_pct": 1.0, "order_of_interleaved_layers": "local_attn_first"},
        NEW,
    ),
    "command a, transformers 5": Variant("Cohere2", {"num_hidden_layers": 4, "sliding_window": 8}),
    "gpt j": Variant(
        "GPTJ", {**GPT2, "rotary_dim": 4}, {"rotary": True, "n_inner": None, "scale_attn_weights": True, "n_ctx": 64}
    ),
    "qwen3 moe": Variant(
        "Qwen3Moe",
        {"head_dim": 10, "num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 20},
        {**old(1e6), "max_window_layers": 3, "norm_topk_prob": True},
        NEW,
    ),
    "mixtral": Variant("Mixtral", {"num_local_experts": 5}, {**old(1e6), "sliding_window": None}, NEW),
    "olmoe": Variant("Olmoe", {"num_experts": 5, "num_experts_per_tok": 2}, {**old(1e4), "clip_qkv": None}, NEW),
    "qwen3 moe, transformers 5": Variant(
        "Qwen3Moe",
        {
            "head_dim": 10, "num_experts": 4, "num_experts_per_tok": 3, "moe_intermediate_size": 20,
            "norm_topk_prob": False, "rope_parameters": {"rope_type": "default", "rope_theta": 345.0},
        },
    ),
    "mixtral, transformers 5": Variant(
        "Mixtral", {"num_local_experts": 4, "rope_parameters": {"rope_type": "default", "rope_theta": 345.0}}
    ),
    "olmoe, transformers 5": Variant(
        "Olmoe",
        {
            "num_experts": 4, "num_experts_per_tok": 2, "norm_topk_prob": True, "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "linear", "factor": 3.0, "rope_theta": 345.0},
        },
    ),
    "gpt-oss, transformers 5": Variant("GptOss", GPT_OSS),
    "gpt-oss, as it was published": Variant(
        "GptOss",
        {**GPT_OSS, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
        {
            **old(150000, **{**YARN, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False}),
            "swiglu_limit": 7.0,
            "experts_per_token": 2,
            "initial_context_length": 16,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
        ("rope_parameters",),
        ("experts_per_token", "initial_context_length"),
    ),
    "ministral 3": Variant(
        "Ministral3",
        {"head_dim": 10, "max_position_embeddings": 64, "tie_word_embeddings": True, "rope_parameters": MINISTRAL3},
        {"sliding_window": None, "use_cache": True},
    ),
    "ministral 3, of its older form": Variant(
        "Ministral3",
        {"head_dim": 10, "max_position_embeddings": 64, "rope_parameters": MINISTRAL3},
        {"rope_theta": 1e6, "rope_scaling": {k: v for k, v in MINISTRAL3.items() if k != "rope_theta"}},
        ("rope_parameters",),
    ),
    "qwen 3.5, its language model alone": Variant("Qwen3_5Text", QWEN3_5),
    "qwen 3.5, another interval and half of each head turned": Variant(
        "Qwen3_5Text",
        {**QWEN3_5, "full_attention_interval": 3, "attention_bias": True, "tie_word_embeddings": True},
        {
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 300.0,
                "partial_rotary_factor": 0.5,
                "mrope_section": [1, 1, 1],
                "mrope_interleaved": True,
            },
            "mtp_num_hidden_layers": 1,
        },
        (),
        ("mtp_num_hidden_layers", "rope_parameters.mrope_section"),
    ),
    "qwen 3.5, written by an older transformers": Variant(
        "Qwen3_5Text", {**QWEN3_5, "full_attention_interval": 2}, {"full_attention_interval": 2}, ("layer_types",)
    ),
    "gemma 4, its language model alone": Variant("Gemma4Text", GEMMA4, {}, (), ()),
    "gemma 4, as it was published": Variant(
        "Gemma4Text",
        {**GEMMA4, "final_logit_softcapping": 3.0, "use_double_wide_mlp": True},
        {"global_head_dim": 12, "num_global_key_value_heads": None},
        ("per_layer_config",),
    ),
    "gemma 4, dense": Variant(
        "Gemma4Text",
        {**GEMMA4, "hidden_size_per_layer_input": 0, "num_kv_shared_layers": 0},
        {"use_bidirectional_attention": "vision"},
    ),
    "lfm 2": Variant("Lfm2", LFM2, {"block_dim": 48, "block_norm_eps": 1e-5}, (), ("block_norm_eps",)),
    "lfm 2, written by an older transformers": Variant(
        "Lfm2",
        {**LFM2, "block_multiple_of": 7, "tie_word_embeddings": True},
        {"full_attn_idxs": [1, 3], "block_ff_dim": 80, "block_dim": 48, "rope_theta": 300.0, "tie_embedding": True},
        ("layer_types", "rope_parameters", "intermediate_size", "tie_word_embeddings"),
    ),
    "deepseek v2": Variant("DeepseekV2", DEEPSEEK_V2),
    "deepseek v2 lite, as it was published": Variant(
        "DeepseekV2",
        {**DEEPSEEK_V2, "routed_scaling_factor": 1.7, "n_shared_experts": 1},
        {
            "rope_theta": 1e4, "rope_scaling": {**YARN, "mscale": 0.7, "mscale_all_dim": 0.9},
            "scoring_func": "softmax", "moe_layer_freq": 1, "norm_topk_prob": False, "n_group": 1, "topk_group": 1,
            "aux_loss_alpha": 0.001, "seq_aux": True, "ep_size": 1,
        },
        ("rope_parameters", "head_dim"),
        ("aux_loss_alpha", "ep_size", "seq_aux"),
    ),
    "granite 4, as transformers 5 writes it": Variant("GraniteMoeHybrid", GRANITE4),
    "granite 4 h micro, as it was published": Variant(
        "GraniteMoeHybrid",
        {**GRANITE4, "mamba_d_head": "auto"},
        {
            "layer_types": GRANITE4["layer_types"],
            "mamba_d_head": "auto",
            "normalization_function": "rmsnorm",
            "init_method": "mup",
            **old(1e4),
        },
        ("rope_parameters", "time_step_limit"),
        ("init_method", "normalization_function"),
    ),
    "granite 4 micro, attention alone": Variant(
        "GraniteMoeHybrid",
        {**GRANITE4, "layer_types": ["attention"] * 4, "position_embedding_type": "rope"},
        {"layer_types": ["attention"] * 4},
    ),
    "gpt 2": Variant("GPT2", GPT2, {"n_ctx": 64, "task_specific_params": {"text-generation": {"max_length": 50}}}),
}  # fmt: skip

LAYOUTS: dict[str, dict[str, Any]] = {
    "Llama": {},
    "Mistral": OFF,
    "Qwen2": {},
    "Qwen3": {"head_dim": 10},
    "Gemma": {"head_dim": 10},
    "Gemma2": {"head_dim": 10},
    "Phi3": OFF,
    "Granite": {},
}
"""Families whose RoPE has one base: each is written as transformers 4 and as transformers 5 write it."""
