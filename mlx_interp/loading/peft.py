"""LoRA adapters in PEFT's folder layout, adapter_model.safetensors beside adapter_config.json, as the Hub has most.

1. Each linear layer that was adapted has two tensors, `base_model.model.PLACE.lora_A.weight` (rank, inputs) and
   `lora_B.weight` (outputs, rank). PLACE is transformers' name; from `layers.N` on it is mlx-lm's as well.
2. mlx-lm's LoRA layer holds both transposed, and takes the scale that PEFT computes: lora_alpha / r, or with
   use_rslora lora_alpha / sqrt(r).
3. Tensors of a vision tower have no place in a language model and act on no text; they are left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlx_interp.deferred import mlx_lm, mx, nn, trees
from mlx_interp.errors import CheckpointError
from mlx_interp.loading.safetensors_header import TensorInfo

TENSORS = "adapter_model.safetensors"
NAME = re.compile(r"(?:base_model\.model\.)?(?P<place>.+)\.lora_(?P<side>[AB])(?:\.\w+)?\.weight")
LAYER = re.compile(r"(?:^|\.)((?:layers|h)\.\d+\..+)$")
OTHER_TOWERS = ("vision_tower", "vision_model", "visual", "audio_tower", "multi_modal_projector")
PLAIN: Mapping[str, tuple[Any, ...]] = {
    "use_dora": (False, None),
    "bias": ("none", None),
    "lora_bias": (False, None),
    "modules_to_save": (None, []),
    "rank_pattern": ({}, None),
    "alpha_pattern": ({}, None),
    "layer_replication": (None, []),
    "trainable_token_indices": (None, []),
}
"""Settings under which an adapter is more than two low-rank matrices of one scale; at these values it is not."""


def check_config(path: Path, config: Mapping[str, Any]) -> float:
    """The scale of a PEFT adapter's product. Raises CheckpointError for another kind, and for what is not read."""
    if config.get("peft_type") != "LORA":
        raise CheckpointError(
            f"{path}: {TENSORS} is in PEFT's layout, and adapter_config.json has peft_type "
            f"{config.get('peft_type')!r}: LORA is read"
        )
    if unread := {key: config[key] for key, plain in PLAIN.items() if key in config and config[key] not in plain}:
        raise CheckpointError(
            f"{path}: {unread} is not read: merge the adapter into its model with PEFT, and load that"
        )
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not isinstance(rank, int) or rank < 1 or not isinstance(alpha, int | float):
        raise CheckpointError(
            f"{path}: adapter_config.json has r {rank!r} and lora_alpha {alpha!r}: numbers are needed"
        )
    return float(alpha) / (rank**0.5 if config.get("use_rslora") else rank)


def attach_peft(
    network: nn.Module, path: Path, config: Mapping[str, Any], tensors: Mapping[str, TensorInfo], *, name: str
) -> None:
    """Puts the LoRA layers of a PEFT adapter into a model of mlx-lm, with their weights; in place.

    Raises CheckpointError for an adapter of another model, with both shapes; the model is then not to be used.
    """
    scale = check_config(path, config)
    linear = {place: one for place, one in network.named_modules() if isinstance(one, nn.Linear | nn.QuantizedLinear)}
    by_layer = {_from_layer(place): place for place in linear}
    trained_on = (
        f"; it was trained on {config['base_model_name_or_path']}" if config.get("base_model_name_or_path") else ""
    )

    def refuse(what: str) -> CheckpointError:
        return CheckpointError(f"{path} is no adapter for {name}: {what}{trained_on}")

    found: dict[str, dict[str, str]] = {}
    for tensor in tensors:
        if any(tower in tensor for tower in OTHER_TOWERS):
            continue
        parts = NAME.fullmatch(tensor)
        place = by_layer.get(_from_layer(parts["place"])) if parts else None
        if parts is None or place is None:
            raise refuse(f"its {tensor} {tuple(tensors[tensor].shape)} has no place in the model")
        found.setdefault(place, {})[parts["side"]] = tensor
    if not found:
        raise refuse(f"{TENSORS} holds no low-rank matrices")
    weights: Any = mx.load(str(path / TENSORS))
    layers = []
    for place, sides in found.items():
        if len(sides) < 2:
            raise refuse(f"it lacks the other side of {next(iter(sides.values()))}")
        outputs, inputs = _shape(linear[place])
        a, b = tuple(tensors[sides["A"]].shape), tuple(tensors[sides["B"]].shape)
        if a != (config["r"], inputs) or b != (outputs, config["r"]):
            raise refuse(f"its {place} is {b} times {a} of rank {config['r']}, the model's {(outputs, inputs)}")
        layer = mlx_lm.tuner.lora.LoRALinear.from_base(linear[place], r=config["r"], dropout=0.0, scale=scale)
        layer.lora_a, layer.lora_b = weights[sides["A"]].T, weights[sides["B"]].T
        layers.append((place, layer))
    network.update_modules(trees.tree_unflatten(layers))
    network.eval()


def _from_layer(place: str) -> str:
    """A place from its layer's number on: what transformers and mlx-lm have in common."""
    inside = LAYER.search(place)
    return inside[1] if inside else place


def _shape(linear: nn.Linear | nn.QuantizedLinear) -> tuple[int, int]:
    """Outputs and inputs; a quantised matrix packs several inputs into a word."""
    outputs, inputs = linear.weight.shape
    packed = isinstance(linear, nn.QuantizedLinear)
    return outputs, inputs * 32 // linear.bits if packed else inputs
