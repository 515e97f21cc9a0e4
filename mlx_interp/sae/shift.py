"""SHIFT: a spurious cue removed from a classifier by removing the latents that stand for it (Marks et al. 2025).

1. A classifier of activations is trained where two concepts coincide: the one that is meant, and a spurious one.
2. The latents that it uses most are those whose contribution to its logit, activation times decoder times weight, is
   largest over its training data.
3. Someone looks at what each of them is active on and says whether that has to do with the concept that is meant.
   `reading` is the rule by which a reader decides: which of the two concepts its strongest examples have in common.
4. The latents judged spurious are removed from the activations, the rest of these stays as it is, the error included;
   the classifier is used as it is, or retrained on what is left. It never sees data in which the concepts come apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mlx_interp.errors import SAEError
from mlx_interp.sae.sae import SAE
from mlx_interp.sae.truth import Flags, Values, logistic

EXAMPLES = 20
"""Examples of a latent that a reader looks at."""


@dataclass(frozen=True)
class Classifier:
    """A linear classifier of activations: yes where x . weights + bias is above 0."""

    weights: Values
    """(width,)."""
    bias: float

    def __call__(self, x: Values) -> Flags:
        """(n, width) -> (n,) of bool."""
        said: Flags = x @ self.weights + self.bias > 0
        return said


def classifier(x: Values, truth: Flags) -> Classifier:
    """Fitted to activations (n, width) and what is true of each (n,). Raises SAEError for one class alone."""
    if truth.all() or not truth.any():
        raise SAEError(f"a classifier needs both classes, all {len(truth)} examples are of one")
    mean, spread = x.mean(0), float(x.std()) or 1.0
    weights, bias = logistic((x - mean) / spread, truth)
    return Classifier(weights / spread, bias - float(mean @ weights) / spread)


def contributions(sae: SAE, x: Values, told: Classifier) -> npt.NDArray[np.float64]:
    """How much each latent moves the classifier's logit over activations (n, width), mean, in size: (d_sae,)."""
    along = np.asarray(sae.directions, dtype=np.float64) @ told.weights
    return np.asarray(np.abs(np.asarray(sae.encode(x), dtype=np.float64).mean(0) * along))


def without(sae: SAE, x: Values, latents: Sequence[int]) -> Values:
    """Activations (n, width) with some latents at 0 and all else, the error included, as it was."""
    chosen = list(latents)
    if not chosen:
        return x
    f = np.asarray(sae.encode(x), dtype=np.float64)[:, chosen]
    less: Values = x - f @ np.asarray(sae.directions, dtype=np.float64)[chosen]
    return less


@dataclass(frozen=True)
class Reading:
    """What a latent's strongest examples have in common, as shares of the commoner value: .5 is none, 1 is all."""

    latent: int
    meant: float
    spurious: float
    examples: int

    @property
    def is_spurious(self) -> bool:
        """Its examples share the spurious concept more than the one that is meant."""
        return self.spurious > self.meant


def reading(values: Values, meant: Flags, spurious: Flags, latents: Sequence[int], n: int = EXAMPLES) -> list[Reading]:
    """What a reader sees of some latents. values: (n_examples, d_sae) on examples that show every combination of both.

    Latents that are active on none are judged not spurious: there is nothing to judge them by.
    """
    found = []
    for latent in latents:
        order = np.argsort(-values[:, latent], kind="stable")[:n]
        active = order[values[order, latent] > 0]
        shares = [max(float(f[active].mean()), 1 - float(f[active].mean())) if len(active) else 0.5
                  for f in (meant, spurious)]  # fmt: skip
        found.append(Reading(int(latent), shares[0], shares[1], len(active)))
    return found
