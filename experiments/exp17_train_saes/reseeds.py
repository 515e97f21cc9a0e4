"""How much of every metric of exp17 is the seed's: the same autoencoder trained again, and the controls beside it.

A metric that tells the trained dictionary from a control by less than its spread over seeds says nothing of one
training run. The texts stay the same; start and order of the training tokens are the seed's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TypedDict

import numpy as np

from experiments.exp17_train_saes import feature_truth, runs, texts
from experiments.exp17_train_saes.runs import Item, SAEConfig
from experiments.harness.experiment import Records
from experiments.harness.state import Run
from mlx_interp.reporting import Cell, Column, Table, finite
from mlx_interp.sae import stability
from mlx_interp.stats import mean_or_none

RESEEDS = "reseeds"
CONTROLS = ("untrained", "shuffled")
FIRST_SEED = 20
"""Of the further ones: no other dictionary of the study begins there."""


@dataclass(frozen=True)
class Trained:
    """One dictionary of the same setting."""

    key: str
    label: str
    item: Item
    first: Item


def items(run: Run[SAEConfig], earlier: Records) -> list[Trained]:
    if not run.config.reseeds:
        return []
    found = runs.middle_items(run, earlier)
    first = next(one for one in found if one.kind == "topk")
    again = [replace(first, key=f"{first.key}, reseed {n}", seed=FIRST_SEED + n) for n in range(run.config.reseeds)]
    controls = [one for one in found if one.kind in CONTROLS]
    return [Trained(f"{one.kind}: {one.key}", one.kind, one, first) for one in (first, *again, *controls)]


class Again(TypedDict):
    """Every metric of one dictionary."""

    label: str
    metrics: dict[str, float | None]
    """By name, with its unit."""


def measure(run: Run[SAEConfig], trained: Trained) -> Iterator[Again]:
    """Every metric of one dictionary, as one number each."""
    config = run.config
    sae, found = runs.dictionary(run, trained.item), runs.measured(run, trained.item)
    costs = runs.losses(run, sae, trained.item.site)
    metrics = {
        "FVE": found.fve,
        "cosine": found.cosine,
        "dead (share)": found.dead,
        "delta CE (nats)": float(np.mean(costs.spliced - costs.clean)),
        "KL (nats)": float(np.mean(costs.kl)),
        "CE recovered, of zero": costs.recovered(),
    }
    for group in texts.GROUPS:
        records = list(feature_truth.measure(run, feature_truth.Question(group, group, trained.label, trained.item)))
        metrics[f"F1 of the best feature, {group}"] = float(np.mean([r["f1"] for r in records]))
        k = config.probed_k[0]
        values = [value for r in records if (value := r["auroc"][str(k)]) is not None]
        metrics[f"AUROC of {k} feature, {group}"] = float(np.mean(values)) if values else np.nan
    if trained.item != trained.first:
        pair = [runs.dictionary(run, one) for one in (trained.first, trained.item)]
        alive = [runs.measured(run, one).frequency > 0 for one in (trained.first, trained.item)]
        metrics["features found again (share)"] = stability(pair[0], pair[1], alive)[0]
    yield {"label": trained.label, "metrics": {name: finite(float(value)) for name, value in metrics.items()}}


def reseed_table(records: Records, config: SAEConfig) -> Table | None:
    """Spread over seeds, and how far the controls are away in its units."""
    found = [r for r in records if r["stage"] == RESEEDS]
    seeds = [r["metrics"] for r in found if r["label"] == "topk"]
    controls = {r["label"]: r["metrics"] for r in found if r["label"] in CONTROLS}
    if len(seeds) < 2:
        return None
    rows: list[list[Cell]] = []
    for name in dict.fromkeys(name for metrics in seeds for name in metrics):
        values = [metrics[name] for metrics in seeds if metrics.get(name) is not None]
        if len(values) < 2:
            continue
        spread = float(np.std(values, ddof=1))
        gaps: list[Cell] = []
        for label in CONTROLS:
            control = controls.get(label, {}).get(name)
            far = None if control is None or not spread else abs(float(np.mean(values)) - control) / spread
            gaps += [control, far]
        rows.append([name, len(values), mean_or_none(values, unit=range(len(values)), seed=config.seed), spread, *gaps])
    heads = [
        column for label in CONTROLS for column in (Column(label, digits=3), Column(f"{label}: SDs away", digits=1))
    ]
    return Table(
        "Metrics over seeds",
        ["metric", "seeds", Column("mean", digits=3), Column("SD over seeds", digits=3), *heads],
        rows,
        [
            "The topk autoencoder of the middle k trained again on the same texts; interval of the mean over seeds. "
            "SDs away: difference of the control from that mean, in spreads of one training run. Below about 2 a "
            "single run does not tell them apart."
        ],
    )
