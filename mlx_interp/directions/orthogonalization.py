"""Weight orthogonalisation: no matrix writes along a direction any more (Arditi et al. 2024, section 4).

1. Everything that writes into the residual stream (embedding, learned positions, attention output and MLP down
   projections, their biases) loses the component of its output along the direction.
2. Where a norm stands between matrix and stream (Gemma 2 and 3), the norm scales each token by one number and each
   channel by its weight: the component that reaches the stream is that along `weight * direction`, which is what is
   removed from the matrix. The direction is gone from the stream, but the rest of the update is not exactly that of
   directional ablation, because the norm's divisor changes with what was removed.
3. Quantised matrices are dequantised, edited and quantised again in the same way. Rounding brings some of the direction
   back (about a third of it in 4 bits and groups of 64), so what came back is subtracted and the matrix rounded anew, a
   few times; the best is kept. How much every matrix still writes is measured and reported, never assumed.

   With `memory="low"` words stay and the edit, an outer product, is kept beside them: as exact as on dense weights.

A tied embedding unembeds as well, so that editing it changes the logits' last step too; `embedding=False` leaves it.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlx_interp.deferred import mlx_lm, mx, nn, trees
from mlx_interp.directions.direction import Direction
from mlx_interp.engine.layout import laid_out
from mlx_interp.engine.modules import is_split
from mlx_interp.errors import CheckpointError, ShapeError
from mlx_interp.model import Model

ROUNDS = 8
"""How often a quantised matrix is rounded anew; the remainder hardly falls after five times."""
BESIDE_WEIGHTS = tuple("tokenizer special_tokens_map added_tokens vocab merges chat_template generation_config".split())
"""Files that a saved checkpoint takes over, by how their names begin: no weights, nothing about the original."""
PARAMETERS = ("weight", "scales", "biases", "bias")


@dataclass(frozen=True)
class Matrix:
    """How strongly one matrix writes along the direction: the norm of that row of it."""

    name: str
    before: float
    after: float

    @property
    def remains(self) -> float:
        """The share that is left."""
        return self.after / self.before if self.before else 0.0


@dataclass(frozen=True)
class Orthogonalization:
    """Edited matrices, and what of the direction each still writes."""

    matrices: tuple[Matrix, ...]
    quantization: str | None
    """Of the matrices as they are held; None for plain numbers."""
    unembedding_changed: bool
    """The embedding is tied and was edited."""
    stored: str | None = None
    """How the checkpoint keeps its matrices, which are dequantised on loading where that is faster; None for plain
    numbers."""

    @property
    def held(self) -> str:
        """How the matrices were held when they were edited, in words."""
        if self.quantization is not None:
            return self.quantization
        return f"dequantised from {self.stored}" if self.stored else "not quantised"

    @property
    def worst(self) -> Matrix:
        return max(self.matrices, key=lambda matrix: matrix.remains)

    @property
    def remains(self) -> float:
        """The share of the direction that all matrices together still write (root of summed squares)."""
        before, after = (np.array([getattr(m, field) for m in self.matrices]) for field in ("before", "after"))
        return float(np.sqrt(np.sum(after**2) / np.sum(before**2)))

    def table(self) -> str:
        """Markdown, the matrix of which most remains first: norms of what each writes along the direction."""
        worst_first = sorted(self.matrices, key=lambda matrix: -matrix.remains)
        rows = [f"| {m.name} | {m.before:.3g} | {m.after:.3g} | {100 * m.remains:.2g} % |" for m in worst_first]
        return "\n".join(["| matrix | before | after | remains |", "|---|---|---|---|", *rows])

    def __str__(self) -> str:
        tied = "; the tied unembedding changed as well" if self.unembedding_changed else ""
        return (
            f"{len(self.matrices)} matrices ({self.held}): {100 * self.remains:.2g} % of "
            f"the direction remains, at most {100 * self.worst.remains:.2g} % in {self.worst.name}{tied}"
        )


def orthogonalize(model: Model, direction: Direction | Any, *, embedding: bool = True) -> Orthogonalization:
    """Edits a model's weights for good, so that nothing is written along a direction; in place.

    direction: a Direction or an array (d_model,). embedding: edit token embedding and learned positions as well.
    The model's weights hash becomes another: files made on the original no longer fit it, nor the other way round.
    Raises ShapeError for a direction of another width, zero or not finite.
    """
    r = _unit(direction, model.d_model)
    matrices = []
    kinds = set()
    for name, module, norm in model.network.writers():
        if "lora_a" in module:
            raise ShapeError(
                f"{model.name}: {name} has an adapter beside its matrix: load with dtype='float32', dequantize=True, "
                "which adds the adapter to the matrix"
            )
        if _is_embedding(module) and not embedding:
            continue
        target = r if norm is None else _unit(norm(mx.ones_like(r)) * r, model.d_model)  # norm(1) is its weight
        before = _written(module, target)
        _edit(module, target)
        matrices.append(Matrix(name, before, _written(module, target)))
        kinds.add(_kind(_part(module)))
    mx.eval(model.mlx_model.parameters())
    digest = hashlib.sha256(f"{model.weights_hash} orthogonalized {embedding}".encode())
    digest.update(np.asarray(r).tobytes())
    model.weights_hash = digest.hexdigest()
    held = ", ".join(sorted(kind for kind in kinds if kind)) or None
    return Orthogonalization(tuple(matrices), held, embedding and model.network.tied, model.quantization)


@contextmanager
def orthogonalized(model: Model, direction: Direction | Any, *, embedding: bool = True) -> Iterator[Orthogonalization]:
    """The model with orthogonalised weights inside the block; its own weights, bit for bit, after it, whatever happens.

    Raises what `orthogonalize` raises.
    """
    held = [one for _, module, _ in model.network.writers() for one in (module, _part(module))]  # often one twice
    own = [(module, {name: module[name] for name in PARAMETERS if name in module}) for module in held]
    removed = [(module, module.removed) for module in held if _is_packed(module)]
    weights_hash = model.weights_hash
    try:
        yield orthogonalize(model, direction, embedding=embedding)
    finally:
        for module, arrays in own:
            module.update(arrays)
        for module, before in removed:
            module.removed = before
        model.weights_hash = weights_hash


def save_checkpoint(model: Model, folder: Path | str) -> Path:
    """Writes a model as it computes now, edited or not, as a checkpoint folder that `load` reads.

    What is dequantised, on loading or when needed, is written so.
    Raises CheckpointError if the folder is there already, or cannot be written.
    """
    folder = Path(folder)
    if folder.exists():
        raise CheckpointError(f"{folder} is there already: give a folder that is not")
    part = folder.with_name(folder.name + ".part")
    if is_split(model.mlx_model):
        raise CheckpointError(
            f"{folder}: {model.name} is split over processes, each of which has a part: load it whole"
        )
    config = dict(model.config)
    if not any(_kind(module) for _, module in model.mlx_model.named_modules()):
        config.pop("quantization", None)
        config.pop("quantization_config", None)
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        for file in model.path.iterdir():
            if file.is_file() and file.name.startswith(BESIDE_WEIGHTS):
                shutil.copy2(file, part / file.name)
        with _dense_layers(model):
            mlx_lm.utils.save_model(part, model.mlx_model)
        mlx_lm.utils.save_config(config, part / "config.json")
        part.rename(folder)
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        raise CheckpointError(f"{folder}: cannot be written: {error}") from error
    return folder


@contextmanager
def _dense_layers(model: Model) -> Iterator[None]:
    """Dense layers inside the block where some are dequantised when needed."""
    packed = [(path, module) for path, module in model.mlx_model.named_modules() if _is_packed(module)]
    try:
        model.mlx_model.update_modules(trees.tree_unflatten([(path, module.dense()) for path, module in packed]))
        yield
    finally:
        model.mlx_model.update_modules(trees.tree_unflatten(packed))


def _unit(direction: Direction | Any, width: int) -> mx.array:
    vector = direction.vector if isinstance(direction, Direction) else mx.array(np.asarray(direction, np.float32))
    if tuple(vector.shape) != (width,):
        raise ShapeError(f"the direction is {tuple(vector.shape)}, the model's residual stream ({width},)")
    vector = vector.astype(mx.float32)
    norm = float(mx.linalg.norm(vector))
    if not 0 < norm < float("inf"):
        raise ShapeError("a direction must be finite and not zero")
    return vector / norm


def _part(module: Any) -> Any:
    """What holds the matrix here: the module, or of one that is split over processes the rows of this process."""
    return module.part if "part" in module else module


def _own(module: Any, r: mx.array) -> mx.array:
    """Of a vector over a linear layer's outputs those that are computed here."""
    if "part" not in module:
        return r
    return r[module.start : module.stop] if module.stop > module.start else mx.zeros(1)  # none: a row stands in


