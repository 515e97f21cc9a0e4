"""Configs as mlx-lm reads them: what newer transformers write elsewhere, or leave out, is put where mlx-lm looks.

transformers 5 keeps RoPE settings under `rope_parameters`, and configs leave fields out where mlx-lm has another
default or none. Read as they are, such configs give wrong numbers without a word (RoPE bases, scaling, tied heads).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from mlx_interp.architectures import FAMILIES, Family, register_named_files
from mlx_interp.authority import NO_MEANING, standard
from mlx_interp.errors import CheckpointError
from mlx_interp.loading.contradictions import refuse_contradictions

NOT_SCALING = {"rope_theta", "partial_rotary_factor"}
"""Entries of `rope_parameters` that mlx-lm reads from the top level of the config."""
READ_BY_MLX_LM = ("linear", "llama3", "yarn")
"""Scaled RoPEs that mlx-lm's classes are told of; others they refuse or get wrong: `loading/rope.py` puts them in."""
SLIDING_PATTERN = "_sliding_window_pattern"


def normalised(config: Mapping[str, Any], tensor_names: Collection[str]) -> dict[str, Any]:
    """A config with the same meaning, in the fields mlx-lm reads; what was already there is kept.

    tensor_names: names in the weight files; a separate head among them decides when the config does not say.
    Raises CheckpointError for a value that transformers' class does not take, or that contradicts another, and
    ConfigError for a file of families that cannot be run.
    """
    register_named_files()
    config = _wrapped(config)
    family = FAMILIES.get(str(config.get("model_type", "")))
    if family is None or family.text_config is None:
        return _normalised(config, tensor_names, family)
    inner = config.get(family.text_config)
    if not isinstance(inner, dict):
        raise CheckpointError(
            f"config.json: a {family.model_type} keeps its language model under "
            f"{family.text_config!r}, which is {type(inner).__name__} here"
        )
    tied = {key: config[key] for key in ("tie_word_embeddings",) if config.get(key) is not None}
    text = _normalised({"model_type": family.text_model_type, **tied, **inner}, tensor_names, family)
    return {**config, family.text_config: text, "vocab_size": text["vocab_size"]}


def _wrapped(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The config of a language model that mlx-lm has inside of another alone, as that one's."""
    model_type = config.get("model_type")
    for family in FAMILIES.values():
        if family.text_config is not None and model_type == family.text_model_type and model_type not in FAMILIES:
            outside = {key: value for key, value in config.items() if key in NO_MEANING}
            tied = {key: value for key, value in config.items() if key == "tie_word_embeddings"}
            return {**outside, **tied, "model_type": family.model_type, family.text_config: dict(config)}
    return config


def _normalised(config: Mapping[str, Any], tensor_names: Collection[str], family: Family | None) -> dict[str, Any]:
    """family: whose language model's config this is; None if it is not described."""
    fields = dict(config)
    model_type = str(fields.get("model_type", ""))
    if "model_type" in fields:
        refuse_contradictions(fields)
    means = standard(model_type, fields) if family is not None else None
    for name, value in (means or {}).items():
        if fields.get(name) is None and name not in ("tie_word_embeddings", "rope_parameters"):
            fields[name] = value
    if means and means.get("rope_parameters"):
        fields["rope_parameters"] = means["rope_parameters"]
        _refuse_words(fields["rope_parameters"])
    if family is None or not family.reads_rope:
        flatten_rope(fields)
    scaling = fields.get("rope_scaling")
    if means and scaling and scaling.get("rope_type") not in READ_BY_MLX_LM:
        fields["rope_scaling"] = None
    for name, theirs in (family.read_as if family else {}).items():
        if name in fields:
            fields[theirs] = fields[name]
    if family is not None:
        fields |= family.adapted(fields)
    if family and family.pattern_of_types:
        _one_pattern(fields, family.pattern_of_types)
    elif SLIDING_PATTERN in fields and "sliding_window_pattern" not in fields:
        fields["sliding_window_pattern"] = fields[SLIDING_PATTERN]
    if fields.get("tie_word_embeddings") is None and fields.get("vocab_size"):
        head = any(name.split(".")[-2:-1] == [family.head_name if family else "lm_head"] for name in tensor_names)
        tied = bool(means and means.get("tie_word_embeddings"))
        fields["tie_word_embeddings"] = tied or not head
    return fields


def _refuse_words(rope: Mapping[str, Any]) -> None:
    """Raises CheckpointError for a setting of RoPE that must be a number and is none: mlx-lm would compute with it."""
    for name, value in rope.items():
        if isinstance(value, dict):
            _refuse_words(value)
        elif isinstance(value, str) and name not in ("rope_type", "type"):
            raise CheckpointError(f"config.json: RoPE's {name!r} is {value!r}, a positive number is needed")


def _one_pattern(fields: dict[str, Any], distance: str) -> None:
    """mlx-lm knows layers with full attention by their distance alone (its key); transformers by a list."""
    kinds = fields.get("layer_types") or []
    if fields.get(distance) is None and "full_attention" in kinds:
        fields[distance] = kinds.index("full_attention") + 1


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
