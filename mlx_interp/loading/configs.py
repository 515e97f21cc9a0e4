"""Configs as mlx-lm reads them: what newer transformers write elsewhere, or leave out, is put where mlx-lm looks.

transformers 5 keeps RoPE settings under `rope_parameters`, and configs leave fields out where mlx-lm has another
default or none. Read as they are, such configs give wrong numbers without a word (RoPE bases, scaling, tied heads).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

NOT_SCALING = {"rope_theta", "partial_rotary_factor"}
"""Entries of `rope_parameters` that mlx-lm reads from the top level of the config."""

TRANSFORMERS_DEFAULTS: dict[str, dict[str, Any]] = {
    "gpt2": {"n_ctx": 1024, "n_positions": 1024, "layer_norm_epsilon": 1e-5},
    "granite": {"rope_theta": 10000.0, "attention_bias": False, "mlp_bias": False},
    "phi3": {"original_max_position_embeddings": 4096},
}
"""Fields that mlx-lm demands and a config may lack, with the value that transformers gives them."""

SLIDING_PATTERN = "_sliding_window_pattern"


def normalised(config: Mapping[str, Any], tensor_names: Collection[str]) -> dict[str, Any]:
    """A config with the same meaning, in the fields mlx-lm reads; what was already there is kept.

    tensor_names: names in the weight files; a separate head among them decides when the config does not say.
    """
    fields = dict(config)
    model_type = str(fields.get("model_type", ""))
    flatten_rope(fields)
    for name, value in TRANSFORMERS_DEFAULTS.get(model_type, {}).items():
        if fields.get(name) is None:
            fields[name] = value
    if model_type == "gpt2":
        fields["n_ctx"] = fields["n_positions"]
    if SLIDING_PATTERN in fields and "sliding_window_pattern" not in fields:
        fields["sliding_window_pattern"] = fields[SLIDING_PATTERN]
    if fields.get("tie_word_embeddings") is None and fields.get("vocab_size"):
        fields["tie_word_embeddings"] = not any(name.startswith("lm_head.") for name in tensor_names)
    return fields


def flatten_rope(fields: dict[str, Any]) -> None:
    """Copy what `rope_parameters` holds to the fields that mlx-lm reads; in place."""
    rope = fields.get("rope_parameters")
    if not isinstance(rope, dict):
        return
    if "full_attention" in rope:  # one set per kind of layer (Gemma 3)
        local = rope.get("sliding_attention") or {}
        if "rope_theta" in local:
            fields["rope_local_base_freq"] = local["rope_theta"]
        rope = rope["full_attention"]
    for name in NOT_SCALING & rope.keys():
        if (name, rope[name]) != ("partial_rotary_factor", 1.0):  # the whole head: what mlx-lm does unasked
            fields[name] = rope[name]
    kind = rope.get("rope_type") or rope.get("type") or "default"
    scaling = {name: value for name, value in rope.items() if name not in NOT_SCALING}
    fields["rope_scaling"] = None if kind == "default" else {**scaling, "type": kind, "rope_type": kind}
