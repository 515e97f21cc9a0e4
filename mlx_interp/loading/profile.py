"""Compute profile of a loaded model: how it computes on the device at hand, and in how much memory.

On Metal and CUDA a checkpoint runs as it is stored. On MLX's CPU backend half precision and quantised matmuls are
emulated (0.08 GFLOP/s against 200 for dense float32), so there a model computes in float32:

1. Quantised matrices are dequantised once, on loading; an embedding that only gives rows is not (`engine/packed.py`).
2. With little memory (`memory="low"`, or where the float32 weights do not fit) all of them are dequantised each time
   that a product needs them. The numbers are the same.
3. Dense matrices lie in memory as a product of few rows reads them (`engine/layout.py`).
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator
from typing import Any, Literal

from mlx_interp.deferred import mlx_lm, mx, nn, trees
from mlx_interp.engine.layout import laid_out
from mlx_interp.engine.memory import free_memory
from mlx_interp.engine.modules import dense_like
from mlx_interp.engine.network import Network
from mlx_interp.errors import ConfigError, nearest

Dequantize = bool | Literal["auto"]
Memory = Literal["auto", "low"]
MEMORY: tuple[Memory, ...] = ("auto", "low")
DTYPES = ("float32", "float16", "bfloat16")
SHARE_OF_FREE_MEMORY = 0.8
"""How much of the free memory weights may take; the rest is for activations."""
PART = 2**24
"""Weights that are dequantised at a time on loading."""


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


def check_options(dequantize: object, memory: object) -> None:
    """Raises ConfigError for values that do not exist, and for two that contradict each other."""
    if dequantize not in (True, False, "auto"):
        raise ConfigError(f"dequantize={dequantize!r}: give True, False or 'auto'")
    if memory not in MEMORY:
        names = " or ".join(map(repr, MEMORY))
        raise ConfigError(f"no memory profile {memory!r}: {nearest(str(memory), MEMORY)}give {names}")
    if memory == "low" and dequantize != "auto":
        raise ConfigError(
            f"memory='low' dequantises what a product needs, and forgets it: dequantize={dequantize!r} contradicts it, "
            "leave one of them out"
        )


def add_memory_option(parser: Any) -> None:
    """The option `--memory` of a command that loads a model."""
    parser.add_argument(
        "--memory",
        choices=MEMORY,
        default="auto",
        help="low: on CPU keep quantised what is not in use, which is slower and changes no number (default: auto, "
        "where the dequantised weights do not fit)",
    )


def apply_profile(
    net: Network, *, dtype: mx.Dtype | None, dequantize: Dequantize, name: str, memory: Memory = "auto"
) -> None:
    """Set what a lazily loaded model computes in; in place.

    dtype: None is float32 on CPU and the stored one elsewhere.
    dequantize: "auto" dequantises on CPU, on loading where that fits the memory, else when a product needs it; True and
        False are obeyed.
    memory: "low" is the second on CPU whatever fits; elsewhere it changes nothing, and says so.
    Raises ConfigError with the numbers when the model, or its dequantised form, does not fit the memory.
    """
    check_options(dequantize, memory)
    model = net.mlx_model
    if dtype is None and on_cpu():
        dtype = mx.float32
    packed = dict.fromkeys(path for path, _ in quantized_modules(model))
    rows = embeddings_of_rows(net) if on_cpu() and dequantize == "auto" else set()
    kept, dense = weight_bytes(model, dtype, dense=()), weight_bytes(model, dtype, dense=packed.keys() - rows)
    room = int(free_memory() * SHARE_OF_FREE_MEMORY)
    wanted = dense if dequantize is True else kept
    if wanted > room:
        way_out = "memory='low' dequantises what is in use alone" if kept <= room < wanted else "take a smaller model"
        raise ConfigError(
            f"{name}: needs {gigabytes(wanted)} for its weights, {gigabytes(room)} may be used: {way_out}"
        )
    if memory == "low" and not (packed and on_cpu()):
        why = "its weights are not quantised" if not packed else "quantised weights are computed with as they are here"
        warnings.warn(f"{name}: memory='low' changes nothing: {why}", stacklevel=3)
    low = packed and on_cpu() and (memory == "low" or (dequantize == "auto" and dense > room))
    if low and memory == "auto":
        warnings.warn(
            f"{name}: memory='low' was chosen, which is slower: dequantised its weights need {gigabytes(dense)}, "
            f"{gigabytes(room)} may be used",
            stacklevel=3,
        )
    made_dense = (
        set() if low or not (dequantize is True or (dequantize == "auto" and on_cpu())) else packed.keys() - rows
    )
    dequantize_layers(model, dtype, made_dense)
    pack_layers(model, dtype, packed if low else rows)
    if dtype is not None:
        _set_dtype(model, dtype)


def quantized_modules(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Every quantised linear layer, embedding and matrix of experts, with its path."""
    kinds = nn.QuantizedLinear | nn.QuantizedEmbedding | mlx_lm.models.switch_layers.QuantizedSwitchLinear
    for path, module in model.named_modules():
        if isinstance(module, kinds):
            yield path, module


