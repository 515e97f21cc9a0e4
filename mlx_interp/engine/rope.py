"""Rotary embeddings (RoPE, Su et al. 2021), scaled ones (linear, NTK, YaRN, LongRoPE) too, as mlx-lm's modules are.

1. Half of a head's dimensions are the first coordinates of planes, the other half the second; plane i turns by
   position x inverse[i], and the result is multiplied by a factor (YaRN's and LongRoPE's attention factor).
2. `FixedRoPE` has frequencies of its own. In `LengthRoPE` they depend on how long the text is: LongRoPE takes its long
   factors beyond the original length, dynamic NTK raises its base with every token beyond the trained length.
3. A row's text may be shorter than what it is batched with, so that the lengths of the rows can be said.

They are no modules of MLX: they have no weights, and what walks through weights must not find, cast or store them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence

import numpy as np

from mlx_interp.deferred import mx


class FixedRoPE:
    """RoPE with given frequencies."""

    def __init__(self, inverse: np.ndarray, factor: float = 1.0) -> None:
        """inverse: (plane,) radians a position; the first 2 x plane dimensions of a head are turned."""
        self.dims, self.factor = 2 * len(inverse), factor
        with np.errstate(divide="ignore"):
            self._freqs = mx.array(1 / inverse.astype(np.float32))  # the underscore: no weight, never cast

    def __call__(self, x: mx.array, offset: int | mx.array = 0) -> mx.array:
        """x: (row, head, pos, d_head), whose first position is `offset`, one number or (row,)."""
        if self.factor != 1.0:
            x = x.at[..., : self.dims].multiply(self.factor)
        return mx.fast.rope(x, self.dims, traditional=False, base=None, scale=1.0, offset=offset, freqs=self._freqs)


class LengthRoPE(ABC):
    """RoPE whose frequencies depend on the number of tokens."""

    dims: int
    factor: float
    rereads_beyond: int | None = None
    """Transformers reads a text anew when it grows beyond this length while it is written; None: it goes on."""

    @abstractmethod
    def inverse(self, lengths: mx.array) -> mx.array:
        """Lengths (row,) -> radians a position (row, plane)."""

    @abstractmethod
    def regime(self, length: int) -> Hashable:
        """Equal for lengths that have equal frequencies."""

    def __call__(
        self, x: mx.array, offset: int | mx.array = 0, lengths: Sequence[int] | mx.array | None = None
    ) -> mx.array:
        """x: (row, head, pos, d_head), whose first position is `offset`, one number or (row,).

        lengths: tokens of each row's text; None where it ends with x.
        """
        first, n = mx.array(offset).reshape(-1), x.shape[-2]
        rows = first + n if lengths is None else lengths
        inverse = self.inverse(rows if isinstance(rows, mx.array) else mx.array(list(rows)))
        positions = (first[:, None] + mx.arange(n)).astype(mx.float32)
        angles = (positions[:, :, None] * inverse[:, None])[:, None]  # row head pos plane
        cos, sin = mx.cos(angles) * self.factor, mx.sin(angles) * self.factor
        turned, rest = x[..., : self.dims].astype(mx.float32), x[..., self.dims :]
        a, b = turned[..., : self.dims // 2], turned[..., self.dims // 2 :]
        turned = mx.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)
        return mx.concatenate([turned, rest], axis=-1) if rest.shape[-1] else turned


class LongRoPE(LengthRoPE):
    """LongRoPE (Ding et al. 2024): one set of frequencies up to the original length, another beyond it."""

    def __init__(
        self, short: np.ndarray, long: np.ndarray, factor: float, *, original: int, rereads: bool = False
    ) -> None:
        self.dims, self.factor, self.original = 2 * len(short), factor, original
        self.rereads_beyond = original if rereads else None
        self._short, self._long = mx.array(short), mx.array(long)

    def inverse(self, lengths: mx.array) -> mx.array:
        return mx.where((lengths > self.original)[:, None], self._long, self._short)

    def regime(self, length: int) -> Hashable:
        return length > self.original


class DynamicRoPE(LengthRoPE):
    """Dynamic NTK scaling: beyond the trained length the base grows with the text."""

    def __init__(self, dims: int, base: float, scale: float, *, trained: int) -> None:
        self.dims, self.factor, self.base, self.scale, self.trained = dims, 1.0, base, scale, trained

    def inverse(self, lengths: mx.array) -> mx.array:
        length = mx.maximum(lengths, self.trained).astype(mx.float32)
        growth = (self.scale * length / self.trained - (self.scale - 1)) ** (self.dims / (self.dims - 2))
        exponents = mx.arange(0, self.dims, 2, dtype=mx.float32) / self.dims
        return 1 / (self.base * growth)[:, None] ** exponents

    def regime(self, length: int) -> Hashable:
        return max(length, self.trained)
