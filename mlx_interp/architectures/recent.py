"""Descriptions of families whose layers are not all of one make, or whose positions enter twice."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mlx_interp.architectures.activations import GATE_UP, Form
from mlx_interp.architectures.experts import Experts
from mlx_interp.architectures.family import Config, Family, Sizes
from mlx_interp.architectures.kinds import COMMON, NORMS_AROUND, only, only_if_said, root_of_width
from mlx_interp.architectures.latent import Latent
from mlx_interp.architectures.own_inputs import OwnInputs
from mlx_interp.deferred import mlx_lm, mx

QUERY_SCALE = ("llama_4_scaling_beta", "original_max_position_embeddings")


def _scale_of_late_queries(args: Any, positions: mx.array) -> mx.array:
    """1 + beta x log(1 + how many times the original length a position lies beyond its beginning)."""
    beta, original = (args.rope_parameters[name] for name in QUERY_SCALE)
    scale: mx.array = 1 + beta * mx.log(1 + mx.floor(positions / original))
    return scale


def _no_query_scale(config: Config) -> str | None:
    """mlx-lm's class needs both settings, and knows windows by `layer_types`, which transformers does not read."""
    rope = config.get("rope_parameters") or {}
    if lacking := [name for name in QUERY_SCALE if rope.get(name) is None]:
        return f"has no {' and no '.join(lacking)} in its rope_parameters"
    if config.get("sliding_window") is not None:
        return f"has a window of {config['sliding_window']} in every layer"
    if "full_attention" not in (config.get("layer_types") or ["full_attention"]):
        return "has layer_types without 'full_attention'"
    return None


MINISTRAL3 = Family(
    model_type="ministral3",
    understands=COMMON - {"rope_traditional"} | {"head_dim", "sliding_window"},
    tied=only_if_said,
    query_scale=_scale_of_late_queries,
    reads_rope=True,
    objection=_no_query_scale,
)


def _other_text(config: Config) -> str | None:
    if (found := config.get("model_type", "ministral3")) != "ministral3":
        return f"holds a language model of type {found!r}, ministral3 is described"
    return _no_query_scale(config)


# Vision and text: mlx-lm keeps the language model alone.
MISTRAL3 = replace(
    MINISTRAL3,
    model_type="mistral3",
    root="language_model",
    text_config="text_config",
    text_type="ministral3",
    objection=_other_text,
)


def _full_heads(config: Config) -> Any:
    """What layers without a window have otherwise, as transformers 5 writes it; None where it writes nothing, False
    where it is something else than a size of heads."""
    kinds, own = config.get("layer_types") or (), config.get("per_layer_config")
    if not own:
        return None
    given = [own.get(str(layer), own.get(layer)) for layer, kind in enumerate(kinds) if kind == "full_attention"]
    even = len(own) == len(given) and all(one == given[0] and set(one or ()) == {"head_dim"} for one in given)
    return given[0] if even else False


def _uneven_heads(config: Config) -> str | None:
    """mlx-lm knows one size of heads for layers with a window and one for those without, keys shared at the end."""
    kinds = list(config.get("layer_types") or ())
    n_own = len(kinds) - int(config.get("num_kv_shared_layers") or 0)
    if _full_heads(config) is False:
        return "has a per_layer_config of other things than head_dim in its layers without a window"
    if kinds[-1:] not in ([], ["full_attention"]):
        return f"has a last layer of {kinds[-1]!r}"
    if kinds and (n_own <= 0 or set(kinds) != set(kinds[:n_own])):
        return f"has layers that share keys of none before them ({n_own} of {len(kinds)} have their own)"
    if config.get("hidden_size_per_layer_input") and config.get("vocab_size_per_layer_input", 0) < config["vocab_size"]:
        return f"has {config.get('vocab_size_per_layer_input')} embeddings by layer for {config['vocab_size']} tokens"
    return None


# fmt: off
GEMMA4_TEXT = Family(
    model_type="gemma4_text",
    understands=COMMON - {"rope_traditional"} | {
        *("head_dim", "global_head_dim", "num_global_key_value_heads", "per_layer_config", "num_kv_shared_layers"),
        *("sliding_window", "layer_types", "use_double_wide_mlp", "partial_rotary_factor", "final_logit_softcapping"),
        *("hidden_size_per_layer_input", "vocab_size_per_layer_input"),
    },
    sizes=Sizes(d_mlp=""), norms=NORMS_AROUND, qk_norm=True, v_norm="v_norm", head_dim="head_dim", reads_rope=True,
    kv_source=lambda decoder, layer: int(decoder.previous_kvs[layer]),
    window=lambda decoder, layer: int(decoder.window_size) if decoder.layers[layer].self_attn.is_sliding else None,
    activation=Form(GATE_UP, lambda gate, up: mlx_lm.models.gemma4_text.geglu(gate, up)),
    embed_scale=root_of_width, layer_scalar="layer_scalar", softcap_logits="final_logit_softcapping",
    own_inputs=OwnInputs(),
    adapted=lambda config: {"global_head_dim": own["head_dim"]} if (own := _full_heads(config)) else {},
    refuses=dict.fromkeys(("attention_k_eq_v", "enable_moe_block"), frozenset({True}))
    | {"use_bidirectional_attention": frozenset({"all"})},
    fixed={"hidden_activation": frozenset({"gelu_pytorch_tanh"})},
    objection=_uneven_heads,
)
# fmt: on

GEMMA4 = replace(GEMMA4_TEXT, model_type="gemma4", root="language_model", text_config="text_config")


def _other_latent(config: Config) -> str | None:
    """mlx-lm's class needs YaRN's settings, and makes keys for every head."""
    if "factor" not in (config.get("rope_scaling") or {}):
        return "has no factor in its rope_scaling"
    if config.get("num_key_value_heads") not in (None, config.get("num_attention_heads")):
        return f"has keys for {config['num_key_value_heads']} of {config.get('num_attention_heads')} heads"
    if config.get("first_k_dense_replace", 0) >= config.get("num_hidden_layers", 30):
        return "has no layer with experts"
    return None


MADE_AS = {"topk_method": "greedy", "scoring_func": "softmax", "moe_layer_freq": 1}
"""What V2 Lite's config says of its routers, and the class computes."""

# fmt: off
DEEPSEEK_V2 = Family(
    model_type="deepseek_v2",
    understands=COMMON - {"rope_traditional"} | {
        *("kv_lora_rank", "q_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "head_dim"),
        *("num_experts_per_tok", "n_routed_experts", "num_experts", "n_shared_experts", "moe_intermediate_size"),
        *("first_k_dense_replace", "routed_scaling_factor", "attention_bias", "n_group", "topk_group"),
        "output_router_logits",
    },
    sizes=Sizes(n_kv_heads="num_attention_heads", d_mlp="moe_intermediate_size"), tied=only(False),
    latent=Latent(),
    experts=Experts(count="n_routed_experts", factor="routed_scaling_factor", bare_router=True,
                    shared="shared_experts", largest_first=True),
    refuses={"tie_word_embeddings": frozenset({True}), "norm_topk_prob": frozenset({True})},
    needs=frozenset({"num_experts_per_tok", "n_shared_experts"}),
    fixed={key: frozenset({value}) for key, value in MADE_AS.items()},
    objection=_other_latent,
)
# fmt: on
