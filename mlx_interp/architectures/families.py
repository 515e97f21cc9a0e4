"""The families that the package describes: one `Family` per model type of mlx-lm, as data. Adding one means adding an
entry here, or registering it from outside: docs/adding_a_family.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from mlx_interp.architectures.activations import Form, gelu_tanh
from mlx_interp.architectures.experts import Experts, experts_in_full
from mlx_interp.architectures.family import Config, Family, Norms, Sizes
from mlx_interp.architectures.hybrids import GRANITE4, LFM2, QWEN3_5
from mlx_interp.architectures.kinds import (
    COMMON,
    GELU_TANH,
    NO_RMS,
    NORMS_AROUND,
    ROTARY,
    both_kinds,
    kind_of_window,
    only,
    only_if_said,
    root_of_width,
)
from mlx_interp.architectures.recent import DEEPSEEK_V2, GEMMA4, GEMMA4_TEXT, MINISTRAL3, MISTRAL3
from mlx_interp.deferred import mx

LLAMA = Family(
    model_type="llama",
    understands=COMMON | {"head_dim", "attention_bias", "mlp_bias", "layer_types", "sliding_window"},
    window=lambda decoder, layer: int(decoder.sliding_window) if decoder.layers[layer].use_sliding else None,
)

QWEN2 = Family(
    model_type="qwen2",
    # Qwen 2 lists a window and which layers would use it even when `use_sliding_window` switches it off.
    understands=COMMON | {"sliding_window", "max_window_layers", "layer_types"},
    refuses={"use_sliding_window": frozenset({True})},
)

GEMMA2 = Family(
    model_type="gemma2",
    understands=COMMON
    | {
        *("head_dim", "attn_logit_softcapping", "final_logit_softcapping", "query_pre_attn_scalar"),
        *("sliding_window", "sliding_window_size", "layer_types", "hidden_act", "use_bidirectional_attention"),
    },
    tied=only(True),
    norms=NORMS_AROUND,
    activation="geglu_tanh",
    embed_scale=root_of_width,
    softcap_scores="attn_logit_softcapping",
    softcap_logits="final_logit_softcapping",
    unread={"sliding_window": "attends to the whole prompt in every layer"},
    refuses={"use_bidirectional_attention": frozenset({True}), "tie_word_embeddings": frozenset({False})},
    needs=frozenset({"attn_logit_softcapping", "final_logit_softcapping"}),
    fixed={"hidden_activation": frozenset({"gelu_pytorch_tanh"})},  # `hidden_act` is an older name that nobody reads
)

MISTRAL = replace(
    LLAMA,
    model_type="mistral",  # mlx-lm runs it as a Llama
    unread={"sliding_window": "attends to the whole prompt"},
)

QWEN3 = Family(
    model_type="qwen3",
    understands=COMMON | {"head_dim", "attention_bias", "sliding_window", "max_window_layers", "layer_types"},
    qk_norm=True,
    refuses={"use_sliding_window": frozenset({True}), "attention_bias": frozenset({True})},
)

GEMMA = Family(
    model_type="gemma",
    understands=COMMON | {"head_dim", "use_bidirectional_attention"},
    tied=only(True),
    activation="geglu",
    embed_scale=root_of_width,
    # transformers reads "gelu" as the tanh approximation too: Gemma's first configs said it and meant that.
    fixed=dict.fromkeys(("hidden_act", "hidden_activation"), frozenset({"gelu", "gelu_pytorch_tanh"})),
    unread={"hidden_activation": "computes the exact GELU, not its tanh approximation: 2e-4 in the logits"},
    refuses={"use_bidirectional_attention": frozenset({True}), "tie_word_embeddings": frozenset({False})},
)

PHI3 = Family(
    model_type="phi3",
    understands=COMMON | {"partial_rotary_factor", "sliding_window"},
    qkv="fused",
    activation="fused_swiglu",
    tied=only_if_said,
    unread={"sliding_window": "attends to the whole prompt"},
    rereads=True,
)

GRANITE = Family(
    model_type="granite",
    understands=COMMON
    | {
        *("attention_bias", "mlp_bias", "embedding_multiplier", "attention_multiplier", "residual_multiplier"),
        "logits_scaling",
    },
    embed_scale=lambda args: float(args.embedding_multiplier),
    residual_scale="residual_multiplier",
    logits_divisor="logits_scaling",
)


def _rounded_root_of_width(args: Any) -> float:
    """mlx-lm rounds Gemma 3's embedding scale to bfloat16, whatever the model computes in."""
    return float(mx.array(math.sqrt(args.hidden_size), dtype=mx.bfloat16).astype(mx.float32))


def _uneven_windows(config: Config) -> str | None:
    """mlx-lm knows one global layer in every `sliding_window_pattern`, and needs one at least."""
    n_layers, pattern = int(config.get("num_hidden_layers", 26)), int(config.get("sliding_window_pattern") or 6)
    if pattern > n_layers:
        return f"has no global layer: sliding_window_pattern {pattern} with {n_layers} layers"
    kinds = ["full_attention" if layer % pattern == pattern - 1 else "sliding_attention" for layer in range(n_layers)]
    if config.get("layer_types") not in (None, kinds):
        return f"has layer_types that differ from its sliding_window_pattern of {pattern}"
    return None


