"""exp12: sycophancy and confidence directions across models. At which depth, how long, and with what effect?

Question   Is there one direction for agreeing with the user, one for the user's stance, and one for certainty, and do
           they lie at the same depth in different models?
Data       embedded models: the world's opinions (the user against the model's own view, or silent; likes or dislikes)
           and its questions on facts that were taught or never were. Other models: the project's own prompts.
           Directions, choice of the layer and report use different prompts; topics do not cross splits.
Measure    difference of means at the last prompt token, at the input of every layer; removed everywhere where the trait
           shows, added once where it does not; a hit is read from the reply's text; log-odds of the words that open it
           (yes or no, I am certain or I am not sure) move where no reply turns. Embedded models: persona vectors
           (Chen et al. 2025) steered with, watched before the reply, before and after fine-tunes, and while these run.
Figure     the rate at the layer chosen on other prompts, with a 95 % interval over prompts or topics.
Control    random directions and directions from shuffled labels, of the same length at the same place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from experiments.exp12_multimodel_directions import persona_report, persona_study, persona_tuning
from experiments.exp12_multimodel_directions.persona_study import PersonaConfig
from experiments.harness.experiment import Experiment, Plan, Records, Stage
from experiments.harness.state import Run
from experiments.shared.traits import geometry, opening_report, over_models, stages, trait_report
from experiments.shared.traits.stages import Item
from experiments.shared.traits.trait_records import (
    DIRECTIONS,
    EFFECTS,
    OPENINGS,
    PROMPTS,
    Affected,
    Found,
    Opened,
    Used,
)
from mlx_interp.reporting import Cell, Column, Table

REPORTED = {
    "gemma-2-2b": {"sycophancy": (19, 0.73, 209.9), "confidence": (21, 0.81, 154.4)},
    "llama-3.2-3b": {"sycophancy": (22, 0.79, 15.9), "confidence": (22, 0.79, 9.8)},
    "qwen-2.5-7b": {"sycophancy": (22, 0.79, 106.2), "confidence": (22, 0.79, 74.0)},
}
"""Layer, depth and length in the project's first round, where the layer was the one with the longest direction."""


@dataclass(frozen=True)
class Config(PersonaConfig):
    traits: tuple[str, ...] = ("sycophancy", "stance", "confidence")
    """Which traits."""


def directions(run: Run[Config], earlier: Records) -> list[Item]:
    return stages.layer_items(run, run.config.traits)


def prompts(run: Run[Config], earlier: Records) -> list[Item]:
    return stages.prompt_items(run, run.config.traits)


def openings(run: Run[Config], earlier: Records) -> list[Item]:
    return stages.graded_items(run, run.config.traits)


def origins(run: Run[Config], earlier: Records) -> list[Item]:
    return [Item(trait, trait) for trait in run.config.traits]


def angles(run: Run[Config], earlier: Records) -> list[Item]:
    return geometry.angle_items((*run.config.traits, "refusal"))(run, earlier)


def reported(records: Records, config: Config) -> Table:
    """The earlier round's figures, for the models that it ran."""
    rows: list[list[Cell]] = [
        [name, trait, *figures] for name, traits in REPORTED.items() for trait, figures in traits.items()
    ]
    return Table(
        "Reported by the first round, not measured here",
        ["model", "trait", "layer", Column("depth", "%"), Column("length", "absolute", digits=1)],
        rows,
        ["There the layer was chosen by the direction's length, which grows with depth in every model."],
    )


def plan(run: Run[Config], items: Sequence[Item]) -> Plan:
    return trait_report.plan_of(run, run.config.traits, strengths=False)


EXPERIMENT = Experiment(
    name="exp12_multimodel_directions",
    config=Config,
    stages=[
        Stage(DIRECTIONS, directions, stages.measure_direction, record=Found),
        Stage(EFFECTS, prompts, stages.measure_effect, record=Affected),
        Stage(OPENINGS, openings, stages.measure_openings, record=Opened),
        Stage(PROMPTS, origins, stages.measure_prompts, record=Used),
        Stage(geometry.ANGLES, angles, geometry.measure_angles, record=geometry.Angle),
        *persona_study.STAGES,
        *persona_tuning.STAGES,
    ],
    tables=[
        *(trait_report.layer_table, trait_report.effect_table, opening_report.opening_table),
        *(reported, geometry.angle_table),
        *persona_report.TABLES,
        trait_report.prompt_table,
    ],
    figures=[opening_report.by_layer, trait_report.by_layer, geometry.angle_figure, persona_report.figures],
    headline=opening_report.headline,
    screen=trait_report.effect_table,
    plan=plan,
    look={"n_train": 16, "n_asked": 4, "tuning_steps": 4, "personas": ("refusal",)},
    limits_items=False,
    group=lambda item: item.trait,
    scaling=over_models.metrics,
    whole_model="fine-tunes the model",
)
