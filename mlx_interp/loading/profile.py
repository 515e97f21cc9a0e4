"""Compute profile of a loaded model: how it computes on the device at hand.

On Metal and CUDA a checkpoint runs as it is stored. On MLX's CPU backend half precision and quantised matmuls are
emulated (0.08 GFLOP/s against 200 for dense float32), so there a model computes in float32, and quantised layers are
dequantised once when memory allows; the function is the same.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any, Literal

from mlx_interp.deferred import mlx_lm, mx, nn, trees
from mlx_interp.engine.memory import free_memory
from mlx_interp.errors import ConfigError

Dequantize = bool | Literal["auto"]
DTYPES = ("float32", "float16", "bfloat16")
SHARE_OF_FREE_MEMORY = 0.8
"""How much of the free memory weights may take; the rest is for activations."""


def on_cpu() -> bool:
    """Whether MLX computes on its CPU backend."""
    return bool(mx.default_device() == mx.cpu)


def parse_dtype(dtype: str | mx.Dtype | None) -> mx.Dtype | None:
    """The dtype to compute in; None leaves the choice to the device. Raises ConfigError for any other name."""
    if dtype is None or isinstance(dtype, mx.Dtype):
        return dtype
    if dtype not in DTYPES:
        raise ConfigError(f"no dtype {dtype!r}: give one of {', '.join(DTYPES)}, or None for what suits the device")
    chosen: mx.Dtype = getattr(mx, dtype)
    return chosen


def apply_profile(model: nn.Module, *, dtype: mx.Dtype | None, dequantize: Dequantize, name: str) -> None:
    """Set what a lazily loaded model computes in; in place.

    dtype: None is float32 on CPU and the stored one elsewhere.
    dequantize: "auto" dequantises on CPU when it fits the memory; True and False are obeyed.
    Raises ConfigError with the numbers when the model, or its dequantised form, does not fit the memory.
    """
    if dequantize not in (True, False, "auto"):
        raise ConfigError(f"dequantize={dequantize!r}: give True, False or 'auto'")
    if dtype is None and on_cpu():
        dtype = mx.float32
    kept, dense = weight_bytes(model, dtype, dense=False), weight_bytes(model, dtype, dense=True)
    room = int(free_memory() * SHARE_OF_FREE_MEMORY)
    wanted = dense if dequantize is True else kept
    if wanted > room:
        way_out = "dequantize='auto' keeps the layers quantised" if kept <= room < wanted else "take a smaller model"
        raise ConfigError(
            f"{name}: needs {gigabytes(wanted)} for its weights, {gigabytes(room)} may be used: {way_out}"
        )
    make_dense = dequantize is True or (dequantize == "auto" and on_cpu() and dense <= room)
    if dequantize == "auto" and on_cpu() and not make_dense and dense > kept:
        warnings.warn(
            f"{name}: its layers stay quantised, which is slow on CPU: dequantised they need {gigabytes(dense)}, "
            f"{gigabytes(room)} may be used",
            stacklevel=3,
        )
    if make_dense:
        dequantize_layers(model, dtype)
    if dtype is not None:
        model.set_dtype(dtype)


def quantized_modules(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Every quantised linear layer, embedding and matrix of experts, with its path."""
    kinds = nn.QuantizedLinear | nn.QuantizedEmbedding | mlx_lm.models.switch_layers.QuantizedSwitchLinear
    for path, module in model.named_modules():
        if isinstance(module, kinds):
            yield path, module


def dequantize_layers(model: nn.Module, dtype: mx.Dtype | None) -> None:
    """Replace quantised layers by dense ones of the same function; in place, one at a time to bound the memory.

    The products of words and scales are formed in `dtype`, so that float32 computation meets the weights that a
    quantised matmul with float32 scales uses.
    """
    for path, module in list(quantized_modules(model)):
        scales, biases = module.scales, module.get("biases")
        if dtype is not None and mx.issubdtype(scales.dtype, mx.floating):
            scales, biases = scales.astype(dtype), None if biases is None else biases.astype(dtype)
        weight = mx.dequantize(
            module.weight, scales, biases, group_size=module.group_size, bits=module.bits, mode=module.mode
        )
        dense = _dense_like(module, *weight.shape)
        if "bias" in module:
            dense.bias = module.bias
        dense.weight = weight
        mx.eval(dense.weight)
        model.update_modules(trees.tree_unflatten([(path, dense)]))


def _dense_like(module: nn.Module, *shape: int) -> nn.Module:
    """A dense layer of the same kind, for a weight of this shape."""
    *experts, rows, columns = shape
    if isinstance(module, nn.QuantizedEmbedding):
        return nn.Embedding(rows, columns)
    if experts:
        made: nn.Module = mlx_lm.models.switch_layers.SwitchLinear(columns, rows, experts[0], bias=False)
        return made
    return nn.Linear(columns, rows, bias=False)


def weight_bytes(model: nn.Module, dtype: mx.Dtype | None, *, dense: bool) -> int:
    """Bytes of the weights in `dtype` (None: as stored); quantised layers count dequantised where `dense`."""
    packed = {id(module.weight): module for _, module in quantized_modules(model)} if dense else {}
    absorbed = {id(array) for module in packed.values() for array in (module.scales, module.get("biases"))}
    total = 0
    for _, array in trees.tree_flatten(model.parameters()):
        if id(array) in packed:
            module = packed[id(array)]
            total += array.size * 32 // module.bits * (dtype or module.scales.dtype).size
        elif id(array) in absorbed:
            continue
        elif dtype is not None and mx.issubdtype(array.dtype, mx.floating):
            total += array.size * dtype.size
        else:
            total += array.nbytes
    return total


def gigabytes(n_bytes: float) -> str:
    return f"{n_bytes / 1e9:.1f} GB"