GEMMA3_TEXT = Family(
    model_type="gemma3_text",
    understands=COMMON
    | {
        *("head_dim", "query_pre_attn_scalar", "sliding_window", "sliding_window_pattern", "_sliding_window_pattern"),
        *("layer_types", "rope_local_base_freq", "use_bidirectional_attention"),
    },
    tied=only(False),  # unless the checkpoint has no head
    norms=GEMMA2.norms,
    qk_norm=True,
    activation="geglu_tanh",
    embed_scale=_rounded_root_of_width,
    window=lambda decoder, layer: int(decoder.window_size) if decoder.layers[layer].self_attn.is_sliding else None,
    residual_sum="clipped",
    pattern_of_types="sliding_window_pattern",
    unread={"embed_scale": "rounds the embedding scale to bfloat16 in every precision: up to 2e-3 of it"},
    refuses={"use_bidirectional_attention": frozenset({True})},
    fixed={"hidden_activation": frozenset({"gelu_pytorch_tanh"})},
    objection=_uneven_windows,
)

# Vision and text: mlx-lm keeps the language model alone.
GEMMA3 = replace(GEMMA3_TEXT, model_type="gemma3", root="language_model", text_config="text_config")


def _other_width(mlp: str, model: str) -> Callable[[Config], str | None]:
    """Objects to an MLP (its key in the config) that is not four times as wide as the model: mlx-lm's is."""

    def objection(config: Config) -> str | None:
        if config.get(mlp) in (None, 4 * config.get(model, 0)):
            return None
        return f"has an MLP of {config[mlp]}, mlx-lm's is 4 x {config.get(model)} wide"

    return objection


# fmt: off
GPT2 = Family(
    model_type="gpt2",
    understands=frozenset(
        """n_embd n_head n_layer n_positions vocab_size layer_norm_epsilon tie_word_embeddings hidden_size
        num_attention_heads num_hidden_layers""".split()
    ),
    sizes=Sizes("n_layer", "n_head", "num_key_value_heads", "n_embd", None),
    embed="wte", positions="wpe", rope=False, layers="h", norm="ln_f", tied=only(True),
    norms=Norms(before_attn="ln_1", before_mlp="ln_2"),
    attention="attn", qkv="fused", qkv_name="c_attn", out="c_proj", down="c_proj",
    activation="gelu_tanh",
    read_as={"n_positions": "n_ctx"},
    dropped_prefix="transformer.",
    refuses={"tie_word_embeddings": frozenset({False})},
    fixed={"activation_function": frozenset({"gelu_new", "gelu_pytorch_tanh"})},
    objection=_other_width("n_inner", "n_embd"),
)

PYTHIA = Family(
    model_type="gpt_neox",
    understands=NO_RMS | {"use_parallel_residual", *ROTARY},
    sizes=Sizes(n_kv_heads="num_attention_heads", d_mlp=None),
    embed="embed_in", layers="h", norm="final_layer_norm", head="model.embed_out", tied=only(False),
    attention="attention", qkv="fused by head", qkv_name="query_key_value", out="dense",
    down="dense_4h_to_h", activation=Form(("dense_h_to_4h",), gelu_tanh),
    parallel="use_parallel_residual",
    read_as={"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"},
    unread={"hidden_act": "computes GELU's tanh approximation, where the checkpoint may say the exact one"},
    refuses={"tie_word_embeddings": frozenset({True})},
    fixed={"hidden_act": frozenset({"gelu", *GELU_TANH}), "attention_bias": frozenset({True})},
    objection=_other_width("intermediate_size", "hidden_size"),
)

PHI = Family(
    model_type="phi",
    understands=NO_RMS | {"partial_rotary_factor"},
    norm="final_layernorm", norms=Norms(before_mlp="input_layernorm"), tied=only(False),
    scale=None, wide_scores=True, out="dense",
    down="fc2", activation=Form(("fc1",), gelu_tanh),
    parallel=True,
    refuses={"tie_word_embeddings": frozenset({True}), "qk_layernorm": frozenset({True})},
    fixed={"hidden_act": frozenset(GELU_TANH)},
)
# fmt: on


OLMO2 = Family(
    model_type="olmo2",
    understands=COMMON | {"head_dim", "attention_bias"},
    tied=only_if_said,
    norms=Norms(None, "post_attention_layernorm", None, "post_feedforward_layernorm"),
    qk_norm="all heads",
)

OLMO3 = replace(
    OLMO2,
    model_type="olmo3",
    understands=OLMO2.understands - {"rope_traditional"} | {"layer_types", "sliding_window"},
    window=kind_of_window("sliding_window"),
    objection=both_kinds,
)

SMOLLM3 = replace(
    LLAMA,
    model_type="smollm3",
    understands=LLAMA.understands | {"no_rope_layers", "no_rope_layer_interval", "use_sliding_window"},
    unturned=lambda decoder, layer: not decoder.args.no_rope_layers[layer],
)

