"""Sparse autoencoders: their parameters, their forward pass, and edits of single features.

x (..., d_model) -> features f (..., d_sae) -> x^ = f W_dec + b_dec; how f comes from x is the kind's (`kinds`).
Weights are those for activations as the model has them: whatever scale training used is folded in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from mlx_interp.activations import Activations
from mlx_interp.deferred import mx
from mlx_interp.errors import SAEError, nearest
from mlx_interp.interventions import ArrayLike, Features, Positions
from mlx_interp.sae.kinds import BY_NAME, ReLU

Normalize: TypeAlias = Literal["none", "constant_norm_rescale", "layer_norm"]
EDITED_AT_ONCE = 32_000_000
"""Features held at once while an intervention edits some."""


@dataclass(frozen=True, eq=False)
class SAE:
    """A sparse autoencoder of one site. Raises SAEError for parameters that are missing or do not fit each other.

    site: e.g. "resid_post.3"; at z, which has heads, d_model is all heads' width. k: of topk.
    subtracts_bias: whether the encoder sees x - b_dec, or x.
    normalize: what is done to every x before encoding, and undone after decoding, by what x itself is.
    """

    kind: str
    """A name of `kinds.BY_NAME`."""
    site: str
    weights: Mapping[str, mx.array] = field(repr=False)
    k: int | None = None
    subtracts_bias: bool = True
    normalize: Normalize = "none"
    meta: Mapping[str, Any] = field(default_factory=dict)
    """Where it is from: training configuration, tokens, release."""

    def __post_init__(self) -> None:
        kind = kind_of(self.kind)
        if self.normalize not in get_args(Normalize):
            raise SAEError(
                f"{self.site}: inputs are not normalised by {self.normalize!r}; known: {get_args(Normalize)}"
            )
        check_shapes(self.kind, self.weights, f"autoencoder of {self.site}")
        if kind.needs_k and not 1 <= (self.k or 0) <= self.d_sae:
            raise SAEError(f"{self.site}: a {self.kind} autoencoder needs k between 1 and {self.d_sae}, not {self.k}")

    @property
    def d_model(self) -> int:
        return int(self.weights["W_dec"].shape[1])

    @property
    def d_sae(self) -> int:
        return int(self.weights["W_dec"].shape[0])

    @property
    def directions(self) -> mx.array:
        """What each feature writes, (d_sae, d_model)."""
        return self.weights["W_dec"]

    def __repr__(self) -> str:
        k = f", k={self.k}" if kind_of(self.kind).needs_k else ""
        return f"SAE({self.kind!r}, {self.site!r}, {self.d_model} -> {self.d_sae}{k})"

    def encode(self, x: ArrayLike) -> mx.array:
        """Features (..., d_sae), float32, of activations (..., d_model). Raises SAEError for another width."""
        return self._encode(self._normalised(self._checked(x))[0])

    def decode(self, features: ArrayLike) -> mx.array:
        """Reconstruction (..., d_model) of features (..., d_sae); of the normalised x, where x is normalised."""
        f = features if isinstance(features, mx.array) else mx.array(np.asarray(features, dtype=np.float32))
        if f.shape[-1] != self.d_sae:
            raise SAEError(f"{self}: features are {tuple(f.shape)}, the last axis must be {self.d_sae}")
        return f @ self.weights["W_dec"] + self.weights["b_dec"]

    def __call__(self, x: ArrayLike) -> mx.array:
        """Reconstruction (..., d_model) of activations (..., d_model)."""
        normal, shift, factor = self._normalised(self._checked(x))
        return self.decode(self._encode(normal)) * factor + shift

    def edited(
        self, x: mx.array, features: mx.array, factor: mx.array, value: mx.array | None, *, error: bool = True
    ) -> mx.array:
        """Activations with chosen features at factor * f + value, and all else as it was.

        x: (row, pos, d_model). features: (row, k) of int. factor, value: broadcast to (row, pos, k).
        error: keep what the autoencoder does not reconstruct (x - x^); without it, the edited reconstruction alone.
        """
        rows = max(1, EDITED_AT_ONCE // (x.shape[1] * self.d_sae))
        if x.shape[0] > rows:

            def part(a: mx.array | None, start: int) -> mx.array | None:
                return a if a is None or a.shape[0] == 1 else a[start : start + rows]

            parts = []
            for start in range(0, x.shape[0], rows):
                some = x[start : start + rows], part(features, start), part(factor, start), part(value, start)
                parts.append(self.edited(*some, error=error))  # type: ignore[arg-type]
            return mx.concatenate(parts)
        normal, shift, scale = self._normalised(x.astype(mx.float32))
        f = self._encode(normal)
        kept = x.astype(mx.float32) if error else self.decode(f) * scale + shift
        if not features.shape[-1]:
            return kept
        old = mx.take_along_axis(f, mx.broadcast_to(features[:, None], (*x.shape[:2], features.shape[1])), axis=-1)
        new = factor * old if value is None else factor * old + value
        return kept + ((new - old) @ self.weights["W_dec"][features]) * scale

    # Edits of features, as interventions for run, sweep and generate.

    def ablate(self, features: int | Sequence[int], *, positions: Positions = None) -> Features:
        """Features set to 0."""
        return Features(self, features, positions=positions)

    def patch(self, features: int | Sequence[int], value: ArrayLike, *, positions: Positions = None) -> Features:
        """Features set to values: a number, (n_features,), (n_positions, n_features) or with a batch axis before."""
        return Features(self, features, value, positions=positions)

    def steer(self, features: int | Sequence[int], amount: ArrayLike, *, positions: Positions = None) -> Features:
        """Features raised by an amount, whether active or not."""
        return Features(self, features, amount, factor=1.0, positions=positions)

    def splice(self, *, error: bool = False, positions: Positions = None) -> Features:
        """The reconstruction in the activation's place; with the error term added, which changes nothing."""
        return Features(self, (), error=error, positions=positions)

    def features(self, activations: Activations) -> mx.array:
        """Features (row, pos, d_sae) of a run or sweep that captured this site; zero where a row has no position.

        They are what the activation encodes to after all interventions at the site. Raises SiteError, SAEError.
        """
        x = activations[self.site]
        f = self.encode(x.reshape(*x.shape[:2], -1))
        real = mx.arange(x.shape[1])[None] < mx.array(activations.lengths)[:, None]
        return mx.where(real[..., None], f, mx.zeros((), dtype=f.dtype))

    def _checked(self, x: ArrayLike) -> mx.array:
        array = x if isinstance(x, mx.array) else mx.array(np.asarray(x, dtype=np.float32))
        if array.shape[-1] != self.d_model:
            raise SAEError(f"{self}: activations are {tuple(array.shape)}, the last axis must be {self.d_model}")
        return array.astype(mx.float32)

    def _encode(self, x: mx.array) -> mx.array:
        kind = kind_of(self.kind)
        h = (x - self.weights["b_dec"] if self.subtracts_bias else x) @ self.weights["W_enc"]
        return kind.features(self.weights, kind.pre_activations(self.weights, h), self.k)

    def _normalised(self, x: mx.array) -> tuple[mx.array, mx.array, mx.array]:
        """(x as the encoder wants it, what to add and what to multiply a reconstruction by to undo it)."""
        zero, one = mx.zeros((1,)), mx.ones((1,))
        if self.normalize == "none":
            return x, zero, one
        if self.normalize == "constant_norm_rescale":
            factor = mx.linalg.norm(x, axis=-1, keepdims=True) / self.d_model**0.5
            return x / factor, zero, factor
        mean = mx.mean(x, axis=-1, keepdims=True)
        spread = mx.std(x, axis=-1, keepdims=True, ddof=1)
        return (x - mean) / (spread + 1e-5), mean, spread


