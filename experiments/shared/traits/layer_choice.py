"""The layer of a trait's direction, chosen on prompts set aside for it: that which turns most replies as meant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from experiments.harness.experiment import Records
from experiments.harness.frame import of
from experiments.shared.traits.trait_records import DIRECTIONS, EFFECTS, OPENINGS
from mlx_interp.directions.candidates import DEEPEST
from mlx_interp.reporting import Record


def chosen_layer(records: Records, trait: str) -> int | None:
    """The layer with the largest effect on the choosing split: trait ablated plus trait induced, below 80 % of depth.

    Layers at which as many replies turn are told by the words that open them, then the lower one is taken. Its p value
    has no say and stands beside it. None if at no layer the classes differ.
    """
    layers, turned, moved = choosing(records, trait)
    return layers[best_of(turned.mean_effect(), moved.mean_effect())] if layers else None


@dataclass(frozen=True, eq=False)
class Shown:
    """How much of a trait each choosing prompt shows under each layer's direction: (n_prompts, n_layers)."""

    values: npt.NDArray[np.float64]
    positive: npt.NDArray[np.bool_]
    """(n_prompts,): whether the direction is ablated there, or added."""

    def mean_effect(self, drawn: npt.NDArray[np.int64] | None = None) -> npt.NDArray[np.float64]:
        """(n_layers,): what is brought where it is added, less what is left where it is ablated; of some prompts."""
        values, positive = (self.values, self.positive) if drawn is None else (self.values[drawn], self.positive[drawn])
        sides = [values[positive == kind] for kind in (False, True)]
        brought, left = (side.mean(axis=0) if len(side) else np.zeros(values.shape[1]) for side in sides)
        return np.asarray(brought - left)


def best_of(turned: npt.NDArray[np.float64], moved: npt.NDArray[np.float64]) -> int:
    """Index of the layer that turns most replies; of several, that which moves the opening words most; the lowest."""
    most = np.flatnonzero(np.round(turned, 9) == np.round(turned, 9).max())
    return int(most[np.argmax(np.round(moved[most], 6))])


def choosing(records: Records, trait: str) -> tuple[list[int], Shown, Shown]:
    """Layers that may be chosen, the lowest first; hits, and log-odds of opening words, on the choosing prompts.

    Rows of both are the same prompts, or topics where several prompts share one; log-odds are 0 where none were
    measured.
    """
    own, graded = (of(records, stage, trait=trait, split="choose", arm="direction") for stage in (EFFECTS, OPENINGS))
    n_layers = max((r["n_layers"] for r in of(records, DIRECTIONS)), default=0)
    layers = sorted({r["layer"] for r in own if r["layer"] <= DEEPEST * n_layers})
    units = list(dict.fromkeys((r["kind"], r["unit"]) for r in own))
    positive = np.array([kind == "positive" for kind, _ in units], bool)

    def table(rows: Sequence[Record], field: str) -> Shown:
        cells: dict[tuple[str, str, int], list[float]] = {}
        for r in rows:
            cells.setdefault((r["kind"], r["unit"], r["layer"]), []).append(float(r[field]))
        values = [[float(np.mean(cells.get((*unit, at), [0.0]))) for at in layers] for unit in units]
        return Shown(np.array(values, float).reshape(len(units), len(layers)), positive)

    return layers, table(own, "hit"), table(graded, "log_odds")
