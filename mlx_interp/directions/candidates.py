"""Selection of one direction among all layers and positions by what it does, as in Arditi et al. (2024).

1. Candidates: the differences of means of a `Contrast`, all that are more than rounding, whatever their p values.
2. Bypass: refusal log-odds of a harmful prompt with the candidate ablated; the lower, the better.
3. Induce: log-odds of a harmless prompt with the candidate added, once, at its layer, at every prompt position; must be
   above 0. KL: of the next token on harmless prompts with the candidate ablated, from the plain model's; bounded.
4. The lowest bypass among candidates that pass and lie at most 80 % deep. Every candidate's scores are kept; one whose
   scores are not finite fails, and none that passes is an empty list, never a fallback.

All candidates on all prompts are one sweep. Ablated means: from the embedding and of everything that is written to the
stream afterwards, which is the same as ablating the input of every block as well, with a third fewer edits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np

from mlx_interp.behaviour.detectors import log_odds
from mlx_interp.deferred import mx
from mlx_interp.directions.contrasts import Contrast
from mlx_interp.directions.direction import Direction
from mlx_interp.errors import DataError
from mlx_interp.interventions import Ablate, Add, Intervention
from mlx_interp.model import Model
from mlx_interp.prompts import AnyPrompt
from mlx_interp.shapes import ShapesShown

DEEPEST = 0.8
"""Share of the depth beyond which no candidate is chosen: too near the output to be a cause."""
KL_BOUND = 0.1
"""Nats."""


@dataclass(frozen=True, eq=False)
class Candidates:
    """The candidates of a contrast with the edits that try them, made once for all prompts."""

    contrast: Contrast
    openers: tuple[int, ...]
    """First tokens of this model's refusals."""
    layers: tuple[int, ...] | None = None
    """Of which layers; None for all."""

    def __post_init__(self) -> None:
        if not self.openers:
            raise DataError("no opener tokens: a model that refuses nothing has no refusals to score")

    @cached_property
    def cells(self) -> list[tuple[int, int]]:
        """(layer, position) of every candidate."""
        return [
            (int(layer), self.contrast.positions[at])
            for layer, at in np.argwhere(self.contrast.differs)
            if self.layers is None or int(layer) in self.layers
        ]

    @cached_property
    def vectors(self) -> list[mx.array]:
        at = {position: number for number, position in enumerate(self.contrast.positions)}
        return [mx.array(self.contrast.vectors[layer, at[position]]) for layer, position in self.cells]

    @cached_property
    def removed(self) -> list[list[Intervention]]:
        sites = ("resid_pre.0", "attn_out", "mlp_out")
        return [[Ablate(site, vector) for site in sites] for vector in self.vectors]

    @cached_property
    def added(self) -> list[list[Intervention]]:
        """Added once, with its own length, at all positions of a prompt."""
        return [
            [Add(f"{self.contrast.site}.{layer}", vector, 1.0, slice(None))]
            for (layer, _), vector in zip(self.cells, self.vectors, strict=True)
        ]

    @cached_property
    def metric(self) -> Callable[[mx.array], mx.array]:
        return log_odds(self.openers)


@dataclass(frozen=True, eq=False, repr=False)
class PromptScores(ShapesShown):
    """Scores of all candidates on one prompt; arrays are (n_candidates,)."""

    plain: float
    """Log-odds of the prompt left alone."""
    bypass: np.ndarray | None = None
    induce: np.ndarray | None = None
    kl: np.ndarray | None = None


def score_harmful(model: Model, candidates: Candidates, prompts: Sequence[AnyPrompt]) -> list[PromptScores]:
    """The bypass score of every candidate on each harmful prompt."""
    odds = np.asarray(model.sweep_prompts(prompts, [[], *candidates.removed], metric=candidates.metric))
    return [PromptScores(float(row[0]), bypass=row[1:]) for row in odds]


