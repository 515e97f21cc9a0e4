"""Prediction trajectories through the layers: prediction depth, features, and outlier scores.

1. Prediction depth: the first layer from which a lens's top token is the final one and stays it (Baldock et al. 2021;
   through the tuned lens, Belrose et al. 2023). A top token that comes, goes and comes back is late.
2. Features of a trajectory: at every layer KL divergence from the final prediction, entropy, and log-probability of the
   token that is on top in the end.
3. An outlier score, from trajectories of ordinary prompts alone: the local outlier factor (Breunig et al. 2000), which
   compares how dense a row's neighbourhood is with that of its neighbours, or the Mahalanobis distance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy

from mlx_interp.deferred import mx, nn
from mlx_interp.errors import DataError

Floats = npt.NDArray[np.float64]
FEATURES = ("KL from the final prediction", "entropy", "log-probability of the final token")
SHRINKAGE = 0.1
"""Share of the mean variance in a covariance, which has no inverse with few rows."""


def prediction_depth(tops: Sequence[int]) -> int:
    """The first index from which all of a prediction's top tokens, layer by layer, are the last one.

    0: from the first layer on; len(tops) - 1: in the last one only. Raises DataError for no layer.
    """
    if not tops:
        raise DataError("a prediction depth needs the top token of one layer or more")
    other = [index for index, top in enumerate(tops) if top != tops[-1]]
    return other[-1] + 1 if other else 0


def trajectory_features(logits: mx.array) -> Floats:
    """(n, 3 (n_layers - 1) + 2): features of n trajectories, logits (n_layers, n, d_vocab) of a lens, the model's last.

    In the order of FEATURES, each by layer; the last layer has no KL divergence from itself. In nats.
    """
    log_probs = nn.log_softmax(logits.astype(mx.float32), axis=-1)
    final = log_probs[-1:]
    kl = (mx.exp(final) * (final - log_probs[:-1])).sum(axis=-1)
    entropy = -(mx.exp(log_probs) * log_probs).sum(axis=-1)
    top = mx.broadcast_to(mx.argmax(final, axis=-1)[..., None], (*log_probs.shape[:-1], 1))
    chosen = mx.take_along_axis(log_probs, top, axis=-1)[..., 0]
    return np.asarray(mx.concatenate([kl, entropy, chosen])).astype(np.float64).T


@dataclass(frozen=True, eq=False)
class LocalOutlierFactor:
    """Local outlier factor: how much sparser a row's neighbourhood is than its neighbours' own, by ordinary rows."""

    rows: Floats
    """(n, d), scaled to mean 0 and standard deviation 1 of each column."""
    centre: Floats
    scale: Floats
    reach: Floats
    """(n,): distance of each row from its k-th neighbour."""
    density: Floats
    """(n,): local reachability density."""
    k: int

    def scores(self, rows: npt.ArrayLike) -> Floats:
        """(m,): about 1 for a row like the ordinary ones, more for an outlier. rows: (m, d), none of the fitted ones.

        Raises DataError for rows of another width.
        """
        given = np.asarray(rows, dtype=np.float64)
        if given.ndim != 2 or given.shape[1] != self.rows.shape[1]:
            raise DataError(f"an outlier score of rows (n, {self.rows.shape[1]}) was asked for {given.shape}")
        apart = scipy.spatial.distance.cdist((given - self.centre) / self.scale, self.rows)
        near = np.argsort(apart, axis=1, kind="stable")[:, : self.k]
        density = _density(np.take_along_axis(apart, near, axis=1), self.reach[near])
        return np.asarray(self.density[near].mean(axis=1) / density)


def local_outlier_factor(rows: npt.ArrayLike, k: int = 20) -> LocalOutlierFactor:
    """Fitted on rows (n, d) of ordinary cases; k: neighbours, n - 1 at most. Raises DataError below three rows."""
    given = np.asarray(rows, dtype=np.float64)
    if given.ndim != 2 or len(given) < 3 or k < 1:
        raise DataError(f"a local outlier factor needs three rows or more and k of 1 or more; got {given.shape}, k {k}")
    centre, scale = given.mean(axis=0), given.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    scaled = (given - centre) / scale
    k = min(k, len(given) - 1)
    apart = scipy.spatial.distance.cdist(scaled, scaled)
    np.fill_diagonal(apart, np.inf)  # a row is no neighbour of itself
    near = np.argsort(apart, axis=1, kind="stable")[:, :k]
    distances = np.take_along_axis(apart, near, axis=1)
    reach = distances[:, -1]
    return LocalOutlierFactor(scaled, centre, scale, reach, _density(distances, reach[near]), k)


def mahalanobis(ordinary: npt.ArrayLike, rows: npt.ArrayLike) -> Floats:
    """(m,): distance of rows (m, d) from the mean of ordinary rows (n, d), by their covariance, shrunk to its mean."""
    given, asked = np.asarray(ordinary, dtype=np.float64), np.asarray(rows, dtype=np.float64)
    if given.ndim != 2 or asked.ndim != 2 or len(given) < 3 or given.shape[1] != asked.shape[1]:
        raise DataError(f"a Mahalanobis distance needs rows of one width; got {given.shape} and {asked.shape}")
    scale = np.where(given.std(axis=0) > 0, given.std(axis=0), 1.0)
    scaled = (given - given.mean(axis=0)) / scale
    covariance = scaled.T @ scaled / len(scaled)
    covariance = (1 - SHRINKAGE) * covariance + SHRINKAGE * np.trace(covariance) / len(covariance) * np.eye(
        len(covariance)
    )
    excess = (asked - given.mean(axis=0)) / scale
    return np.asarray(np.sqrt(np.einsum("nd,nd->n", excess, np.linalg.solve(covariance, excess.T).T)))


def _density(distances: Floats, reach: Floats) -> Floats:
    """Inverse mean reachability (n,): distances (n, k) to neighbours, none below the neighbour's own reach."""
    return np.asarray(1 / np.maximum(np.maximum(distances, reach).mean(axis=1), 1e-12))
