"""Modules of mlx-lm: parts by their path, weights counted, biases found."""

from __future__ import annotations

from typing import Any

from mlx_interp.deferred import mlx_lm, mx, nn


def part_of(owner: Any, path: str) -> Any:
    """A part of mlx-lm's model by its path; None if it has none there."""
    for name in path.split("."):
        if owner is None or name not in owner:
            return None
        owner = owner[name]
    return owner


def size_of(module: nn.Module) -> int:
    """Weights of a module itself, as if none were packed."""
    experts = mlx_lm.models.switch_layers.QuantizedSwitchLinear
    packed = isinstance(module, nn.QuantizedLinear | nn.QuantizedEmbedding | experts)
    arrays = {name: array for name, array in module.items() if isinstance(array, mx.array)}
    return sum(
        array.size * (32 // module.bits if packed and name == "weight" else 1)
        for name, array in arrays.items()
        if not (packed and name in ("scales", "biases"))
    )


def weights_of(model: nn.Module) -> dict[str, int]:
    """Weights of every module itself, by its path; of layers that are split over processes, of all processes."""
    modules = dict(model.named_modules())
    parts = {f"{path}.part": module.rows for path, module in modules.items() if hasattr(module, "rows")}
    return {
        path: size_of(module) // int(module.weight.shape[-2]) * parts[path] if path in parts else size_of(module)
        for path, module in modules.items()
    }


def is_split(model: nn.Module) -> bool:
    """Whether a model's weights are shared out over processes (`engine/split.py`)."""
    return any(hasattr(module, "rows") for _, module in model.named_modules())


def dense_like(module: nn.Module, *shape: int) -> nn.Module:
    """A dense layer of a quantised one's kind, for a weight of this shape."""
    *experts, rows, columns = shape
    if isinstance(module, nn.QuantizedEmbedding):
        return nn.Embedding(rows, columns)
    if experts:
        made: nn.Module = mlx_lm.models.switch_layers.SwitchLinear(columns, rows, experts[0], bias=False)
        return made
    return nn.Linear(columns, rows, bias=False)


def bias_of(module: Any) -> mx.array | None:
    """A linear layer's bias; an adapter's layer keeps it one level down."""
    inner = module.linear if "linear" in module else module
    return inner.bias if "bias" in inner else None
