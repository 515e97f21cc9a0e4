"""Linear probe of several classes: which name a state stands for, by multinomial logistic regression.

1. States are scaled to mean 0 and an average variance of 1 by those that the probe is fitted on.
2. Weights minimise the mean loss in nats plus a squared penalty (L-BFGS).
3. What it is worth is known from states it was not fitted on: other prompts, or other entities of the same class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy

from mlx_interp.errors import DataError
from mlx_interp.shapes import ShapesShown

PENALTY = 1e-3
"""Of the squared weights, beside the mean loss in nats."""


@dataclass(frozen=True, eq=False, repr=False)
class StateClassifier(ShapesShown):
    """A fitted probe."""

    classes: tuple[str, ...]
    weights: np.ndarray
    """(d_model, n_classes)."""
    bias: np.ndarray
    """(n_classes,)."""
    centre: np.ndarray
    scale: float

    def told(self, states: np.ndarray) -> list[str]:
        """The likeliest class of each state (n, d_model)."""
        scores = (np.asarray(states, dtype=np.float64) - self.centre) / self.scale @ self.weights + self.bias
        return [self.classes[index] for index in scores.argmax(axis=1)]


def fit_state_classifier(states: np.ndarray, labels: Sequence[str], *, penalty: float = PENALTY) -> StateClassifier:
    """A probe of states (n, d_model). Raises DataError for fewer than two classes, or labels that do not pair."""
    given = np.asarray(states, dtype=np.float64)
    classes = tuple(dict.fromkeys(labels))
    if given.ndim != 2 or len(given) != len(labels) or len(classes) < 2:
        raise DataError(
            f"a probe needs states (n, d_model) with a label each, of two classes or more; got {given.shape}, "
            f"{len(labels)} labels, {len(classes)} classes"
        )
    centre = given.mean(axis=0)
    scale = max(float((given - centre).std()), 1e-30)
    x = (given - centre) / scale
    right = np.eye(len(classes))[[classes.index(label) for label in labels]]

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        values = flat.reshape(x.shape[1] + 1, len(classes))
        log_probs = scipy.special.log_softmax(x @ values[:-1] + values[-1], axis=1)
        slope = (np.exp(log_probs) - right) / len(x)
        down = np.concatenate([x.T @ slope + 2 * penalty * values[:-1], slope.sum(axis=0, keepdims=True)])
        return float(-(log_probs * right).sum() / len(x) + penalty * (values[:-1] ** 2).sum()), down.ravel()

    start = np.zeros((x.shape[1] + 1) * len(classes))
    found = scipy.optimize.minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 200})
    values = found.x.reshape(x.shape[1] + 1, len(classes))
    return StateClassifier(classes, values[:-1], values[-1], centre, scale)