def _total(module: Any, x: mx.array) -> mx.array:
    """The sum over all processes that a module is split over."""
    if "part" not in module:
        return x
    total: mx.array = module.group.sum(x)
    return total


def _dense(module: Any) -> mx.array:
    """A matrix in float32, output channels first as mlx keeps linear layers; embeddings are (vocabulary, d_model)."""
    if _kind(module) is None:
        weight: mx.array = module.weight.astype(mx.float32)
        return weight
    affine = module.mode == "affine"
    return mx.dequantize(
        module.weight,
        module.scales.astype(mx.float32) if affine else module.scales,  # those of the mx formats are bytes
        module.biases.astype(mx.float32) if "biases" in module else None,
        group_size=module.group_size,
        bits=module.bits,
        mode=module.mode,
        dtype=mx.float32,
    ).astype(mx.float32)


def _is_packed(module: Any) -> bool:
    """Whether a matrix is quantised where it is not in use, and computed with as a dense one."""
    from mlx_interp.engine.packed import Packed  # its classes need MLX

    return isinstance(module, Packed)


def _kind(module: Any) -> str | None:
    if _is_packed(module) or not isinstance(module, nn.QuantizedLinear | nn.QuantizedEmbedding):
        return None
    return f"{module.bits}-bit, group {module.group_size}" if module.mode == "affine" else str(module.mode)


