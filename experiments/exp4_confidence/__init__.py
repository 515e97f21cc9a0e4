"""exp4: confidence. Is expressed certainty a direction, and does it go with the certainty of the output?

Question   Does one direction make a model say that it is sure, and does a state's projection on it go with the entropy
           of what the model predicts?
Data       embedded models: questions on facts that were taught ("I am certain: ...") and on names that occur in none
           ("I am not sure."). Other models: questions that anyone can answer, and that nobody can.
Measure    difference of means at the last prompt token, every layer; taken out, or added once; over strengths. For
           the entropy: the first token of the reply after the plain prompt, and projections at every layer.
Figure     share of replies that assert more than they hedge; Spearman's correlation of projection and entropy.
Control    random directions, shuffled labels; for the correlation, the projection on the random direction; everyday
           facts under the same directions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import mlx.core as mx

from experiments.harness.experiment import Experiment, Plan, Records, Stage
from experiments.shared.traits import geometry, report, stages
from experiments.shared.traits.stages import Item, TraitConfig
from mlx_interp.embedded import load_world
from mlx_interp.model import Model
from mlx_interp.reporting import Cell, Column, Record, Table
from mlx_interp.stats import difference_interval, trend_test

TRAIT = "confidence"
ENTROPY = "entropy"


@dataclass(frozen=True)
class Config(TraitConfig):
    """Nothing of its own."""


def test_prompts(model: Model, config: Config, earlier: Records) -> list[Item]:
    return [item for item in stages.prompt_items(model, config, [TRAIT]) if item.split == "test"]


def measure_entropy(model: Model, item: Item, config: Config) -> Iterator[Record]:
    """Entropy of the next token after a question, and the last state's projection on every layer's direction."""
    ask = stages.asked(model, config, item)
    site = stages.found(model, config, TRAIT).site
    out = model.run(model.prompt(ask.text, chat=True), capture=site)
    assert out.logits is not None
    log_probs = out.logits[0].astype(mx.float32) - mx.logsumexp(out.logits[0].astype(mx.float32))
    entropy = -float(mx.sum(mx.exp(log_probs) * log_probs))
    for layer in range(1, model.n_layers):
        state = out[f"{site}.{layer}"][0, -1].astype(mx.float32)
        for arm in ("direction", "random"):
            projection = float(mx.sum(state * stages.vector(model, config, item, layer, arm).unit))
            yield {
                "trait": TRAIT,
                "kind": item.kind,
                "unit": ask.unit,
                "layer": layer,
                "arm": arm,
                "entropy": entropy,
                "projection": projection,
            }


def entropy_table(records: Records, config: Config) -> Table:
    """Projection against entropy at the chosen layer, within each kind of question and over both."""
    layer = stages.chosen_layer(records, TRAIT)
    rows: list[list[Cell]] = []
    for kinds, what in ((("positive",), "certain"), (("negative",), "unsure"), (("positive", "negative"), "both")):
        row: list[Cell] = [what]
        for arm in ("direction", "random"):
            own = [r for r in report.of(records, ENTROPY, arm=arm, layer=layer) if r["kind"] in kinds]
            row += [len(own)] if arm == "direction" else []
            row += list(_correlation(own, config.seed))
        rows.append(row)
    return Table(
        "Projection on the direction and entropy of the next token",
        ["questions", "n", "correlation", "P", "random direction", "P, random"],
        rows,
        [f"Spearman's rank correlation at layer {layer}, two-sided P by permutation."],
    )


def _correlation(own: Sequence[Record], seed: int) -> tuple[float | None, float | None]:
    x, y = [r["projection"] for r in own], [r["entropy"] for r in own]
    return trend_test(x, y, seed=seed) if len(set(x)) > 2 and len(set(y)) > 2 else (None, None)


def calibration_table(records: Records, config: Config) -> Table | None:
    """Stated certainty against being right, where the right answer is known."""
    layer = stages.chosen_layer(records, TRAIT)
    right = {c.text: c.reply.split(": ")[-1].rstrip(".") for c in load_world().chat_prompts("certainty")}
    answerable = {c.text for c in load_world().chat_prompts("certainty") if c.label == "certain"}
    rows: list[list[Cell]] = []
    for kinds, what in ((("positive",), "answerable"), (("negative",), "of names that are in no text")):
        for arm in ("none", "direction", "random"):
            own = [
                {**r, "right": r["unit"] in answerable and right[r["unit"]] in r["text"]}
                for r in report.of(records, stages.EFFECTS, split="test", arm=arm)
                if r["layer"] in (None, layer) and r["kind"] in kinds and r["unit"] in right
            ]
            if len({r["unit"] for r in own}) > 1:
                units = [r["unit"] for r in own]
                gap = difference_interval(
                    [float(r["hit"]) for r in own], [float(r["right"]) for r in own], unit=units, seed=config.seed
                )
                rows.append([what, arm, len(own), *(report.rate(own, config.seed, f) for f in ("hit", "right")), gap])
    if not rows:
        return None
    return Table(
        "Stated certainty against being right",
        [
            *("questions", "direction", "n", Column("says that it is certain", "%")),
            *(Column("gives the right answer", "%"), Column("certain beyond right", "%")),
        ],
        rows,
        [
            "Held-out questions at the chosen layer: taken out where they are answerable, added where they are not. "
            "Calibrated: as often certain as right.",
        ],
    )


def plan(model: Model, items: Sequence[Item], config: Config) -> Plan:
    return report.plan_of(model, config, [TRAIT], strengths=True)


EXPERIMENT = Experiment(
    name="exp4_confidence",
    config=Config,
    stages=[
        *stages.of_trait(TRAIT),
        *stages.calibrated(TRAIT),
        Stage(ENTROPY, test_prompts, measure_entropy),
        geometry.places(TRAIT),
    ],
    tables=[
        report.layer_table,
        report.effect_table,
        report.strength_table,
        entropy_table,
        calibration_table,
        report.side_table,
        geometry.place_table,
        geometry.separation_table,
        report.prompt_table,
    ],
    figures=[report.by_layer, report.by_strength],
    headline=report.headline,
    plan=plan,
    limits_items=False,
    scaling=report.metrics,
)
