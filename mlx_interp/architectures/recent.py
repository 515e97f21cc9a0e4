"""Descriptions of families whose layers are not all of one make, or whose positions enter twice."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mlx_interp.architectures.family import Config, Family
from mlx_interp.architectures.kinds import COMMON, only_if_said
from mlx_interp.architectures.mixers import DeltaNet
from mlx_interp.deferred import mx

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
    mixer=DeltaNet(),
    attn_gate=True,
    reads_rope=True,
    pattern_of_types="full_attention_interval",
    objection=_uneven_attention,
)