# fmt: off
COHERE = Family(
    model_type="cohere",
    understands=NO_RMS | {"attention_bias", "logit_scale", "use_qk_norm"},
    norms=Norms(before_mlp="input_layernorm"), parallel=True, qk_norm="use_qk_norm",
    tied=only(True), logits_factor="logit_scale",
    refuses={"tie_word_embeddings": frozenset({False}), "layer_norm_bias": frozenset({True})},
    needs=frozenset({"logit_scale"}),
)

COHERE2 = replace(
    COHERE,
    model_type="cohere2",
    understands=NO_RMS | {
        *("attention_bias", "logit_scale", "head_dim", "sliding_window", "sliding_window_pattern", "layer_types"),
    },
    qk_norm=False, wide_scores="of float16",
    window=lambda decoder, layer: None if _without_window(decoder, layer) else int(decoder.window_size),
    unturned=lambda decoder, layer: _without_window(decoder, layer),
    pattern_of_types="sliding_window_pattern",
    needs=frozenset({"logit_scale", "sliding_window"}),
    objection=lambda config: _uneven_windows({"sliding_window_pattern": 4, "num_hidden_layers": 40, **config}),
)


def _without_window(decoder: Any, layer: int) -> bool:
    return not decoder.layers[layer].self_attn.use_sliding_window


GPTJ = Family(
    model_type="gptj",
    understands=GPT2.understands - {"tie_word_embeddings"} | {"rotary_dim"},
    sizes=Sizes("n_layer", "n_head", "n_head", "n_embd", None),
    embed="wte", layers="h", norm="ln_f", tied=only(False),
    norms=Norms(before_attn="ln_1", before_mlp="ln_1"), parallel=True,
    attention="attn", scale="scale_attn", out="out_proj",
    down="fc_out", activation=Form(("fc_in",), gelu_tanh),
    refuses={"tie_word_embeddings": frozenset({True}), "rotary_dim": frozenset({0})},
    needs=frozenset({"rotary_dim"}),
    fixed={"activation_function": frozenset(GELU_TANH)},
    objection=_other_width("n_inner", "n_embd"),
)
# fmt: on

OF_EXPERTS = frozenset(
    """num_experts_per_tok num_experts num_local_experts output_router_logits router_aux_loss_coef
    router_jitter_noise""".split()
)
"""The number has two names, which transformers takes for one; the last three matter in training alone."""


def _dense_layers(config: Config) -> str | None:
    """Layers with one MLP among those with experts have other sites."""
    if config.get("mlp_only_layers") or config.get("decoder_sparse_step", 1) != 1:
        return "has layers without experts (mlp_only_layers, decoder_sparse_step), which are not described"
    return None


# fmt: off
QWEN3_MOE = replace(
    QWEN3,
    model_type="qwen3_moe",
    understands=QWEN3.understands | OF_EXPERTS | {
        *("moe_intermediate_size", "norm_topk_prob", "mlp_only_layers", "decoder_sparse_step"),
    },
    sizes=Sizes(d_mlp="moe_intermediate_size"), tied=only_if_said,
    experts=Experts(renormalised="norm_topk_prob"),
    objection=_dense_layers,
)

MIXTRAL = Family(
    model_type="mixtral",
    understands=COMMON | OF_EXPERTS | {"sliding_window"},
    tied=only_if_said,
    mlp="block_sparse_moe",
    experts=Experts(count="num_local_experts", softmax_first=False, largest_first=True),
    unread={"sliding_window": "attends to the whole prompt"},
)

OLMOE = Family(
    model_type="olmoe",
    understands=COMMON | OF_EXPERTS | {"head_dim", "attention_bias", "norm_topk_prob"},
    tied=only_if_said, qk_norm="all heads",
    experts=Experts(renormalised="norm_topk_prob", largest_first=True),
)

GPT_OSS = Family(
    model_type="gpt_oss",
    understands=COMMON - {"rope_traditional"} | OF_EXPERTS | {"head_dim", "sliding_window", "layer_types"},
    tied=only(False), scale="sm_scale", sinks="sinks",
    window=kind_of_window("window_size"),
    experts=Experts("router", "experts", count="num_local_experts", softmax_first=False),
    as_stored=experts_in_full,
    refuses={"tie_word_embeddings": frozenset({True})},
    fixed={"attention_bias": frozenset({True}), "swiglu_alpha": frozenset({1.702}), "swiglu_limit": frozenset({7.0})},
    objection=both_kinds,
)
# fmt: on

FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        *(LLAMA, QWEN2, GEMMA2, MISTRAL, QWEN3, GEMMA, PHI3, GRANITE, GEMMA3_TEXT, GEMMA3, GPT2, PYTHIA, PHI),
        *(OLMO2, OLMO3, SMOLLM3, COHERE, COHERE2, GPTJ, QWEN3_MOE, MIXTRAL, OLMOE, GPT_OSS),
        *(MINISTRAL3, MISTRAL3, QWEN3_5, GEMMA4_TEXT, GEMMA4, LFM2, DEEPSEEK_V2, GRANITE4),
    )
}
