"""Injection of activations at placeholder tokens, at the length of the state that is there: how a reader is shown one.

Karvonen et al. 2025, "Activation Oracles" (arXiv 2512.15674): h' = h + ||h|| v / ||v|| at the placeholders, h being the
output of the reader's second layer. Its earlier runs, and natural-language autoencoders
(transformer-circuits.pub/2026/nla, at the embedding), write over the state in place of adding to it; the latter at a
length of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from mlx_interp.deferred import mx
from mlx_interp.errors import ConfigError, DataError

How = Literal["add", "replace"]


@dataclass(frozen=True)
class Injection:
    """How a vector meets a state."""

    how: How = "add"
    scale: float = 1.0
    """Length of what is put in, as a multiple of the state's own."""
    length: float | None = None
    """Length of what is put in, whatever the state's; None for `scale`."""

    def __post_init__(self) -> None:
        if self.how not in get_args(How):
            raise ConfigError(f"an activation is injected by 'add' or 'replace', not {self.how!r}")
        for name, value in (("scale", self.scale), ("length", 1.0 if self.length is None else self.length)):
            if not (np.isfinite(value) and value > 0):
                raise ConfigError(f"{name} {value!r}: the length of what is injected is above 0")

    def put(self, states: mx.array, units: mx.array) -> mx.array:
        """States (..., d_model) with vectors of length 1 put into them, float32. No slope goes through their length."""
        wide = states.astype(mx.float32)
        lengths = mx.stop_gradient(mx.linalg.norm(wide, axis=-1, keepdims=True))
        vectors = units * (self.scale * lengths if self.length is None else self.length)
        return wide + vectors if self.how == "add" else vectors


def units_of(vectors: np.ndarray, what: str = "activation") -> np.ndarray:
    """Vectors (..., d_model) at length 1, float32. Raises DataError for one that is 0 or not finite."""
    wide = np.asarray(vectors, dtype=np.float64)
    lengths = np.linalg.norm(wide, axis=-1, keepdims=True)
    wrong = np.argwhere(~(np.isfinite(lengths) & (lengths > 0))[..., 0])
    if len(wrong):
        place = ", ".join(map(str, wrong[0]))
        raise DataError(
            f"{what} {place} of {wide.shape[:-1]} has length {float(lengths[tuple(wrong[0])][0]):g}: it has no "
            "direction to inject; leave it out, or load the model with a wider dtype where it overflowed"
        )
    return np.asarray(wide / lengths, dtype=np.float32)


@dataclass(frozen=True)
class Injected:
    """Vectors of the rows of a fine-tune, at the output of one layer."""

    layer: int
    injection: Injection
    positions: Sequence[Sequence[int]]
    """Of each row, in its prompt."""
    units: Sequence[np.ndarray]
    """(n_positions, d_model) of each row, length 1."""

    def batch(self, rows: Sequence[int], width: int) -> tuple[mx.array, mx.array]:
        """Where a padded batch has vectors (batch, width, 1), and the vectors (batch, width, d_model), else 0."""
        vectors = np.zeros((len(rows), width, self.units[0].shape[-1]), np.float32)
        for place, row in enumerate(rows):
            vectors[place, list(self.positions[row])] = self.units[row]
        return mx.array(np.asarray(vectors.any(axis=-1, keepdims=True))), mx.array(vectors)
