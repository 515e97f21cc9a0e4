"""Affine maps from states of one place to states of another, by least squares: the linear reader of Din et al. 2023.

1. Paired states: the same tokens of the same prompts, at two layers of a model, or in two models that cut text alike.
2. Ridge regression of the centred targets on the centred sources; the penalty is a share of the sources' mean variance.
3. Between a layer and the last it is a lens (`affine_lens`), between two models the map of a Patchscope across models.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mlx_interp.deferred import mx
from mlx_interp.errors import DataError
from mlx_interp.lenses.tuned import TunedLens, identity_of
from mlx_interp.model import Model
from mlx_interp.shapes import ShapesShown


@dataclass(frozen=True, eq=False, repr=False)
class AffineMap(ShapesShown):
    """states -> states @ weight + bias."""

    weight: mx.array
    """(d_source, d_target), float32."""
    bias: mx.array
    """(d_target,), float32."""

    def __call__(self, states: mx.array) -> mx.array:
        """(..., d_source) -> (..., d_target), float32."""
        return states.astype(mx.float32) @ self.weight + self.bias


def affine_map(source: mx.array, target: mx.array, *, ridge: float = 1e-3) -> AffineMap:
    """The map from source (n, d_source) to target (n, d_target) with the least squared error, in float64.

    ridge: penalty on squared weights, as a share of the mean variance of the sources; 0 is plain least squares.
    Raises DataError for fewer than two pairs, unequal numbers of both, or a negative ridge.
    """
    if len(source) != len(target) or len(source) < 2 or ridge < 0:
        raise DataError(
            f"an affine map needs two pairs of states or more and a ridge of 0 or more; got {len(source)} and "
            f"{len(target)} states, ridge {ridge}"
        )
    x, y = (np.asarray(states.astype(mx.float32)).astype(np.float64) for states in (source, target))
    x_mean, y_mean = x.mean(axis=0), y.mean(axis=0)
    centred = x - x_mean
    penalty = np.sqrt(ridge * (centred**2).sum() / centred.shape[1])
    # The penalty as further rows: no squared condition number, and ridge 0 is the solution of least norm.
    rows = np.concatenate([centred, penalty * np.eye(x.shape[1])])
    wanted = np.concatenate([y - y_mean, np.zeros((x.shape[1], y.shape[1]))])
    weight = np.linalg.lstsq(rows, wanted, rcond=None)[0]
    return AffineMap(mx.array(weight.astype(np.float32)), mx.array((y_mean - x_mean @ weight).astype(np.float32)))


def affine_lens(model: Model, states: mx.array, *, ridge: float = 1e-3) -> TunedLens:
    """A lens whose translators predict the last layer's state, not the model's distribution, from every layer below.

    states: (n_layers, n, d_model) as `positions_of` gives them, with the embedding in front if that is to have one.
    """
    maps = [affine_map(layer, states[-1], ridge=ridge) for layer in states[:-1]]
    eye = mx.eye(states.shape[-1])
    return TunedLens(
        mx.stack([one.weight - eye for one in maps]), mx.stack([one.bias for one in maps]), identity_of(model)
    )
