"""What traits are compared by over models: depth of the chosen layer, and what the direction does there."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from experiments.harness.experiment import Metric, Records
from experiments.harness.frame import of
from experiments.shared.traits.layer_choice import best_of, choosing, chosen_layer
from experiments.shared.traits.stages import TraitConfig
from experiments.shared.traits.trait_records import DIRECTIONS
from experiments.shared.traits.trait_report import effect, traits
from mlx_interp.stats import Estimate
from mlx_interp.stats.functions import function_interval


def metrics(records: Records, config: TraitConfig) -> list[Metric]:
    """For every trait: depth, and the change of its rate when the direction is ablated or added."""
    found = []
    for trait in traits(records):
        layer = chosen_layer(records, trait)
        if layer is not None:
            found.append(Metric(f"{trait}, depth", "%", chosen_depth(records, trait, config.seed)))
            for kind, word in (("positive", "ablated"), ("negative", "added")):
                change = effect(records, trait, kind, "direction", layer, config.seed)
                found.append(Metric(f"{trait}, {word}", "%", change))
    return found


def chosen_depth(records: Records, trait: str, seed: int) -> Estimate | None:
    """The chosen layer's place in the model, 0 to 1, by the rule of `chosen_layer`; the interval says how far it moves
    when the prompts that it is chosen on are drawn again."""
    layers, turned, moved = choosing(records, trait)
    n_layers = max((r["n_layers"] for r in of(records, DIRECTIONS)), default=0)
    if not layers or turned.positive.all() or not turned.positive.any():
        return None

    def depths(draws: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        found = np.full(len(draws), np.nan)
        for number, drawn in enumerate(draws):
            if len(set(turned.positive[drawn])) == 2:
                at = best_of(turned.mean_effect(drawn), moved.mean_effect(drawn))
                found[number] = layers[at] / n_layers
        return found

    return function_interval(depths, len(turned.positive), seed=seed)
