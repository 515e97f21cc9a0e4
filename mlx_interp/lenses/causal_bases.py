"""Causal basis extraction: which directions a lens reads, and whether the model reads the same (Belrose et al. 2023).

1. Ablating a direction sets a state's component along it to its mean over a corpus. The direction's influence on a lens
   is the mean KL divergence of the lens's prediction before from after.
2. Directions are found one after the other: each the most influential that is orthogonal to those before, by L-BFGS
   from that principal component which, without its part along those before, has the most influence itself. (At a
   component without any influence the slope is zero, and the search would stay there.)
3. Influence on the model is measured by really doing it: the state is ablated in the forward pass (`sweep`), at its
   position alone, and the model's own prediction there compared. A faithful lens ranks directions as the model does.
4. Alignment: a stimulus (how an ablation moves the lens's log-probabilities) and a response (how it moves the model's)
   have a cosine in Aitchison's geometry, in which a shift of all log-probabilities is no difference; tokens can be
   weighted, by the model's own prediction as a rule, so that a vocabulary of never predicted tokens does not decide.

Components go to their mean (not to another text's), one position at a time. Where the states vary much more along one
direction than along another, the most influential one lies between them: ablating it writes the large component into
the other. That is a property of orthogonal ablation, not of the search.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import scipy

from mlx_interp.deferred import mx
from mlx_interp.errors import DataError
from mlx_interp.interventions import Ablate, Add, Intervention
from mlx_interp.lenses.tuned import TunedLens
from mlx_interp.model import Model
from mlx_interp.shapes import ShapesShown

STARTS = 16
"""Principal components that a search may start from, or as many as directions are asked for."""

Reading: TypeAlias = "Callable[[mx.array], mx.array]"
"""States (..., d_model) -> logits (..., d_vocab)."""


@dataclass(frozen=True, eq=False, repr=False)
class CausalBasis(ShapesShown):
    """Orthonormal directions, the most influential first as far as the search found them."""

    directions: mx.array
    """(k, d_model), float32."""
    influence: tuple[float, ...]
    """On the reading that they were found by, on the states they were found on, in nats."""
    mean: mx.array
    """(d_model,): what ablation sets a component to."""


def lens_reading(model: Model, lens: TunedLens, row: int) -> Reading:
    """Lens logits at one of its rows (the embedding's included where it has one)."""
    return lambda states: model.unembed(lens.moved(row, states))


def ablated(states: mx.array, directions: mx.array, mean: mx.array) -> mx.array:
    """(k, n, d_model): states (n, d_model) with the component along each unit direction (k, d_model) at its mean."""
    excess = (states - mean) @ directions.T  # (n, k)
    return states[None] - excess.T[:, :, None] * directions[:, None, :]


def influence(reading: Reading, states: mx.array, directions: mx.array, mean: mx.array) -> mx.array:
    """(k, n) KL divergence, in nats, of a reading of states from that of the states without each direction."""
    before = reading(states).astype(mx.float32)
    rows = [_kl(before, reading(one)) for one in ablated(states, directions, mean)]
    return mx.stack(rows)


def causal_basis(reading: Reading, states: mx.array, n_directions: int, *, steps: int = 30) -> CausalBasis:
    """The most influential directions of a reading, found one after the other.

    states: (n, d_model) of a corpus. steps: at most so many of L-BFGS for each direction.
    Raises DataError for fewer than two states, or more directions than dimensions.
    """
    if states.ndim != 2 or len(states) < 2 or not 1 <= n_directions <= states.shape[1]:
        raise DataError(
            f"a causal basis needs states (n, d_model), two or more, and 1 to d_model directions; got {states.shape} "
            f"and {n_directions}"
        )
    states = states.astype(mx.float32)
    mean = states.mean(axis=0)
    before = reading(states).astype(mx.float32)
    found: list[mx.array] = []
    values = []
    principal = _principal(states - mean, n_directions, STARTS)
    for _ in range(n_directions):
        others = mx.stack(found) if found else None
        starts = mx.stack([_unit(one, others) for one in principal])
        start = starts[int(mx.argmax(influence(reading, states, starts, mean).mean(axis=1)))]

        def loss(u: mx.array, others: mx.array | None = others) -> mx.array:
            moved = ablated(states, _unit(u, others)[None], mean)[0]
            return -_kl(before, reading(moved)).mean()

        vector, value = _descend(loss, start, others, steps)
        found.append(_unit(vector, others))
        values.append(-value)
        mx.eval(found[-1])
    return CausalBasis(mx.stack(found), tuple(values), mean)


def principal_directions(states: mx.array, n_directions: int) -> mx.array:
    """(k, d_model): the leading principal components of states (n, d_model), orthonormal."""
    states = states.astype(mx.float32)
    return mx.stack(_principal(states - states.mean(axis=0), n_directions, n_directions))


def random_directions(d_model: int, n_directions: int, seed: int) -> mx.array:
    """(k, d_model) orthonormal directions drawn at random: the control."""
    drawn = np.random.default_rng(seed).normal(size=(d_model, n_directions))
    return mx.array(np.linalg.qr(drawn)[0].T.astype(np.float32))


def ablations(site: str, position: int, directions: mx.array, mean: mx.array) -> list[list[Intervention]]:
    """One variant of a sweep for each direction: its component at one site and position goes to its mean."""
    return [
        [Ablate(site, direction, position), Add(site, direction, float(direction @ mean), position)]
        for direction in directions
    ]


def aitchison_cosine(first: mx.array, second: mx.array, weights: mx.array | None = None) -> mx.array:
    """Cosine (...) of two changes of log-probabilities (..., d_vocab) in Aitchison's geometry, -1 to 1.

    Each is centred (a constant added to all log-probabilities changes no distribution), then compared. weights:
    (..., d_vocab), not negative; all tokens alike if left out. 0 where a change is none.
    """
    first, second = first.astype(mx.float32), second.astype(mx.float32)
    share = mx.ones_like(first) if weights is None else weights.astype(mx.float32)
    share = share / share.sum(axis=-1, keepdims=True)
    x, y = (change - (share * change).sum(axis=-1, keepdims=True) for change in (first, second))
    inner, x_square, y_square = ((share * a * b).sum(axis=-1) for a, b in ((x, y), (x, x), (y, y)))
    size = mx.sqrt(x_square * y_square)
    cosine: mx.array = mx.where(size > 0, inner / mx.maximum(size, 1e-30), 0.0)
    return cosine


def _kl(before: mx.array, logits: mx.array) -> mx.array:
    """KL divergence of logits from logits before, with one exponential each: searches call it thousands of times."""
    after = logits.astype(mx.float32)
    change = (mx.softmax(before, axis=-1) * (after - before)).sum(axis=-1)
    return mx.logsumexp(after, axis=-1) - mx.logsumexp(before, axis=-1) - change


def _unit(vector: mx.array, others: mx.array | None) -> mx.array:
    """A vector's part orthogonal to unit directions, of length 1."""
    if others is not None:
        for _ in range(2):  # twice: the first leaves rounding behind where little is left of the vector
            vector = vector - (others @ vector) @ others
    return vector / mx.maximum(mx.linalg.norm(vector), 1e-12)


def _principal(centred: mx.array, n: int, most: int) -> list[mx.array]:
    """The leading components, n of them or, where there are as many, up to `most`."""
    rows = np.linalg.svd(np.asarray(centred), full_matrices=False)[2][: max(n, most)]
    if len(rows) < n:
        raise DataError(f"{len(centred)} states span {len(rows)} directions; {n} are asked for: give more states")
    return [mx.array(row) for row in rows]


def _descend(
    loss: Callable[[mx.array], mx.array], start: mx.array, others: mx.array | None, steps: int
) -> tuple[mx.array, float]:
    """Minimise a loss of a direction by L-BFGS, from a principal component's part that is new."""
    slope_of = mx.value_and_grad(loss)

    def both(values: np.ndarray) -> tuple[float, np.ndarray]:
        value, slope = slope_of(mx.array(values.astype(np.float32)))
        return float(value), np.asarray(slope).astype(np.float64)

    first = np.asarray(_unit(start, others)).astype(np.float64)
    result = scipy.optimize.minimize(both, first, jac=True, method="L-BFGS-B", options={"maxiter": steps})
    return mx.array(result.x.astype(np.float32)), float(result.fun)
