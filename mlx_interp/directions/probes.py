"""Probes: directions by PCA of paired differences, logistic regression, and mass-mean.

1. Both classes are run in batches; one residual site is kept: at one token, or as a mean over a response.
2. PCA: first principal component of the differences of pairs, not centred (Zou et al. 2023, whose pairs differ in one
   statement). Logistic regression: L2-penalised weights on rows scaled by their mean norm. Mass-mean: the difference
   of means times the inverse covariance within classes, shrunk towards its mean variance (Marks and Tegmark 2023).
3. Each direction points to the positive class and is as long as the classes' means are apart along it: a strength of 1
   moves from one mean to the other, as with a difference of means.
4. A site and position whose means differ by no more than rounding carries nothing, whichever method reads it, and is
   refused; the p value says whether they differ by more than chance (directions.direction_test). The same rows give a
   threshold, half-way between the means, for use on other prompts.

Unlike directions.contrasts, which sums as it goes, these keep one row a prompt: n_prompts x d_model numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import scipy

from mlx_interp import sites
from mlx_interp.directions.direction import Direction, direction_bytes, read_direction, write_direction
from mlx_interp.directions.states import compared, states_of
from mlx_interp.errors import ConfigError, DataError, DirectionError, nearest
from mlx_interp.model import Model
from mlx_interp.prompts import AnyPrompt

Method: TypeAlias = Literal["difference", "pca", "logistic", "mass_mean"]
PENALTY = 1e-2
"""Of the squared weights of the logistic regression, beside the mean loss in nats; rows are scaled to norm 1."""
SHRINKAGE = 0.1
"""Share of the mean variance in the covariance, which has no inverse with fewer prompts than dimensions."""
LEAST = 4
THRESHOLD = "threshold"
"""Metadata of a file that makes its direction a probe."""


@dataclass(frozen=True, eq=False)
class Probe:
    """A direction, and the projection half-way between the two classes it was made from."""

    direction: Direction
    threshold: float

    def scores(self, states: np.ndarray) -> np.ndarray:
        """Signed distance (n,) of states (n, d_model) from the threshold; positive on the positive class's side."""
        return np.asarray(states @ np.asarray(self.direction.unit, np.float64) - self.threshold)

    def accuracy(self, positive: np.ndarray, negative: np.ndarray) -> float:
        """Balanced accuracy on states (n, d_model) of either class, 0.5 for a guess; for prompts not used before."""
        return float((self.scores(positive) > 0).mean() + (self.scores(negative) <= 0).mean()) / 2


def save_probe(probe: Probe, path: Path | str) -> None:
    """Writes a probe as safetensors: the file of its direction, which `load_direction` reads, with the threshold."""
    write_direction(direction_bytes(probe.direction, {THRESHOLD: repr(float(probe.threshold))}), path)


def load_probe(path: Path | str, model: Model | None = None) -> Probe:
    """Reads a probe; for `model`, if given, it must be one of that model's own.

    Raises DirectionError for a file that is none, is damaged, or does not fit the model, and for a direction's file,
    which has no threshold.
    """
    direction, metadata = read_direction(path, model)
    try:
        return Probe(direction, float(metadata[THRESHOLD]))
    except KeyError as error:
        raise DirectionError(
            f"{path}: a direction without a threshold, so no probe: read it with load_direction, or fit a probe"
        ) from error
    except ValueError as error:
        raise DirectionError(f"{path}: threshold {metadata[THRESHOLD]!r} is no number") from error


def probe(
    model: Model,
    positive: Sequence[AnyPrompt],
    negative: Sequence[AnyPrompt],
    site: str,
    *,
    method: Method,
    position: int = -1,
    responses_from: tuple[Sequence[int], Sequence[int]] | None = None,
    template: str = "chat",
    seed: int = 0,
) -> Probe:
    """Probe of one site: a direction by one of the methods above.

    responses_from: for both classes, as in `states_of`. For "pca" the prompts are pairs, in the same order.
    Raises DirectionError where the classes' means are no further apart than rounding brings, DataError for
    fewer than four prompts of a class or unequal numbers of pairs, ConfigError for another method.
    """
    if method not in METHODS:
        raise ConfigError(f"no method {method!r}: {nearest(method, METHODS)}there are {', '.join(METHODS)}")
    if min(len(positive), len(negative)) < LEAST:
        raise DataError(f"{LEAST} prompts of each class or more are needed, found {len(positive)} and {len(negative)}")
    begins = responses_from or (None, None)
    above, below = (
        states_of(model, prompts, site, position=position, responses_from=begin)
        for prompts, begin in zip((positive, negative), begins, strict=True)
    )
    where = str(sites.parse_one(site, model.n_layers))
    floor, p_value = compared(model, above, below, where, seed=seed)
    vector = _towards(METHODS[method](above, below), above, below)
    direction = Direction.of(
        model,
        vector,
        where,
        position=position,
        method=f"{method} of {len(above)} and {len(below)} {'responses' if responses_from else 'prompts'}",
        template=template,
        floor=floor,
        p_value=p_value,
    )
    middle = (above.mean(axis=0) + below.mean(axis=0)) / 2
    return Probe(direction, float(middle @ vector / np.linalg.norm(vector)))


def _difference(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.asarray(above.mean(axis=0) - below.mean(axis=0))


def _pca(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    if len(above) != len(below):
        raise DataError(f"pca needs pairs: {len(above)} positive and {len(below)} negative prompts are none")
    return np.asarray(np.linalg.svd(above - below, full_matrices=False)[2][0])


def _logistic(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    rows = np.concatenate([above, below])
    centre = rows.mean(axis=0)
    # Centred and scaled, so that one penalty serves streams of any norm; the intercept is not penalised.
    rows = (rows - centre) / max(float(np.linalg.norm(rows - centre, axis=1).mean()), 1e-30)
    rows = np.concatenate([rows, np.ones((len(rows), 1))], axis=1)
    signs = np.concatenate([np.ones(len(above)), -np.ones(len(below))])
    weights = np.where(signs > 0, 1 / len(above), 1 / len(below)) / 2  # classes count alike
    penalised = np.append(np.full(rows.shape[1] - 1, PENALTY), 0.0)

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        margins = signs * (rows @ w)
        slope = -(weights * signs * scipy.special.expit(-margins)) @ rows
        return float(weights @ np.logaddexp(0, -margins) + penalised @ w**2 / 2), slope + penalised * w

    return np.asarray(scipy.optimize.minimize(loss, np.zeros(rows.shape[1]), jac=True, method="L-BFGS-B").x[:-1])


def _mass_mean(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    within = np.concatenate([above - above.mean(axis=0), below - below.mean(axis=0)])
    covariance = within.T @ within / len(within)
    average = np.trace(covariance) / len(covariance)
    shrunk = (1 - SHRINKAGE) * covariance + SHRINKAGE * average * np.eye(len(covariance))
    return np.asarray(np.linalg.solve(shrunk, _difference(above, below)))


METHODS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "difference": _difference,
    "pca": _pca,
    "logistic": _logistic,
    "mass_mean": _mass_mean,
}


def _towards(vector: np.ndarray, above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Along a vector, as long as the means are apart there, towards the positive class."""
    unit = vector / np.linalg.norm(vector)
    return np.asarray((unit @ _difference(above, below)) * unit)
