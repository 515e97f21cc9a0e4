"""What descriptions of families have in common: config keys, and how layers of two kinds are told apart."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from mlx_interp.architectures.family import Config, Norms

COMMON = frozenset(
    """hidden_size num_hidden_layers intermediate_size num_attention_heads num_key_value_heads rms_norm_eps vocab_size
    rope_theta rope_traditional rope_scaling rope_parameters original_max_position_embeddings
    tie_word_embeddings""".split()
)
"""RoPE's settings are read, and put right where mlx-lm's class is not told of them, by `loading/rope.py`."""
NO_RMS = COMMON - {"rms_norm_eps", "rope_traditional"} | {"layer_norm_eps"}
ROTARY = ("partial_rotary_factor", "rotary_emb_base", "rotary_pct")
NORMS_AROUND = Norms(
    after_attn="post_attention_layernorm",
    before_mlp="pre_feedforward_layernorm",
    after_mlp="post_feedforward_layernorm",
)
"""Before and after attention and MLP, as the Gemmas from the second on have them."""
GELU_TANH = ("gelu_new", "gelu_fast", "gelu_pytorch_tanh")
"""transformers' names of GELU's tanh approximation."""


def root_of_width(args: Any) -> float:
    return math.sqrt(args.hidden_size)


def only(value: object) -> Callable[[Config], bool]:
    return lambda config: bool(value)


def only_if_said(config: Config) -> bool:
    """The embedding unembeds only where the config says so."""
    return bool(config.get("tie_word_embeddings", False))


def kind_of_window(key: str) -> Callable[[Any, int], int | None]:
    """Windows by the decoder's list of layer types; key: the decoder's attribute with their length."""

    def window(decoder: Any, layer: int) -> int | None:
        return int(getattr(decoder, key)) if decoder.layer_types[layer] == "sliding_attention" else None

    return window


def both_kinds(config: Config) -> str | None:
    """mlx-lm's class looks for a layer of each kind, and finds no window where there is none."""
    kinds = set(config.get("layer_types") or ())
    if kinds and kinds != {"sliding_attention", "full_attention"}:
        return f"has layers of {', '.join(sorted(kinds))} alone"
    if not isinstance(config.get("sliding_window", 1), int):
        return "has windows of no length"
    return None
