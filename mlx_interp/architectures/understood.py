"""Does a family understand a config? What means something and is not computed stops the load.

A config key that means something (`authority.py`: transformers' class of that model type knows it) and that a family
does not understand is refused, unless its value is the one that changes nothing: a silent default would be a wrong
number. Keys that mean nothing there are listed, never refused.
"""

from __future__ import annotations

from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

from mlx_interp.architectures.families import FAMILIES
from mlx_interp.architectures.family import Config, Family
from mlx_interp.authority import NO_MEANING, foreign_code, known_keys, unread_settings
from mlx_interp.deferred import mlx_lm
from mlx_interp.errors import UnsupportedModel, nearest

PAGE = "docs/adding_a_family.md"
PACKAGE_FILE = "mlx_interp/architectures/families.py"
PACKAGED = frozenset(FAMILIES)
"""Model types that this file describes; all others were registered."""


# A key that nothing reads is harmless at these values.
HARMLESS: dict[str, frozenset[Any]] = {
    "hidden_act": frozenset({"silu"}),
    "mlp_bias": frozenset({False}),
    "attention_bias": frozenset({False}),
    "use_sliding_window": frozenset({False}),
    "add_cross_attention": frozenset({False}),
    "tie_encoder_decoder": frozenset({False}),
    "scale_attn_by_inverse_layer_idx": frozenset({False}),
    "scale_attn_weights": frozenset({True}),
    "is_causal": frozenset({True}),
    "partial_rotary_factor": frozenset({1.0}),
}


def register(family: Family) -> Family:
    """Makes a family known for as long as this Python runs; one that was registered before is replaced.

    Raises UnsupportedModel for a model type that the package describes itself, or that mlx-lm has no class for.
    """
    if family.model_type in PACKAGED:
        raise UnsupportedModel(f"{family.model_type} is described already: change its entry in {PACKAGE_FILE}")
    if not _mlx_lm_has(family.model_type):
        raise UnsupportedModel(f"mlx-lm has no class for model type {family.model_type!r}: nothing could run it")
    FAMILIES[family.model_type] = family
    return family


def family_of(config: Config) -> Family:
    """The family of a checkpoint's config. Raises UnsupportedModel, naming what is missing."""
    model_type = config.get("model_type")
    if not model_type:
        raise UnsupportedModel("config.json has no 'model_type': it does not say which architecture it is of")
    if model_type not in FAMILIES:
        raise UnsupportedModel(f"model type {model_type!r} is not described: {_way_out(str(model_type))}")
    family = FAMILIES[model_type]
    if family.text_config is not None:
        config = config.get(family.text_config) or {}
    if objection := family.objection(config):
        raise UnsupportedModel(f"this {model_type} {objection}: mlx-lm's class cannot compute it")
    _refuse_unknown_keys(config, family)
    return family


def _way_out(model_type: str) -> str:
    described = f"{nearest(model_type, FAMILIES)}described are {', '.join(FAMILIES)}"
    if not _mlx_lm_has(model_type):
        return f"{described}; mlx-lm {version('mlx-lm')} has no class for it either, so that it cannot run under MLX"
    return f"{described}; mlx-lm has a class for it, what is missing is a Family that says where its parts are: {PAGE}"


def _mlx_lm_has(model_type: str) -> bool:
    name = mlx_lm.utils.MODEL_REMAPPING.get(model_type, model_type)
    return name.replace("-", "_").isidentifier() and find_spec(f"mlx_lm.models.{name}") is not None


def _refuse_unknown_keys(config: Config, family: Family) -> None:
    where = PACKAGE_FILE if family.model_type in PACKAGED else f"its Family ({PAGE})"
    if code := foreign_code(family.model_type, config.get("auto_map")):
        raise UnsupportedModel(
            f"config key 'auto_map' names {code!r}, which is none of transformers' classes for {family.model_type}: "
            "the model is what code that comes with it computes, and such code is never run"
        )
    for key, value in config.items():
        if not _may_be_left_out(key, value, config, family):
            raise UnsupportedModel(
                f"config key {key!r} = {value!r} is not understood for {family.model_type}: running the model without "
                f"it could give wrong numbers; describe it in {where}"
            )


def ignored_keys(config: Config) -> tuple[str, ...]:
    """Keys of a config that mean nothing to transformers' class of its model type, in order of name; not null ones."""
    family = FAMILIES.get(str(config.get("model_type")))
    if family is None:
        return ()
    inner = config.get(family.text_config) if family.text_config is not None else None
    if not isinstance(inner, dict):
        return _without_meaning(config, family)
    outside = {key: value for key, value in config.items() if key not in (known_keys(family.model_type) or ())}
    return tuple(sorted({*_without_meaning(outside, family), *_without_meaning(inner, family)}))


def _without_meaning(config: Config, family: Family) -> tuple[str, ...]:
    keys = [key for key, value in config.items() if value is not None and not _means_something(key, family)]
    return tuple(sorted([*keys, *unread_settings(config)]))


def _means_something(key: str, family: Family) -> bool:
    """Whether a key may change a forward pass; everything may where transformers knows no such model."""
    known = known_keys(family.text_model_type)
    described = key in family.refuses or key in family.fixed or key == "rope_traditional"
    return known is None or described or key in known or key in NO_MEANING


def _may_be_left_out(key: str, value: Any, config: Config, family: Family) -> bool:
    """Whether mlx-lm's class reads the key, or computes the same without it."""
    if value is None:
        return key not in family.needs
    if value in ({}, []) or key in NO_MEANING or not _means_something(key, family):
        return True
    if isinstance(value, (dict, list)):
        return key in family.understands
    if key in family.refuses:
        return value not in family.refuses[key]
    if key in family.fixed:
        return value in family.fixed[key]
    if key in family.understands or value in HARMLESS.get(key, ()):
        return True
    # Newer configs spell out what older ones leave to be derived.
    if key == "n_inner":
        return True  # GPT-2's objection has looked at it
    return key == "head_dim" and value * config["num_attention_heads"] == config["hidden_size"]
