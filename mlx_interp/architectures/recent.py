"""Descriptions of families whose layers are not all of one make, or whose positions enter twice."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mlx_interp.architectures.family import Config, Family
from mlx_interp.architectures.kinds import COMMON, only_if_said
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
