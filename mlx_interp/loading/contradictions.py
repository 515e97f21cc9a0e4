"""Two statements of a checkpoint about one thing that do not agree: refused with both named, never one chosen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mlx_interp.authority import ROPE_NAMES, config_class
from mlx_interp.errors import CheckpointError

Statement = tuple[str, Any]


def refuse_contradictions(config: Mapping[str, Any]) -> None:
    """Raises CheckpointError, naming both keys and values."""
    for (one, a), (other, b) in (*_of_rope(config), *_of_quantization(config), *_of_names(config)):
        if a is not None and b is not None and a != b:
            raise CheckpointError(
                f"config.json contradicts itself: {one} = {a!r} and {other} = {b!r}; "
                "remove the one that the weights were not made with"
            )


def _of_rope(config: Mapping[str, Any]) -> Iterator[tuple[Statement, Statement]]:
    """RoPE in its old form (`rope_scaling` and fields beside it) against its new one (`rope_parameters`)."""
    old, new = _rope(config.get("rope_scaling")), _rope(config.get("rope_parameters"))
    if old and new:
        for name in sorted(old.keys() & new.keys()):
            yield (f"rope_scaling.{name}", old[name]), (f"rope_parameters.{name}", new[name])
    for whole, rope in (("rope_scaling", old), ("rope_parameters", new)):
        for name in sorted(ROPE_NAMES & rope.keys() & config.keys()):
            yield (name, config[name]), (f"{whole}.{name}", rope[name])
        given = config.get(whole)
        if isinstance(given, dict) and "full_attention" not in given:
            yield (f"{whole}.type", given.get("type")), (f"{whole}.rope_type", given.get("rope_type"))


def _rope(given: Any) -> dict[str, Any]:
    """The settings of the layers without window, with the type under one name."""
    if not isinstance(given, dict) or not given:
        return {}
    rope = given.get("full_attention", given)
    if not isinstance(rope, dict):
        return {}
    return {**{k: v for k, v in rope.items() if k != "type"}, "rope_type": rope.get("rope_type", rope.get("type"))}


def _of_quantization(config: Mapping[str, Any]) -> Iterator[tuple[Statement, Statement]]:
    one, other = config.get("quantization"), config.get("quantization_config")
    if isinstance(one, dict) and isinstance(other, dict):
        for name in ("bits", "group_size", "mode"):
            yield (f"quantization.{name}", one.get(name)), (f"quantization_config.{name}", other.get(name))


def _of_names(config: Mapping[str, Any]) -> Iterator[tuple[Statement, Statement]]:
    """Two names of one field of transformers' class (GPT-2: `n_embd` and `hidden_size`)."""
    found = config_class(str(config.get("model_type", "")))
    for name, field in sorted((found.attribute_map if found is not None else {}).items()):
        yield (name, config.get(name)), (field, config.get(field))