def _is_embedding(module: Any) -> bool:
    return isinstance(_part(module), nn.Embedding | nn.QuantizedEmbedding)


def _written(module: Any, r: mx.array) -> float:
    """The norm of what the module's matrix (and bias) writes along a unit vector."""
    row = _along(module, r)
    if _is_embedding(module):
        total = _total(module, mx.sum(row * row) * _has_rows(module))
    else:
        row = _total(module, row)
        total = mx.sum(row * row)
    if "bias" in module:
        total = total + mx.sum(r * module.bias.astype(mx.float32)) ** 2
    return float(mx.sqrt(total))


def _along(module: Any, r: mx.array) -> mx.array:
    """What the rows held here write along a unit vector: by token for an embedding, else by input."""
    part = _part(module)
    if _is_packed(part):
        found: mx.array = part.product(r) if _is_embedding(module) else part.transposed_product(_own(module, r))
        return found
    matrix = _dense(part)
    return matrix @ r if _is_embedding(module) else _own(module, r) @ matrix  # embeddings are (vocabulary, d_model)


def _has_rows(module: Any) -> bool:
    return "part" not in module or bool(module.stop > module.start)


def _edit(module: Any, r: mx.array) -> None:
    """Removes the component of the module's output along a unit vector; new arrays, the old ones stay as they were."""
    part = _part(module)
    if _is_packed(part):
        row = _along(module, r)
        part.remove(*((row, r) if _is_embedding(module) else (_own(module, r), _total(module, row))))
    elif _kind(part) is None:
        part.weight = laid_out(_without(module, _dense(part), r).astype(part.weight.dtype))
    else:
        _round(module, _without(module, _dense(part), r), r)
    if "bias" in module:
        bias = module.bias.astype(mx.float32)
        module.bias = (bias - mx.sum(bias * r) * r).astype(module.bias.dtype)


def _round(module: Any, edited: mx.array, r: mx.array) -> None:
    """Quantises a matrix as the module is, with as little along the direction as rounding allows."""
    part = _part(module)
    found: list[tuple[float, dict[str, mx.array]]] = []
    target = edited
    for _ in range(ROUNDS):
        parts = mx.quantize(target, group_size=part.group_size, bits=part.bits, mode=part.mode)
        arrays = dict(zip(("weight", "scales", "biases"), parts, strict=False))
        held = {name: array if name == "weight" else array.astype(part[name].dtype) for name, array in arrays.items()}
        part.update(held)
        rounded = _dense(part)
        back = rounded - _without(module, rounded, r)
        found.append((float(mx.sqrt(_total(module, mx.sum(back * back)))), held))
        target = target - back
    part.update(min(found, key=lambda pair: pair[0])[1])


def _without(module: Any, matrix: mx.array, r: mx.array) -> mx.array:
    """The rows held here without what they write along a unit vector."""
    if _is_embedding(module):  # (vocabulary, d_model)
        return matrix - (matrix @ r)[:, None] * r
    own = _own(module, r)
    return matrix - own[:, None] * _total(module, own @ matrix)[None]