def embeddings_of_rows(net: Network) -> set[str]:
    """Paths of quantised embeddings of tokens that nothing but rows is taken of: no unembedding, none in an adapter."""
    modules = dict(net.mlx_model.named_modules())
    head = getattr(net.decoder, net.family.embed) if net.tied else None
    other = (*INSIDE, net.family.positions)
    return {
        path
        for path, module in modules.items()
        if isinstance(module, nn.QuantizedEmbedding) and module is not head and path.rpartition(".")[2] not in other
    }


INSIDE = ("part", "embedding")
"""Names under which a split embedding, or an adapter's, holds the one that is quantised."""


def pack_layers(model: nn.Module, dtype: mx.Dtype | None, paths: Collection[str]) -> None:
    """Replace quantised layers by ones that are dequantised when a product needs them; in place."""
    if not paths:
        return
    from mlx_interp.engine.packed import packed_like  # its classes need MLX

    found = {path: module for path, module in quantized_modules(model) if path in paths}
    made = [(path, packed_like(module, dtype or module.scales.dtype)) for path, module in found.items()]
    model.update_modules(trees.tree_unflatten(made))


def dequantize_layers(model: nn.Module, dtype: mx.Dtype | None, paths: Collection[str] | None = None) -> None:
    """Replace quantised layers by dense ones of the same function; in place, one at a time to bound the memory.

    The products of words and scales are formed in `dtype`, so that float32 computation meets the weights that a
    quantised matmul with float32 scales uses. paths: which; None for all.
    """
    waiting = {path: module for path, module in quantized_modules(model) if paths is None or path in paths}
    while waiting:  # not a loop over it: what is done is to be forgotten
        path, module = waiting.popitem()
        dense = dense_like(module, *dense_shape(module))
        dense.weight = dequantized(module, dtype)
        if "bias" in module:
            dense.bias = module.bias
        model.update_modules(trees.tree_unflatten([(path, dense)]))


def dense_shape(module: Any) -> tuple[int, ...]:
    """Shape of a quantised layer's matrix, or of its experts' matrices."""
    *rows, words = module.weight.shape
    return (*rows, words * 32 // module.bits)


def dequantized(module: Any, dtype: mx.Dtype | None) -> mx.array:
    """A quantised layer's matrix, some rows at a time: unpacking takes several times the memory of what it gives."""
    from mlx_interp.engine.packed import unpacked  # its classes need MLX

    shape = dense_shape(module)
    held = {name: module[name] for name in ("weight", "scales", "biases") if module.get(name) is not None}
    flat = {name: array.reshape(-1, array.shape[-1]) for name, array in held.items()}
    n_rows, step = flat["weight"].shape[0], max(1, PART // shape[-1])

    def rows(start: int) -> mx.array:
        some = {name: array[start : start + step] for name, array in flat.items()}
        how = {"group_size": module.group_size, "bits": module.bits, "mode": module.mode}
        return unpacked(some["weight"], some["scales"], some.get("biases"), **how, dtype=dtype)

    found = rows(0)
    if step < n_rows:
        whole = mx.zeros((n_rows, shape[-1]), found.dtype)
        for start in range(0, n_rows, step):
            whole[start : start + step] = rows(start)
            mx.eval(whole)  # written in place, since nothing else holds it
        found = whole
    found = found.reshape(shape)
    mx.eval(found)
    return found


def _set_dtype(model: nn.Module, dtype: mx.Dtype) -> None:
    """All floating parameters to a dtype, but scales and biases of layers that are dequantised when needed."""
    from mlx_interp.engine.packed import Packed  # its classes need MLX

    kept = [
        (module, module.scales, module.get("biases"))
        for _, module in model.named_modules()
        if isinstance(module, Packed)
    ]
    model.set_dtype(dtype)
    for module, scales, biases in kept:
        module.scales, module.biases = scales, biases


def lay_out(net: Network) -> None:
    """Evaluate all weights, dense matrices in the order that products read fastest (`engine/layout.py`); in place."""
    model, head = net.mlx_model, getattr(net.decoder, net.family.embed)
    head = head.get("part", head)  # of one that is split over processes
    for _, module in model.named_modules():
        rows_are_multiplied = type(module) is nn.Embedding and module is head and net.tied
        if type(module) is nn.Linear or rows_are_multiplied:
            module.weight = laid_out(module.weight)
            mx.eval(module.weight)  # one at a time: both forms of one matrix, never of all
    mx.eval(model.parameters())


def weight_bytes(model: nn.Module, dtype: mx.Dtype | None, *, dense: Collection[str]) -> int:
    """Bytes of the weights in `dtype` (None: as stored); of quantised layers those whose paths are in `dense` count
    dequantised."""
    packed = {id(module.weight): module for path, module in quantized_modules(model) if path in dense}
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
