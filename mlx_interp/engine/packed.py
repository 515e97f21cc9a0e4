"""Quantised layers that compute as dense ones in little memory: a matrix is unpacked when a product needs it.

1. Words, scales and biases stay as the checkpoint has them. A product unpacks its matrix into the numbers that a layer
   dequantised on loading would hold, so that results are that layer's; a large one is unpacked some rows at a time.
2. Words wait for what they are multiplied by, so that one matrix at a time is there. Backwards it is unpacked again.
3. An embedding unpacks the rows of its tokens alone.
4. An edited matrix keeps its words, and beside them the outer products that the edit takes away (`remove`).

Imported only where a model is held so: its classes need MLX, which is slow to import.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from mlx_interp.deferred import mlx_lm, mx, nn
from mlx_interp.engine.layout import laid_out
from mlx_interp.engine.modules import dense_like

BLOCK = 2**24
"""Bytes of one unpacked part of a matrix: larger ones take more memory and more time, smaller ones no less."""
ROWS = 1024
"""Rows of a part are a multiple of these: BLAS kernels sum alike in parts of so many, and otherwise in some."""


def unpacked(
    words: mx.array,
    scales: mx.array,
    biases: mx.array | None,
    *,
    group_size: int,
    bits: int,
    mode: str,
    dtype: mx.Dtype | None = None,
) -> mx.array:
    """Quantised numbers as `mx.dequantize` gives them for scales of a dtype (None: as they are), bit for bit.

    words: (..., columns * bits / 32); scales, biases: (..., groups).
    """
    if mode != "affine":  # scales of the mx formats are bytes
        found: mx.array = mx.dequantize(words, scales, biases, group_size=group_size, bits=bits, mode=mode)
        return found if dtype is None else found.astype(dtype)
    dtype = scales.dtype if dtype is None else dtype
    scales, biases = scales.astype(dtype), None if biases is None else biases.astype(dtype)
    if biases is None or dtype != mx.float32 or mx.default_device() != mx.Device(mx.cpu):
        made: mx.array = mx.dequantize(words, scales, biases, group_size=group_size, bits=bits, mode=mode)
        return made
    # On CPU `mx.dequantize` is 3 to 20 times slower than this, in 5 and 6 bits most.
    whole = numbers(words, bits).astype(dtype)
    grouped = whole.reshape(*scales.shape, group_size)
    return (grouped * scales[..., None] + biases[..., None]).reshape(whole.shape)


def numbers(words: mx.array, bits: int) -> mx.array:
    """The integers in 32-bit words (..., n), lowest bits first: (..., n * 32 / bits), each a byte."""
    raw: mx.array = words.view(mx.uint8)
    if bits == 8:
        return raw
    if bits == 4:  # a byte is spread over two
        wide = raw.astype(mx.uint16)
        spread: mx.array = ((wide | (wide << 4)) & 0x0F0F).view(mx.uint8)
        return spread
    eights = raw.reshape(*raw.shape[:-1], -1, bits)  # eight numbers are `bits` bytes

    def number(place: int) -> mx.array:
        byte, shift = divmod(place * bits, 8)
        found: mx.array = eights[..., byte] >> shift
        if shift + bits > 8:
            found = found | (eights[..., byte + 1] << (8 - shift))
        return mx.bitwise_and(found, 2**bits - 1)

    flat: mx.array = mx.flatten(mx.stack([number(place) for place in range(8)], axis=-1), -2)
    return flat


@dataclass(frozen=True)
class Removed:
    """What edits took away of a matrix: outer products of columns (rows of the matrix,) and rows (columns of it,)."""

    pairs: tuple[tuple[mx.array, mx.array], ...] = ()


class Packed(nn.Module):  # type: ignore[misc]
    """A quantised matrix (rows, columns) that is unpacked when it is needed."""

    dtype: mx.Dtype
    """What it is unpacked to."""
    removed: Removed

    @property
    def n_rows(self) -> int:
        return int(self["weight"].shape[-2])

    @property
    def n_columns(self) -> int:
        return int(self["weight"].shape[-1]) * 32 // int(self.bits)

    def blocks(self) -> Iterator[slice]:
        """Rows that are unpacked together."""
        fit = BLOCK // (self.n_columns * self.dtype.size)
        step = max(fit // ROWS * ROWS, ROWS)
        for start in range(0, self.n_rows, step):
            yield slice(start, min(start + step, self.n_rows))

    def some_rows(self, chosen: slice | mx.array, after: mx.array | None = None) -> mx.array:
        """Some rows, unpacked; not before another array is there."""
        biases = self.get("biases")
        matrix = unpacked(
            _waiting(self["weight"][chosen], after),
            self["scales"][chosen],
            None if biases is None else biases[chosen],
            group_size=self.group_size,
            bits=self.bits,
            mode=self.mode,
            dtype=self.dtype,
        )
        for column, row in self.removed.pairs:
            matrix = (matrix - column[chosen][..., None] * row).astype(self.dtype)
        return matrix

    def dense(self) -> nn.Module:
        """The dense layer of the same function, its matrix computed when it is needed."""
        made = dense_like(self, *self["weight"].shape[:-1], self.n_columns)
        made.weight = self.some_rows(slice(None))
        if "bias" in self:
            made.bias = self["bias"]
        return made

    def product(self, x: mx.array, bias: mx.array | None = None) -> mx.array:
        """x (..., columns) times the transposed matrix, plus a bias: (..., rows)."""

        def there(x: mx.array) -> mx.array:
            made, after = [], x
            for block in self.blocks():
                part = laid_out(self.some_rows(block, after)).T
                after = x @ part if bias is None else mx.addmm(bias[block], x, part)
                made.append(after)
            return made[0] if len(made) == 1 else mx.concatenate(made, axis=-1)

        def moved(x: mx.array, *, tangent: bool = False) -> mx.array:
            return self.product(x, None if tangent else bias)

        return _linear(x, there, moved, self.transposed_product)

    def transposed_product(self, y: mx.array) -> mx.array:
        """y (..., rows) times the matrix: (..., columns)."""

        def there(y: mx.array) -> mx.array:
            total: mx.array | None = None
            for block in self.blocks():
                part = y[..., block] @ laid_out(self.some_rows(block, y if total is None else total))
                total = part if total is None else total + part
            assert total is not None
            return total

        def moved(y: mx.array, *, tangent: bool = False) -> mx.array:
            return self.transposed_product(y)

        return _linear(y, there, moved, self.product)

    def remove(self, column: mx.array, row: mx.array) -> None:
        """Takes an outer product (rows,) x (columns,) away from the matrix, from now on."""
        mx.eval(column, row)
        self.removed = Removed((*self.removed.pairs, (column, row)))


def _waiting(words: mx.array, after: mx.array | None) -> mx.array:
    """The same words, not before another array is there. `mx.depends` would do, but cannot be mapped."""
    if after is None:
        return words
    never = (mx.stop_gradient(after)[(0,) * after.ndim] == 0) & mx.array(False)
    return words | never.astype(mx.uint32)


def _linear(
    x: mx.array,
    there: Callable[[mx.array], mx.array],
    moved: Callable[..., mx.array],
    back: Callable[[mx.array], mx.array],
) -> mx.array:
    """A product whose matrix is unpacked anew where it is differentiated, instead of kept until then.

    there: computes it; moved: the product itself, of other inputs; back: the transposed product.
    """

    @mx.custom_function
    def made(x: mx.array) -> mx.array:
        return there(x)

    @made.vjp
    def vjp(x: mx.array, slope: mx.array, _: mx.array) -> mx.array:
        return back(slope)

    @made.jvp
    def jvp(x: mx.array, tangent: mx.array) -> mx.array:
        return moved(tangent, tangent=True)

    @made.vmap
    def vmap(x: mx.array, axis: int) -> tuple[mx.array, int]:
        return moved(mx.moveaxis(x, axis, 0)), 0

    found: Any = made(x)
    return found  # type: ignore[no-any-return]


class PackedLinear(Packed, nn.QuantizedLinear):  # type: ignore[misc]
    """A quantised linear layer that computes as a dense one."""

    def __call__(self, x: mx.array) -> mx.array:
        return self.product(x, self.get("bias"))


class PackedEmbedding(Packed, nn.QuantizedEmbedding):  # type: ignore[misc]
    """A quantised embedding that gives what a dense one does, and as a head its logits."""

    def __call__(self, tokens: mx.array) -> mx.array:
        return self.some_rows(tokens)

    def as_linear(self, x: mx.array) -> mx.array:
        return self.product(x)


class PackedExperts(Packed, mlx_lm.models.switch_layers.QuantizedSwitchLinear):  # type: ignore[misc]
    """A quantised matrix of every expert (expert, rows, columns); few tokens unpack the experts that they take."""

    def __call__(self, x: mx.array, indices: mx.array, sorted_indices: bool = False) -> mx.array:
        experts: mx.array = indices
        chosen: slice | mx.array = slice(None)
        if indices.size < self["weight"].shape[0]:
            chosen, experts = indices.flatten(), mx.arange(indices.size).reshape(indices.shape)
        matrices = self.some_rows(chosen, x).swapaxes(-1, -2)
        y = mx.gather_mm(x, matrices, rhs_indices=experts, sorted_indices=sorted_indices)
        return y + mx.expand_dims(self["bias"][indices], -2) if "bias" in self else y


def packed_like(module: nn.Module, dtype: mx.Dtype) -> Packed:
    """A quantised layer as one that is unpacked when it is needed; its arrays are shared."""
    kind = next(kind for kind in (PackedLinear, PackedEmbedding, PackedExperts) if isinstance(module, kind.__mro__[2]))
    made: Packed = kind.__new__(kind)
    nn.Module.__init__(made)
    for name, value in (*vars(module).items(), *module.items()):
        if not name.startswith("_"):
            setattr(made, name, value)
    made.dtype, made.removed = dtype, Removed()
    made.freeze()
    made.eval()
    return made