def score_harmless(model: Model, candidates: Candidates, prompts: Sequence[AnyPrompt]) -> list[PromptScores]:
    """The induce score and the KL of every candidate on each harmless prompt."""
    plain = model.sweep_prompts(prompts, [[]])[:, 0]
    metrics = [partial(_kl_and_odds, log_probs=row, odds=candidates.metric) for row in log_probs_of(plain)]
    scores = np.asarray(model.sweep_prompts(prompts, [*candidates.removed, *candidates.added], metric=metrics))
    n = len(candidates.removed)
    odds = np.asarray(candidates.metric(plain))
    return [
        PromptScores(float(of_plain), kl=row[:n, 0], induce=row[n:, 1])
        for of_plain, row in zip(odds, scores, strict=True)
    ]


def _kl_and_odds(logits: mx.array, log_probs: mx.array, odds: Callable[[mx.array], mx.array]) -> mx.array:
    """Logits (batch, d_vocab) -> (batch, 2): KL of the plain model's log-probabilities from theirs, and log-odds."""
    return mx.stack([divergence(log_probs, logits), odds(logits)], axis=-1)


def divergence(log_probs: mx.array, logits: mx.array) -> mx.array:
    """KL divergence, in nats: log-probabilities (..., d_vocab) from what logits (..., d_vocab) say -> (...)."""
    return mx.sum(mx.exp(log_probs) * (log_probs - log_probs_of(logits)), axis=-1)


def log_probs_of(logits: mx.array) -> mx.array:
    """Log-probabilities of logits (..., d_vocab), float32."""
    wide = logits.astype(mx.float32)
    return wide - mx.logsumexp(wide, axis=-1, keepdims=True)


@dataclass(frozen=True, eq=False, repr=False)
class Selection(ShapesShown):
    """Every candidate's mean scores; arrays are (n_candidates,)."""

    candidates: Candidates
    bypass: np.ndarray
    induce: np.ndarray
    kl: np.ndarray

    @property
    def ranked(self) -> list[tuple[int, int]]:
        """(layer, position) of the candidates that pass, the best first."""
        return self.within(KL_BOUND)

    def within(self, kl_bound: float) -> list[tuple[int, int]]:
        """The same under another bound, in nats, on what ablation does to harmless prompts."""
        scores = zip(self.candidates.cells, self.bypass, self.induce, self.kl, strict=True)
        n_layers = self.candidates.contrast.model.n_layers
        return rank({cell: tuple(map(float, rest)) for cell, *rest in scores}, n_layers, kl_bound=kl_bound)  # type: ignore[misc]

    @property
    def best(self) -> Direction | None:
        """The selected direction; None where no candidate passes."""
        cells = self.ranked
        return self.candidates.contrast.direction(*cells[0]) if cells else None


def rank(
    scores: dict[tuple[int, int], tuple[float, float, float]],
    n_layers: int,
    *,
    kl_bound: float = KL_BOUND,
    deepest: float = DEEPEST,
) -> list[tuple[int, int]]:
    """Cells that pass by (bypass, induce, KL), the lowest bypass first; scores that are not finite fail."""
    passed = [
        cell
        for cell, (bypass, induce, kl) in scores.items()
        if np.isfinite([bypass, induce, kl]).all() and induce > 0 and kl < kl_bound and cell[0] <= deepest * n_layers
    ]
    return sorted(passed, key=lambda cell: (scores[cell][0], cell))


def select(
    model: Model,
    contrast: Contrast,
    harmful: Sequence[AnyPrompt],
    harmless: Sequence[AnyPrompt],
    openers: Sequence[int],
) -> Selection:
    """All candidates scored on prompts that had no part in finding them; see the module's text.

    Raises DataError for an empty set of prompts or no opener tokens.
    """
    if not len(harmful) or not len(harmless):
        raise DataError(f"candidates are scored on both kinds of prompts, found {len(harmful)} and {len(harmless)}")
    candidates = Candidates(contrast, tuple(openers))
    if not candidates.cells:
        empty = np.zeros(0)
        return Selection(candidates, empty, empty, empty)
    refused, answered = score_harmful(model, candidates, harmful), score_harmless(model, candidates, harmless)
    return Selection(
        candidates,
        bypass=_mean([one.bypass for one in refused]),
        induce=_mean([one.induce for one in answered]),
        kl=_mean([one.kl for one in answered]),
    )


def _mean(rows: Sequence[np.ndarray | None]) -> np.ndarray:
    return np.asarray(np.mean([row for row in rows if row is not None], axis=0))
