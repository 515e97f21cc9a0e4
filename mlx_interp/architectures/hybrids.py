"""Families of which some layers have another mixer than attention."""

from __future__ import annotations

from typing import Any

from mlx_interp.architectures.activations import FORMS, Form
from mlx_interp.architectures.family import Config, Family, Norms, Sizes
from mlx_interp.architectures.kinds import COMMON, only, only_if_said
from mlx_interp.architectures.mixers import DELTA_NET, MAMBA2, SHORT_CONV

LINEAR = frozenset(f"linear_{name}" for name in ("conv_kernel_dim", "key_head_dim", "value_head_dim", "num_key_heads"))


def _uneven_attention(config: Config) -> str | None:
    """mlx-lm knows one layer with attention in every `full_attention_interval`."""
    n_layers, interval = int(config.get("num_hidden_layers", 32)), int(config.get("full_attention_interval") or 4)
    if interval > n_layers:
        return f"has no layer with attention: full_attention_interval {interval} with {n_layers} layers"
    kinds = ["linear_attention" if (layer + 1) % interval else "full_attention" for layer in range(n_layers)]
    if config.get("layer_types") not in (None, kinds):
        return f"has layer_types that differ from its full_attention_interval of {interval}"
    return None


# Vision and text here too. Most layers hold a state instead of keys and values; the others gate what heads give.
QWEN3_5 = Family(
    model_type="qwen3_5",
    root="language_model",
    text_config="text_config",
    understands=COMMON - {"rope_traditional"}
    | LINEAR
    | {"linear_num_value_heads", "head_dim", "attention_bias", "layer_types", "full_attention_interval"}
    | {"partial_rotary_factor"},
    tied=only_if_said,
    qk_norm=True,
    mixer=DELTA_NET,
    attn_gate=True,
    reads_rope=True,
    pattern_of_types="full_attention_interval",
    objection=_uneven_attention,
)


def _other_layers(config: Config) -> str | None:
    """mlx-lm takes `full_attn_idxs` before `layer_types`, transformers the other way round."""
    kinds, attending = config.get("layer_types") or (), config.get("full_attn_idxs")
    if others := set(kinds) - {"conv", "full_attention"}:
        return f"has layers of {', '.join(sorted(others))}"
    if kinds and "full_attention" not in kinds:
        return "has no layer with attention"
    if kinds and attending is not None and attending != [i for i, kind in enumerate(kinds) if kind != "conv"]:
        return f"has full_attn_idxs {attending} and other layer_types"
    return None


# fmt: off
LFM2 = Family(
    model_type="lfm2",
    understands=COMMON - {"rms_norm_eps", "rope_traditional"} | {
        *("norm_eps", "conv_bias", "conv_L_cache", "layer_types", "full_attn_idxs", "block_dim", "block_ff_dim"),
        *("block_multiple_of", "block_ffn_dim_multiplier", "block_auto_adjust_ff_dim"),
    },
    sizes=Sizes(d_mlp=""), norm="embedding_norm", tied=only(True),
    norms=Norms(before_attn="operator_norm", before_mlp="ffn_norm"),
    qk_norm=True, q_norm="q_layernorm", k_norm="k_layernorm", out="out_proj",
    mlp="feed_forward", down="w2", activation=Form(("w1", "w3"), FORMS["swiglu"].combine),
    mixer=SHORT_CONV,
    adapted=lambda config: {"block_dim": config["hidden_size"]} if "hidden_size" in config else {},
    refuses=dict.fromkeys(("tie_word_embeddings", "tie_embedding"), frozenset({False})),
    needs=frozenset({"block_ffn_dim_multiplier"}),
    objection=_other_layers,
)
# fmt: on

MAMBA_KINDS = {"linear_attention": "mamba", "full_attention": "attention"}
"""What transformers 5 calls layers, and what mlx-lm does."""


def _as_mlx_lm_says(config: dict[str, Any]) -> dict[str, Any]:
    """mlx-lm turns queries unless it is told not to, and takes no word for the size of heads."""
    kinds = config.get("layer_types") or config.get("layers_block_type") or ()
    found: dict[str, Any] = {"layer_types": [MAMBA_KINDS.get(kind, kind) for kind in kinds]}
    if config.get("position_embedding_type") != "rope":
        found["position_embedding_type"] = "nope"
    if config.get("mamba_d_head") == "auto":
        found["mamba_d_head"] = config["mamba_expand"] * config["hidden_size"] // config["mamba_n_heads"]
    return found


def _other_granite(config: Config) -> str | None:
    if "attention" not in (config.get("layer_types") or ["attention"]):
        return "has no layer with attention"
    if config.get("num_local_experts"):
        return f"has {config['num_local_experts']} experts beside its MLP, which are not described"
    return None


# Granite 4, without experts (H Micro, H 1B, H 350M, and those of attention alone).
GRANITE4 = Family(
    model_type="granitemoehybrid",
    understands=COMMON - {"rope_traditional"}
    | {"attention_bias", "embedding_multiplier", "attention_multiplier", "residual_multiplier", "logits_scaling"}
    | {"layer_types", "layers_block_type", "position_embedding_type", "shared_intermediate_size", "time_step_limit"}
    | {f"mamba_{name}" for name in ("n_heads", "d_head", "d_state", "d_conv", "expand", "chunk_size")}
    | {"mamba_conv_bias", "mamba_proj_bias", "num_local_experts", "num_experts_per_tok", "output_router_logits"}
    | {"router_aux_loss_coef"},
    sizes=Sizes(d_mlp=""),
    tied=only_if_said,
    mixer=MAMBA2,
    unturned=lambda decoder, layer: decoder.layers[layer].self_attn.rope is None,
    embed_scale=lambda args: float(args.embedding_multiplier),
    residual_scale="residual_multiplier",
    logits_divisor="logits_scaling",
    read_as={"shared_intermediate_size": "intermediate_size"},
    adapted=_as_mlx_lm_says,
    fixed={"mamba_n_groups": frozenset({1})},
    objection=_other_granite,
)
