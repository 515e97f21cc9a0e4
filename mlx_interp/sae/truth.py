"""Feature scores against known labels: of single features, and of a few together, on held-out tokens.

1. One feature: it says "yes" above a threshold. Feature and threshold are those of the best F1 on the training half;
   precision, recall and F1 are counted on the other half. More columns have more chances: compare equal numbers.
2. k features (k-sparse probing, Gurnee et al. 2023, 2305.01610): the k columns whose means differ most, by their
   spread, and a logistic regression on them; AUROC on the other half.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy

from mlx_interp.sae.sae import SAE

Values = npt.NDArray[np.floating]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Detector:
    """One column that stands for a concept, and how well it does on held-out tokens."""

    column: int
    threshold: float
    precision: float
    recall: float
    f1: float
    n_positive: int
    """Held-out tokens that show the concept."""


def best_detectors(train: Values, is_train: Flags, test: Values, is_test: Flags) -> list[Detector]:
    """The best single column of each concept.

    train, test: (n, n_columns), larger meaning yes; give x and -x for columns that may mean it by either sign.
    is_train, is_test: (n, n_concepts). Raises ValueError for a concept that the training half never shows.
    """
    if not is_train.any(0).all():
        raise ValueError(f"concepts {np.flatnonzero(~is_train.any(0)).tolist()} are never shown in the training half")
    order = np.argsort(-train, axis=0, kind="stable")
    ordered = np.take_along_axis(train, order, axis=0)
    # A threshold lies between two different values; the last one would say yes to everything.
    cut = np.zeros(train.shape, dtype=bool)
    cut[:-1] = ordered[:-1] > ordered[1:]
    said = np.arange(1, len(train) + 1)[:, None]
    found = []
    for concept in range(is_train.shape[1]):
        right = np.cumsum(is_train[:, concept][order], axis=0)
        f1 = np.where(cut, 2 * right / (said + is_train[:, concept].sum()), -1.0)
        row, column = divmod(int(f1.argmax()), f1.shape[1])
        threshold = float((ordered[row, column] + ordered[min(row + 1, len(train) - 1), column]) / 2)
        found.append(_scored(column, threshold, test[:, column], is_test[:, concept]))
    return found


def _scored(column: int, threshold: float, values: Values, truth: Flags) -> Detector:
    yes = values > threshold
    hits = int((yes & truth).sum())
    precision, recall = hits / max(int(yes.sum()), 1), hits / max(int(truth.sum()), 1)
    f1 = 2 * hits / max(int(yes.sum()) + int(truth.sum()), 1)
    return Detector(column, threshold, precision, recall, f1, int(truth.sum()))


def sparse_probe(train: Values, is_train: Flags, test: Values, is_test: Flags, k: int | None) -> float:
    """AUROC of a logistic regression on the k columns whose means differ most (None: all) on held-out tokens.

    is_train, is_test: (n,). 0.5 is chance; nan where the test half shows only one class.
    """
    spread = train.std(0) + 1e-8
    apart = np.abs(train[is_train].mean(0) - train[~is_train].mean(0)) / spread
    chosen = np.argsort(-apart, kind="stable")[:k]
    mean = train[:, chosen].mean(0)
    fit, _ = logistic((train[:, chosen] - mean) / spread[chosen], is_train)
    return _area(((test[:, chosen] - mean) / spread[chosen]) @ fit, is_test)


def logistic(x: Values, truth: Flags, penalty: float = 1e-2) -> tuple[Values, float]:
    """Weights and intercept of a ridge-penalised logistic regression; classes count alike."""
    sign = np.where(truth, 1.0, -1.0)
    weight = np.where(truth, 0.5 / max(truth.sum(), 1), 0.5 / max((~truth).sum(), 1))
    columns = np.concatenate([x, np.ones((len(x), 1))], axis=1)

    def objective(w: Values) -> tuple[float, Values]:
        margin = sign * (columns @ w)
        loss = float(np.sum(weight * np.logaddexp(0, -margin)) + penalty / 2 * np.sum(w[:-1] ** 2))
        slope = columns.T @ (-weight * sign / (1 + np.exp(np.clip(margin, -50, 50))))
        slope[:-1] += penalty * w[:-1]
        return loss, slope

    found: Values = scipy.optimize.minimize(objective, np.zeros(columns.shape[1]), jac=True, method="L-BFGS-B").x
    return found[:-1], float(found[-1])


def _area(scores: Values, truth: Flags) -> float:
    """Chance that a token that shows the concept scores above one that does not; ties count half. By ranks: there are
    thousands of these, and `stats.auroc` with its interval is for the few that are reported by themselves."""
    n_yes, n_no = int(truth.sum()), int((~truth).sum())
    if not n_yes or not n_no:
        return float("nan")
    ranks = scipy.stats.rankdata(scores)
    return float((ranks[truth].sum() - n_yes * (n_yes + 1) / 2) / (n_yes * n_no))


def stability(one: SAE, other: SAE, alive: Sequence[Flags], bound: float = 0.7) -> tuple[float, float]:
    """(share of the first's living features with a partner of cosine above the bound in the other, mean best cosine).

    alive: which features of each fire at all, (d_sae,) each. nan where none does.
    """
    first, second = (
        np.asarray(sae.directions, dtype=np.float64)[np.asarray(living)]
        for sae, living in zip((one, other), alive, strict=True)
    )
    if not len(first) or not len(second):
        return float("nan"), float("nan")
    first, second = (rows / np.linalg.norm(rows, axis=-1, keepdims=True) for rows in (first, second))
    best = (first @ second.T).max(-1)
    return float(np.mean(best > bound)), float(best.mean())
