"""Sparse autoencoders: their parameters, their forward pass, and edits of single features.

x (..., d_model) -> features f (..., d_sae) -> x^ = f W_dec + b_dec. With z = (x - b_dec) W_enc + b_enc the kinds are

    relu        f = ReLU(z)                                     Bricken et al. 2023; Cunningham et al. 2023 (2309.08600)
    gated       f = 1[z_gate > 0] ReLU(z_mag), shared W_enc     Rajamanoharan et al. 2024 (2404.16014)
    topk        f = the k largest of ReLU(z)                    Gao et al. 2024 (2406.04093)
    jumprelu    f = z 1[z > threshold], one for each feature    Rajamanoharan et al. 2024 (2407.14435)
    batchtopk   as jumprelu once trained: a fixed threshold     Bussmann et al. 2024 (2412.06410)

Weights are those for activations as the model has them: whatever scale training used is folded in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, get_args

import mlx.core as mx
import numpy as np

from mlx_interp.activations import Activations
from mlx_interp.errors import SAEError
from mlx_interp.interventions import ArrayLike, Features, Positions

Kind: TypeAlias = Literal["relu", "gated", "topk", "batchtopk", "jumprelu"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Normalize: TypeAlias = Literal["none", "constant_norm_rescale", "layer_norm"]
Weights: TypeAlias = dict[str, mx.array]

SHAPES: dict[str, dict[str, str]] = {
    kind: {"W_enc": "dm", "W_dec": "md", "b_dec": "d"}
    | ({"b_gate": "m", "r_mag": "m", "b_mag": "m"} if kind == "gated" else {"b_enc": "m"})
    | ({"threshold": "m"} if kind in ("batchtopk", "jumprelu") else {})
    for kind in KINDS
}
"""Parameters of each kind: d is d_model, m is d_sae."""
EDITED_AT_ONCE = 32_000_000
"""Features held at once while an intervention edits some."""


@dataclass(frozen=True, eq=False)
class SAE:
    """A sparse autoencoder of one site. Raises SAEError for parameters that are missing or do not fit each other.

    site: e.g. "resid_post.3"; at z, which has heads, d_model is all heads' width. k: of topk.
    subtracts_bias: whether the encoder sees x - b_dec, or x.
    normalize: what is done to every x before encoding, and undone after decoding, by what x itself is.
    """

    kind: Kind
    site: str
    weights: Mapping[str, mx.array] = field(repr=False)
    k: int | None = None
    subtracts_bias: bool = True
    normalize: Normalize = "none"
    meta: Mapping[str, Any] = field(default_factory=dict)
    """Where it is from: training configuration, tokens, release."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise SAEError(f"no kind of autoencoder {self.kind!r}: there are {', '.join(KINDS)}")
        if self.normalize not in get_args(Normalize):
            raise SAEError(
                f"{self.site}: inputs are not normalised by {self.normalize!r}; known: {get_args(Normalize)}"
            )
        check_shapes(self.kind, self.weights, f"autoencoder of {self.site}")
        if self.kind == "topk" and not 1 <= (self.k or 0) <= self.d_sae:
            raise SAEError(f"{self.site}: a topk autoencoder needs k between 1 and {self.d_sae}, not {self.k}")

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
        k = f", k={self.k}" if self.kind == "topk" else ""
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
        z = pre_activations(self.kind, self.weights, x, subtracts_bias=self.subtracts_bias)
        return features_of(self.kind, self.weights, z, self.k)

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


def pre_activations(
    kind: Kind, weights: Mapping[str, mx.array], x: mx.array, *, subtracts_bias: bool = True
) -> mx.array:
    """z (..., d_sae); of a gated one both, gate and magnitude, (2, ..., d_sae)."""
    z = (x - weights["b_dec"] if subtracts_bias else x) @ weights["W_enc"]
    if kind != "gated":
        return z + weights["b_enc"]
    return mx.stack([z + weights["b_gate"], z * mx.exp(weights["r_mag"]) + weights["b_mag"]])


def features_of(kind: Kind, weights: Mapping[str, mx.array], z: mx.array, k: int | None) -> mx.array:
    """Features from pre-activations, as at inference."""
    if kind == "gated":
        return mx.where(z[0] > 0, mx.maximum(z[1], 0), 0.0)
    f = mx.maximum(z, 0)
    if kind == "topk":
        assert k is not None
        return largest(f, k)
    return f if kind == "relu" else mx.where(z > weights["threshold"], f, 0.0)


def largest(f: mx.array, k: int) -> mx.array:
    """f (..., m) with all but the k largest of each row set to 0 (ties at the k-th are kept)."""
    if k >= f.shape[-1]:
        return f
    place = f.shape[-1] - k
    kth = mx.stop_gradient(mx.partition(f, place, axis=-1)[..., place : place + 1])
    return mx.where(f >= kth, f, 0.0)


def check_shapes(kind: Kind, weights: Mapping[str, mx.array], what: str) -> None:
    """Raises SAEError, naming the parameter, unless all of a kind's are there and fit each other."""
    missing = SHAPES[kind].keys() - weights.keys()
    if missing:
        raise SAEError(f"{what}: a {kind} one needs {', '.join(sorted(missing))}; it has {', '.join(weights)}")
    if weights["W_dec"].ndim != 2:
        raise SAEError(f"{what}: W_dec is {tuple(weights['W_dec'].shape)}, (d_sae, d_model) is needed")
    size = {"m": weights["W_dec"].shape[0], "d": weights["W_dec"].shape[1]}
    for name, axes in SHAPES[kind].items():
        shape = tuple(size[axis] for axis in axes)
        if (given := tuple(weights[name].shape)) != shape:
            raise SAEError(f"{what}: {name} is {given}, but {shape} fits W_dec {tuple(weights['W_dec'].shape)}")
