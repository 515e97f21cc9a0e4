"""Tensors of a GGUF file under the names, and in the layout, of mlx-lm's model.

1. Names come from the table of the architecture; shapes are compared with the metadata.
2. Affine types become triples of weight, scales and biases, the others dense float32.
3. What llama.cpp changed is undone: rows of queries and keys in another order, 1 added to norms.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from mlx_interp.deferred import mx
from mlx_interp.errors import CheckpointError, UnsupportedModel
from mlx_interp.loading.gguf.config import described, own_metadata, sizes_of
from mlx_interp.loading.gguf.described import SIZES
from mlx_interp.loading.gguf.quantised import AFFINE, GROUP, dense, readable, triple
from mlx_interp.loading.gguf.reader import GGUFFile, StoredTensor
from mlx_interp.loading.gguf.rope import ROPE_TENSORS


def places(file: GGUFFile) -> dict[str, str]:
    """GGUF name -> name in mlx-lm's model, for every tensor that the model holds.

    Raises UnsupportedModel for a tensor or a type that is not known, CheckpointError for a shape that contradicts the
    metadata and for a tensor that is missing.
    """
    table = described(file).tensors
    sizes = sizes_of(file, own_metadata(file))
    n_layers = int(own_metadata(file)["block_count"])
    found: dict[str, str] = {}
    for name, tensor in file.tensors.items():
        if name in ROPE_TENSORS:
            continue
        base, _, part = name.rpartition(".")
        layer = re.match(r"blk\.(\d+)\.", base)
        pattern = re.sub(r"^blk\.\d+\.", "blk.*.", base)
        if pattern not in table or part not in ("weight", "bias"):
            raise UnsupportedModel(f"{file.path}: tensor {name!r} {tensor.shape} has no place in a {file.architecture}")
        if layer and int(layer[1]) >= n_layers:
            raise CheckpointError(f"{file.path}: tensor {name!r}, but {file.architecture}.block_count is {n_layers}")
        module, letters = table[pattern]
        check_shape(file, tensor, letters.split()[:1] if part == "bias" else letters.split(), sizes)
        if not readable(tensor.kind):
            raise UnsupportedModel(f"{file.path}: {name} is of type {tensor.kind.name}, which gguf cannot dequantise")
        found[name] = f"{module.replace('*', layer[1] if layer else '')}.{part}"
    refuse_missing(file, table, n_layers, found)
    return found


def refuse_missing(file: GGUFFile, table: Any, n_layers: int, found: dict[str, str]) -> None:
    for pattern in table:
        for layer in range(n_layers) if "*" in pattern else [0]:
            name = f"{pattern.replace('*', str(layer))}.weight"
            if name not in found and pattern != "output":  # without one the embedding unembeds
                raise CheckpointError(f"{file.path}: tensor {name!r} is missing; {len(found)} others are there")


def check_shape(file: GGUFFile, tensor: StoredTensor, letters: list[str], sizes: dict[str, int]) -> None:
    wanted = tuple(size_of(each, sizes) for each in letters)
    if tensor.shape == wanted:
        return
    used = dict.fromkeys(letter for each in letters for letter in re.findall("[A-Z]", each))
    said = ", ".join(f"{SIZES[letter]} is {sizes[letter]}" for letter in used)
    raise CheckpointError(f"{file.path}: {tensor.name} is {tensor.shape}, not {wanted}: {file.architecture}'s {said}")


def size_of(letters: str, sizes: dict[str, int]) -> int:
    """A sum of sizes: "Q+2K"."""
    return sum(int(factor or 1) * sizes[letter] for factor, letter in re.findall(r"(\d?)([A-Z])", letters))


def arrays(file: GGUFFile) -> Iterator[tuple[str, mx.array]]:
    """Every array of the model by its name in mlx-lm, one tensor after another: only one is unpacked at a time."""
    how, sizes = described(file), sizes_of(file, own_metadata(file))
    heads = {"attn_q": sizes["Q"] // sizes["H"], "attn_k": sizes["K"] // sizes["H"]}
    for name, place in places(file).items():
        tensor, kind = file.tensors[name], name.split(".")[-2]
        blocks = file.blocks(name)
        if kind in how.permuted:
            blocks = blocks.reshape(tensor.shape[0], -1)[row_order(tensor.shape[0], heads[kind])]
        if is_quantised(tensor):
            path = place.removesuffix("weight")
            yield from ((path + part, array) for part, array in triple(tensor.kind, blocks).items())
            continue
        weights = dense(tensor.kind, blocks).reshape(tensor.shape)
        if kind.endswith("norm"):
            weights = weights - np.float32(how.norm_offset)
        yield place, mx.array(weights)


def is_quantised(tensor: StoredTensor) -> bool:
    return tensor.kind in AFFINE and len(tensor.shape) == 2


def row_order(n_rows: int, n_heads: int) -> Any:
    """Where each row of a query or key matrix stands in the file: llama.cpp pairs neighbouring rows of a head for RoPE,
    transformers and mlx-lm the two halves of a head."""
    return np.arange(n_rows).reshape(n_heads, n_rows // n_heads // 2, 2).swapaxes(1, 2).ravel()


def quantization_of(file: GGUFFile) -> dict[str, Any] | None:
    """The entry `quantization` of config.json, module by module; None where every tensor is dense."""
    bits = {
        place.removesuffix(".weight"): AFFINE[file.tensors[name].kind][0]
        for name, place in places(file).items()
        if is_quantised(file.tensors[name])
    }
    if not bits:
        return None
    usual = Counter(bits.values()).most_common(1)[0][0]
    return {
        "group_size": GROUP,
        "bits": usual,
        **{path: {"group_size": GROUP, "bits": n} for path, n in sorted(bits.items())},
    }


def stored_bytes(tensor: StoredTensor) -> int:
    """Bytes of a tensor as MLX holds it."""
    n_weights = math.prod(tensor.shape)
    if not is_quantised(tensor):
        return 4 * n_weights
    return n_weights * AFFINE[tensor.kind][0] // 8 + 2 * 4 * n_weights // GROUP
