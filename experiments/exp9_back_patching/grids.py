"""Grids of back-patching as the records have them: by query, whether each pair of layers gives the answer."""

from __future__ import annotations

from dataclasses import dataclass

from experiments.exp9_back_patching.back_patching import STAGE, cross_pairs
from experiments.harness.experiment import Records
from experiments.shared.two_hop.summaries import ALL, n_layers
from mlx_interp.patching.back_patching import EMBEDDING, Pair, back_patching_pairs
from mlx_interp.stats import Estimate, mean_or_none


@dataclass(frozen=True)
class Grids:
    """The grids of one arm, position and length over the queries of one group: whether each cell gives the answer."""

    cells: dict[str, list[float]]
    bridge: dict[str, str]

    def interval(self, scores: dict[str, float], seed: int) -> Estimate | None:
        """Mean over queries; resampled by bridge, since many queries share one."""
        return mean_or_none(list(scores.values()), unit=[self.bridge[key] for key in scores], seed=seed)


def grids(records: Records, family: str = ALL, group: str = "failure", **label: str) -> Grids:
    """Whether the answer's first token is the top one, in every cell of each query."""
    rows = [
        r
        for r in records
        if r.get("group") == group
        and family in (ALL, r["family"])
        and r["stage"] == STAGE
        and "rank" in r
        and all(r.get(name) == value for name, value in label.items())
    ]
    fixed = {r["item"]: [float(cell == 0) for cell in r["rank"]] for r in rows}
    return Grids(fixed, {r["item"]: r["bridge"] for r in rows})


def settings(records: Records, study: str) -> list[tuple[str, str]]:
    """Positions and lengths that were measured."""
    return list(dict.fromkeys((r["position"], r["length"]) for r in records if r.get("study") == study))


def pairs_of(records: Records, study: str) -> list[Pair]:
    """Source and target layer of each cell."""
    n = n_layers(records)
    return back_patching_pairs(n) if study == "back-patching" else cross_pairs(n)


def cell_name(pair: Pair) -> str:
    """E.g. "7>E": layer 7 into the embedding."""
    return f"{pair[0]}>{'E' if pair[1] == EMBEDDING else pair[1]}"
