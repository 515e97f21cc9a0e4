"""Layers split over processes: each keeps some rows of every matrix, and what they give is gathered on all.

1. A linear layer's rows are its outputs: process r of n keeps rows [r w, (r + 1) w) with w = ceil(rows / n), computes
   those outputs from the whole input, and all processes gather them. No sum is split, so that the result is that of one
   process up to the order in which a matrix product of another shape adds; head counts need not divide.
2. An embedding's rows are tokens: each process looks up its own, the others are zeros, and the sum is exact.
3. Inputs and outputs are whole on every process, and so is every site: captures, interventions, head numbers and
   gradients are those of one process. What is split is the weights, and the work of the matrix products.
4. Backwards, each process holds the gradient of its outputs alone; the input's is summed over all.

Imported only where a model is split: its classes need MLX, which is slow to import.
It sends more than a split by heads would (every output of every matrix, not two sums a layer): `gathered_per_token`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from mlx_interp.deferred import mlx_lm, mx, nn, trees

Group = Any
"""mx.distributed.Group."""
Rows: TypeAlias = "Callable[[mx.array, slice], mx.array]"
"""An array (..., row, column) and rows of it -> these rows, without the others in memory."""


class Exchange:
    """What processes exchange, in one order on all of them.

    MLX evaluates what is independent in an order of its own, which differs where the graphs do (the last process pads),
    and exchanges have no names: two of them swapped on one process are mixed up in silence. So each waits for the one
    before it in the program, forwards and backwards.
    """

    def __init__(self, group: Group) -> None:
        self.group = group
        self.size, self.rank = int(group.size()), int(group.rank())
        self._last: mx.array | None = None

    def gather(self, y: mx.array) -> mx.array:
        """(process, ...): what every process has."""
        return self._in_turn(lambda a: mx.distributed.all_gather(a[None], group=self.group), y)

    def sum(self, y: mx.array) -> mx.array:
        return self._in_turn(lambda a: mx.distributed.all_sum(a, group=self.group), y)

    def whole_input(self, x: mx.array) -> mx.array:
        """The same input; backwards, the sum of what all processes say of it."""

        @mx.custom_function
        def same(x: mx.array) -> mx.array:
            return x

        @same.vjp
        def backwards(x: mx.array, slope: mx.array, _: mx.array) -> mx.array:
            return self.sum(slope)

        summed: Any = same(x)
        return summed  # type: ignore[no-any-return]

    def _in_turn(self, exchange: Callable[[mx.array], mx.array], y: mx.array) -> mx.array:
        if self._last is not None:
            y = mx.depends(y, self._last)
        found = exchange(y)
        self._last = found.reshape(-1)[:1] + 0  # one number: a view would keep all of it in memory
        return found


def share(rows: int, group: Exchange) -> slice:
    """The rows that this process keeps; the last ones may keep fewer, or none."""
    width = math.ceil(rows / group.size)
    return slice(min(group.rank * width, rows), min((group.rank + 1) * width, rows))


class SplitLinear(nn.Module):  # type: ignore[misc]
    """A linear layer, or one of every expert, of which this process keeps some outputs."""

    def __init__(self, layer: nn.Module, group: Any, mine: slice, read: Rows) -> None:
        """group: an `Exchange`, or what else the processes exchange by. mine: the rows to keep."""
        super().__init__()
        self.group = group
        self.rows = int(layer.weight.shape[-2])
        self.start, self.stop = mine.start, mine.stop
        if "bias" in layer and not is_of_experts(layer):
            self.bias = layer.bias
        self.part = _rows_of(layer, mine, read, keep_bias=is_of_experts(layer))

    def __call__(self, x: mx.array, *args: Any, **kwargs: Any) -> mx.array:
        y = self.part(self.group.whole_input(x), *args, **kwargs)
        y = gathered(y, self.rows, self.group)
        return y + self.bias if "bias" in self else y

    def to_lora(self, r: int, scale: float, dropout: float) -> nn.Module:
        """Low-rank matrices beside it, whole on every process; mlx-lm asks for them by this name.

        All processes draw the same ones, and the same as for a whole layer, from one seed.
        """
        columns = self.part.weight.shape[-1]
        n_inputs = columns * 32 // self.part.bits if "scales" in self.part else columns
        beside = mlx_lm.tuner.lora.LoRALinear(n_inputs, self.rows, r=r, dropout=dropout, scale=scale)
        beside.linear = self
        return beside


class SplitEmbedding(nn.Module):  # type: ignore[misc]
    """An embedding of which this process keeps some tokens; as an unembedding it gives their logits."""

    def __init__(self, layer: nn.Module, group: Any, mine: slice, read: Rows) -> None:
        super().__init__()
        self.group = group
        self.rows = int(layer.weight.shape[0])
        self.start, self.stop = mine.start, mine.stop
        self.part = _rows_of(layer, mine, read, keep_bias=False)

    def __call__(self, tokens: mx.array) -> mx.array:
        mine = (tokens >= self.start) & (tokens < self.stop)
        if self.stop == self.start:  # more processes than tokens: this one keeps none, and has a row of zeros
            mine = mx.zeros_like(mine)
        found = self.part(mx.where(mine, tokens - self.start, 0))
        summed: mx.array = self.group.sum(mx.where(mine[..., None], found, 0))
        return summed

    def as_linear(self, x: mx.array) -> mx.array:
        y = self.part.as_linear(self.group.whole_input(x))
        return gathered(y, self.rows, self.group)


def gathered(y: mx.array, rows: int, group: Exchange) -> mx.array:
    """Outputs (..., rows of this process) -> (..., rows), in order, on every process."""
    width = math.ceil(rows / group.size)
    if y.shape[-1] < width:
        y = mx.pad(y, [(0, 0)] * (y.ndim - 1) + [(0, width - y.shape[-1])])
    if y.shape[-1] > width or y.size == 0:
        raise ValueError(f"{y.shape}: more outputs than the {width} of a process, or none")
    every = group.gather(y)  # (process, ..., width)
    return mx.moveaxis(every, 0, -2).reshape(*y.shape[:-1], -1)[..., :rows]


def copied(array: mx.array, rows: slice) -> mx.array:
    """Rows of an array that is in memory, or is read whole: a view of them would keep the others there."""
    found: mx.array = mx.contiguous(array[..., rows, :])
    return found


def split(model: nn.Module, group: Group, read: Rows = copied) -> None:
    """Replace every linear layer, embedding and experts' matrix by this process's part; in place, one at a time.

    Norms, learned positions and what else is small stay whole. read: gives rows of a matrix (`loading/slices.py`).
    """
    exchange = Exchange(group)
    waiting = dict(splittable(model))
    while waiting:  # not a loop over it: what is done is to be forgotten
        path, layer = waiting.popitem()
        mine = share(int(layer.weight.shape[-2]), exchange)
        part: nn.Module = (SplitEmbedding if embeds(layer) else SplitLinear)(layer, exchange, mine, read)
        mx.eval(part.parameters())  # so that what is read of the file goes again, layer by layer
        model.update_modules(trees.tree_unflatten([(path, part)]))


def gathered_per_token(model: nn.Module) -> int:
    """Numbers that all processes exchange for one token: outputs gathered, embeddings summed.

    Of a model that is not split: what they would exchange if it were. Of experts' matrices one expert counts.
    """
    return sum(exchanged_per_token(model).values())


def exchanged_per_token(model: nn.Module) -> dict[str, int]:
    """Numbers exchanged for one token, by the layer whose outputs they are: one exchange each, but for experts."""
    rows = {f"{path}.part": module.rows for path, module in model.named_modules() if hasattr(module, "rows")}
    return {
        path: _width(layer) if embeds(layer) else rows.get(path, int(layer.weight.shape[-2]))
        for path, layer in splittable(model)
    }


def _width(embedding: nn.Module) -> int:
    return int(embedding.weight.shape[-1]) * (32 // embedding.bits if "scales" in embedding else 1)


def splittable(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    linear = (nn.Linear, nn.QuantizedLinear)
    for path, module in model.named_modules():
        learned_positions = isinstance(module, nn.Embedding) and path.rsplit(".", 1)[-1] in ("wpe", "embed_positions")
        if isinstance(module, linear) or is_of_experts(module) or (embeds(module) and not learned_positions):
            yield path, module


def embeds(module: nn.Module) -> bool:
    return isinstance(module, nn.Embedding | nn.QuantizedEmbedding)


def is_of_experts(module: nn.Module) -> bool:
    layers = mlx_lm.models.switch_layers
    return isinstance(module, layers.SwitchLinear | layers.QuantizedSwitchLinear)


def _rows_of(layer: nn.Module, rows: slice, read: Rows, *, keep_bias: bool) -> nn.Module:
    """The same layer with some of its rows: packed weights, scales and biases are cut alike."""
    if rows.start == rows.stop:
        rows = slice(0, 1)  # something must be multiplied; what it gives is cut off again
    part = _empty_like(layer)
    for name in ("weight", "scales", "biases"):
        if name in layer and layer[name] is not None:
            part[name] = read(layer[name], rows)
    if keep_bias and "bias" in layer:
        part["bias"] = layer["bias"][..., rows]
    return part


def _empty_like(layer: nn.Module) -> nn.Module:
    """A layer of the same class and settings that holds no arrays."""
    part = layer.__class__.__new__(layer.__class__)
    nn.Module.__init__(part)
    for name, value in vars(layer).items():
        if not name.startswith("_"):
            setattr(part, name, value)
    part.freeze()
    return part
