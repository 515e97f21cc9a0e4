"""What traits are compared by over models: depth of the chosen layer, and what the direction does there."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from experiments.harness.experiment import Metric, Records
from experiments.harness.frame import of
from experiments.shared.traits.stages import DIRECTIONS, EFFECTS, TraitConfig, chosen_layer
from experiments.shared.traits.trait_report import effect, traits
from mlx_interp.directions.candidates import DEEPEST
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
    own = of(records, EFFECTS, trait=trait, split="choose", arm="direction")
    n_layers = max((r["n_layers"] for r in of(records, DIRECTIONS)), default=0)
    layers = sorted({r["layer"] for r in own if r["layer"] <= DEEPEST * n_layers})
    units = list(dict.fromkeys((r["kind"], r["unit"]) for r in own))
    if not layers or len({kind for kind, _ in units}) < 2:
        return None
    hits = np.array(
        [
            [np.mean([r["hit"] for r in own if (r["kind"], r["unit"]) == unit and r["layer"] == at]) for at in layers]
            for unit in units
        ]
    )
    shows = np.array([kind == "positive" for kind, _ in units])

    def depths(draws: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        found = np.full(len(draws), np.nan)
        for number, drawn in enumerate(draws):
            of_kind = [drawn[shows[drawn] == kind] for kind in (False, True)]
            if all(map(len, of_kind)):
                brought, left = (hits[some].mean(axis=0) for some in of_kind)
                found[number] = layers[int(np.argmax(np.round(brought - left, 9)))] / n_layers  # ties: the lower layer
        return found

    return function_interval(depths, len(units), seed=seed)