def kind_of(name: str) -> ReLU:
    """What a kind does, by its name. Raises SAEError, with the nearest names, for one that is none."""
    if name not in BY_NAME:
        raise SAEError(f"no kind of autoencoder {name!r}: {nearest(name, BY_NAME)}there are {', '.join(BY_NAME)}")
    return BY_NAME[name]


def check_shapes(kind: str, weights: Mapping[str, mx.array], what: str) -> None:
    """Raises SAEError, naming the parameter, unless all of a kind's are there and fit each other."""
    shapes = kind_of(kind).shapes
    missing = shapes.keys() - weights.keys()
    if missing:
        raise SAEError(f"{what}: a {kind} one needs {', '.join(sorted(missing))}; it has {', '.join(weights)}")
    if weights["W_dec"].ndim != 2:
        raise SAEError(f"{what}: W_dec is {tuple(weights['W_dec'].shape)}, (d_sae, d_model) is needed")
    size = {"m": weights["W_dec"].shape[0], "d": weights["W_dec"].shape[1]}
    for name, axes in shapes.items():
        shape = tuple(size[axis] for axis in axes)
        if (given := tuple(weights[name].shape)) != shape:
            raise SAEError(f"{what}: {name} is {given}, but {shape} fits W_dec {tuple(weights['W_dec'].shape)}")
