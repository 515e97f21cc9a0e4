"""exp7: the refusal direction across models. At which depth, how long, how strong?

Question   Is there one direction for refusing in every model, and where?
Data       requests that are refused and requests of the same form that are not: the synthetic world's on embedded
           models, the project's own on others. Directions, choice of the layer and report use different prompts.
Measure    difference of means at the last prompt token, at the input of every layer (Arditi et al. 2024); ablated
           everywhere on harmful requests, added once on harmless ones; a refusal is read from the reply's opening.
Figure     rate of refusals at the layer chosen on other prompts, with a 95 % interval; depth and length, both absolute
           and relative to the stream, since absolute lengths do not compare across models.
Control    random directions and directions from shuffled labels, of the same length at the same place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from experiments.harness.experiment import Experiment, Plan, Records
from experiments.harness.state import Run
from experiments.shared.traits import over_models, stages, trait_report
from experiments.shared.traits.stages import Item, TraitConfig
from mlx_interp.reporting import Cell, Column, Table

REPORTED: dict[str, tuple[int, float, float, str]] = {
    "gemma-2-2b": (16, 0.64, 201.88, "strong"),
    "llama-3.2-3b": (17, 0.63, 10.83, "none"),
    "qwen-2.5-7b": (17, 0.63, 26.89, "medium"),
    "llama-3.1-8b": (20, 0.65, 9.34, "medium"),
    "gemma-2-9b": (24, 0.59, 238.38, "strong"),
}
"""Layer, depth, length and effect in the project's first round."""


@dataclass(frozen=True)
class Config(TraitConfig):
    """Nothing of its own."""


def reported(records: Records, config: Config) -> Table:
    """The earlier round's figures, for the models that it ran."""
    rows: list[list[Cell]] = [[name, *figures] for name, figures in REPORTED.items()]
    return Table(
        "Reported by the first round, not measured here",
        ["model", "layer", Column("depth", "%"), Column("length", "absolute"), "effect"],
        rows,
        ["Strength there was a fixed share of the length, so that effects do not compare across models."],
    )


def plan(run: Run[Config], items: Sequence[Item]) -> Plan:
    return trait_report.plan_of(run, ["refusal"], strengths=False)


EXPERIMENT = Experiment(
    name="exp7_refusal_scaling",
    config=Config,
    stages=stages.of_trait("refusal"),
    tables=[trait_report.layer_table, trait_report.effect_table, reported, trait_report.prompt_table],
    figures=[trait_report.by_layer],
    headline=trait_report.headline,
    screen=trait_report.effect_table,
    plan=plan,
    look={"n_train": 16},
    limits_items=False,
    scaling=over_models.metrics,
)
