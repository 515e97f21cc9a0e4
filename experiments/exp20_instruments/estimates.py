"""RelP and its rivals against exhaustive patching: each head's and each MLP's effect on single-hop questions.

Every node is really replaced by what it is on the other question; the estimates are made of one backward pass (RelP,
attribution), of five (integrated along the embeddings), or of five for every site (along each activation's own way).
Recall: of the ten nodes with the largest real effects, how many are among the ten of the largest estimates. Control:
the estimates of the next pair, which share all that does not depend on the question.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict, get_args

import numpy as np
import scipy

from experiments.exp20_instruments.hop_pairs import PairConfig, hop_pairs
from experiments.harness.experiment import Records
from experiments.harness.frame import of
from experiments.harness.state import Run
from mlx_interp.circuits import Pair, node_effects, node_scores, nodes, relevance_scores, wiring
from mlx_interp.engine.relevance import RULES
from mlx_interp.model import Model
from mlx_interp.reporting import Cell, Column, Table, finite

STAGE = "estimates"
Estimator = Literal["RelP", "RelP-attention", "attribution", "ig-inputs", "ig-activations"]
ESTIMATORS: tuple[Estimator, ...] = get_args(Estimator)
KINDS = {"heads": "head", "MLPs": "mlp"}
LARGEST = 10
Floats = np.ndarray[Any, np.dtype[np.floating[Any]]]


@dataclass(frozen=True)
class EstimateConfig(PairConfig):
    """Fields of the estimates."""

    estimators: tuple[Estimator, ...] = ESTIMATORS
    """How effects are estimated; ig-activations takes a gradient for each site and step."""
    steps: int = 5
    """Gradients of the integrated ones."""


class Estimated(TypedDict):
    """Estimates against real effects of one kind of node on one pair."""

    estimator: str
    kind: str
    nodes: int
    pearson: float | None
    spearman: float | None
    recall: float
    other: float | None
    """Pearson correlation of the next pair's estimates with this pair's effects."""


def measure(run: Run[EstimateConfig], pair: Pair) -> Iterator[Estimated]:
    """Every node patched, and every estimate beside it."""
    model, pairs = run.model, hop_pairs(run)
    known = nodes(wiring(model.network))
    exact = node_effects(model, [pair], [(number, None) for number in range(len(known))])[0]
    following = pairs[(pairs.index(pair) + 1) % len(pairs)]
    for estimator in run.config.estimators:
        own, other = (_estimate(model, one, estimator, run.config.steps) for one in (pair, following))
        for kind, name in KINDS.items():
            chosen = np.array([node.kind == name for node in known])
            yield _agreement(estimator, kind, own[chosen], exact[chosen], other[chosen])


def _estimate(model: Model, pair: Pair, estimator: Estimator, steps: int) -> Floats:
    if estimator == "RelP":
        return np.asarray(relevance_scores(model, [pair])[0])
    if estimator == "RelP-attention":
        return np.asarray(relevance_scores(model, [pair], rules=RULES)[0])
    return np.asarray(node_scores(model, [pair], method=estimator, steps=steps)[0])


def _agreement(estimator: str, kind: str, own: Floats, exact: Floats, other: Floats) -> Estimated:
    large = min(LARGEST, len(exact) // 2)
    truly, said = (set(np.argsort(-np.abs(x), kind="stable")[:large].tolist()) for x in (exact, own))
    return {
        "estimator": estimator,
        "kind": kind,
        "nodes": len(exact),
        "pearson": finite(scipy.stats.pearsonr(own, exact).statistic),
        "spearman": finite(scipy.stats.spearmanr(own, exact).statistic),
        "recall": len(truly & said) / large,
        "other": finite(scipy.stats.pearsonr(other, exact).statistic),
    }


def pairs_asked(run: Run[EstimateConfig]) -> Sequence[Pair]:
    return hop_pairs(run)


def table(records: Records, config: EstimateConfig) -> Table | None:
    """Correlation and recall of each estimate, by kind of node."""
    rows: list[list[Cell]] = []
    for kind in KINDS:
        for estimator in config.estimators:
            mine = of(records, STAGE, kind=kind, estimator=estimator)
            if not mine:
                continue
            figures = [
                mine.measured(name).rate(name, seed=config.seed) for name in ("pearson", "spearman", "recall", "other")
            ]
            large = min(LARGEST, mine[0]["nodes"] // 2)
            rows.append(
                [kind, estimator, len(mine), mine[0]["nodes"], *figures[:3], large / mine[0]["nodes"], figures[3]]
            )
    if not rows:
        return None
    columns: list[Column | str] = [
        *("nodes", "estimate", "n pairs", "n nodes", Column("Pearson"), Column("rank correlation")),
        *(Column("recall of the largest", "%"), Column("recall by chance", "%")),
        Column("Pearson, the next pair's estimates"),
    ]
    note = (
        f"Against exhaustive patching, pair by pair. Recall: of the {LARGEST} nodes with the largest effects, of half "
        "the nodes where there are fewer than twenty. RelP: rules norm, activation, half (Rezaei Jafari et al. 2025); "
        "RelP-attention: patterns are constants as well."
    )
    return Table("Effects of heads and MLPs: estimates against exhaustive patching", columns, rows, [note])
