"""Controls: what stands beside a figure to show that it is no accident of the method."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TypeVar

import numpy as np

from mlx_interp.deferred import mx
from mlx_interp.errors import DirectionError
from mlx_interp.stats import stable_draw

T = TypeVar("T")
Vector = TypeVar("Vector", "mx.array", np.ndarray)
Seed = int | Sequence[int] | np.random.Generator


def random_like(vector: Vector, *, seed: Seed, key: Hashable = None, without: np.ndarray | None = None) -> Vector:
    """Random direction of equal length: normal draws, each as long as `vector` along its last axis.

    vector: (..., d_model); float32 of MLX, or float64 of numpy, comes back. key: what the control stands for; with it
    the draw depends on seed and key alone, in every session. seed: also a generator, whose stream is then gone on with.
    without: (d_model,), a direction that the draw is orthogonal to.
    Raises DirectionError for a vector that is not finite: it has no length to be equal to.
    """
    rng = np.random.default_rng(seed if key is None else stable_draw(_number(seed), key, 2**31))
    drawn = rng.normal(size=tuple(vector.shape))
    if without is not None:
        drawn = orthogonal_to(drawn, without)
    if isinstance(vector, mx.array):
        noise = mx.array(drawn.astype(np.float32))
        ratio = _lengths(vector.astype(mx.float32)) / _lengths(noise)
        _check_finite(bool(mx.all(mx.isfinite(ratio))))
        return noise * ratio
    length = np.linalg.norm(vector, axis=-1, keepdims=True)
    _check_finite(bool(np.isfinite(length).all()))
    return np.asarray(drawn * (length / np.linalg.norm(drawn, axis=-1, keepdims=True)))


def orthogonal_to(vector: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Vectors (..., d_model) without their component along a direction (d_model,), float64.

    Raises DirectionError for a direction of length zero.
    """
    length = float(np.linalg.norm(direction))
    if not length > 0:
        raise DirectionError("orthogonal to a direction of length 0: give one that points somewhere")
    unit = np.asarray(direction, np.float64) / length
    return np.asarray(vector - (vector @ unit)[..., None] * unit)


def _lengths(vectors: mx.array) -> mx.array:
    return mx.linalg.norm(vectors, axis=-1, keepdims=True)


def _number(seed: Seed) -> int:
    if not isinstance(seed, int):
        raise TypeError(f"a draw by key takes a whole number as its seed, not {type(seed).__name__}")
    return seed


def _check_finite(finite: bool) -> None:
    if not finite:
        raise DirectionError("a random direction as long as a vector that is not finite: look at where it is from")


def shuffled_labels(
    positive: Sequence[T], negative: Sequence[T], *, seed: int, key: Hashable = ""
) -> tuple[list[T], list[T]]:
    """Shuffled labels: two classes, each with a random half of either kind.

    Drawn by seed and key alone, and never by place: lists that people write have an order (every second request begins
    with "Explain"), so that halves taken in turn are a contrast of their own. A kind of odd length gives its odd one to
    the first class if it is the positive kind, else to the second, so that classes of equal kinds are equally large.
    """
    rng = np.random.default_rng(stable_draw(seed, ("shuffled labels", key), 2**31))
    first: list[T] = []
    second: list[T] = []
    for kind, extra in ((positive, 1), (negative, 0)):
        order = rng.permutation(len(kind)).tolist()
        half = (len(kind) + extra) // 2
        first += [kind[at] for at in order[:half]]
        second += [kind[at] for at in order[half:]]
    return first, second
