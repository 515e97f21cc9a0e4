"""Projection on the direction against the entropy of the next token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypedDict

from experiments.harness.experiment import Records
from experiments.harness.frame import of
from experiments.harness.state import Run
from experiments.shared.traits import stages
from experiments.shared.traits.layer_choice import chosen_layer
from experiments.shared.traits.stages import Item, TraitConfig
from mlx_interp.deferred import mx
from mlx_interp.reporting import Cell, Record, Table
from mlx_interp.stats import trend_test

TRAIT = "confidence"
ENTROPY = "entropy"


class Uncertain(TypedDict):
    """How sure the model is after a question, and where its state lies on one layer's direction."""

    trait: str
    kind: str
    unit: str
    layer: int
    arm: str
    entropy: float
    """Of the next token, nats."""
    projection: float


def test_prompts(run: Run[TraitConfig], earlier: Records) -> list[Item]:
    return [item for item in stages.prompt_items(run, [TRAIT]) if item.split == "test"]


def measure_entropy(run: Run[TraitConfig], item: Item) -> Iterator[Uncertain]:
    """Entropy of the next token after a question, and the last state's projection on every layer's direction."""
    ask = stages.asked(run, item)
    site = stages.found(run, TRAIT).site
    out = run.model.run(run.model.prompt(ask.text, chat=True), capture=site)
    assert out.logits is not None
    log_probs = out.logits[0].astype(mx.float32) - mx.logsumexp(out.logits[0].astype(mx.float32))
    entropy = -float(mx.sum(mx.exp(log_probs) * log_probs))
    for layer in range(1, run.model.n_layers):
        state = out[f"{site}.{layer}"][0, -1].astype(mx.float32)
        for arm in ("direction", "random"):
            projection = float(mx.sum(state * stages.vector(run, item, layer, arm).unit))
            yield {
                "trait": TRAIT,
                "kind": item.kind,
                "unit": ask.unit,
                "layer": layer,
                "arm": arm,
                "entropy": entropy,
                "projection": projection,
            }


def entropy_table(records: Records, config: TraitConfig) -> Table:
    """Projection against entropy at the chosen layer, within each kind of question and over both."""
    layer = chosen_layer(records, TRAIT)
    rows: list[list[Cell]] = []
    for kinds, what in ((("positive",), "certain"), (("negative",), "unsure"), (("positive", "negative"), "both")):
        row: list[Cell] = [what]
        for arm in ("direction", "random"):
            own = [r for r in of(records, ENTROPY, arm=arm, layer=layer) if r["kind"] in kinds]
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
