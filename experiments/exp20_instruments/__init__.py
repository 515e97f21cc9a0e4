"""exp20: newer instruments, each judged by exact counterfactuals. Does what it says hold when the model is changed?

Question   Do estimates from weights, gradients and learned maps agree with what heads and layers really do?
Data       single-hop questions that the model answers, each beside another subject's; random tokens that come twice.
Measure    estimates     RelP, attribution and integrated gradients against every node really replaced.
           weights       copying and composition of heads by weights, against what heads do.
Figure     correlation and recall by instrument; intervals over pairs (over heads for weights).
Control    the next pair's estimates; the token of another prompt; all other earlier heads; chance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from experiments.exp20_instruments import estimates, wiring_by_weights
from experiments.exp20_instruments.estimates import EstimateConfig
from experiments.exp20_instruments.hop_pairs import hop_pairs
from experiments.exp20_instruments.wiring_by_weights import WeightConfig
from experiments.harness.experiment import Experiment, Plan, Records, RecordT, Stage
from experiments.harness.frame import of
from experiments.harness.state import Run
from mlx_interp.circuits import wiring

Part = Literal["estimates", "weights"]
PARTS: tuple[Part, ...] = get_args(Part)
BACKWARD = 2
"""Forward passes that a backward pass counts as."""


@dataclass(frozen=True)
class Config(EstimateConfig, WeightConfig):
    parts: tuple[Part, ...] = PARTS
    """Which instruments to judge."""


Items: TypeAlias = "Callable[[Run[Config]], Sequence[Any]]"
Measure: TypeAlias = "Callable[[Run[Config], Any], Iterable[RecordT]]"


def stage(part: Part, items: Items, measure: Measure[RecordT], record: type[RecordT]) -> Stage[Config, Any, RecordT]:
    """A stage for runs that ask for its part."""

    def asked(run: Run[Config], earlier: Records) -> Sequence[Any]:
        return items(run) if part in run.config.parts else []

    return Stage(part, asked, measure, record=record)


def headline(records: Records, config: Config) -> str:
    """How near RelP and attribution come to exhaustive patching of MLPs."""
    told = []
    for estimator in ("RelP", "attribution"):
        mine = of(records, estimates.STAGE, kind="MLPs", estimator=estimator)
        if mine and (mean := mine.measured("pearson").rate("pearson", seed=config.seed)):
            told.append(f"{estimator} {mean}")
    return f"MLPs' effects, Pearson with patching: {', '.join(told)}" if told else f"parts: {', '.join(config.parts)}"


def plan(run: Run[Config], items: Sequence[Any]) -> Plan:
    """Every node patched, at most a pass each; gradients; the passes over random tokens."""
    model, config, pairs = run.model, run.config, hop_pairs(run)
    nodes = wiring(model.network).n_nodes
    variants = len(pairs) * nodes if "estimates" in config.parts else 0
    each = {"ig-inputs": config.steps, "ig-activations": config.steps * (2 * model.n_layers + 1)}
    slopes = sum(each.get(estimator, 1) for estimator in config.estimators) * (1 + BACKWARD) * 2 * len(pairs)
    repeated = config.n_repeated if "weights" in config.parts else 0
    memory = model.weight_bytes + model.n_layers * model.memory([pairs[0].clean] * config.steps)
    return Plan(2 * len(pairs) + repeated, variants, float(variants + repeated + (slopes if variants else 0)), memory)


EXPERIMENT = Experiment(
    name="exp20_instruments",
    config=Config,
    stages=[
        stage("estimates", estimates.pairs_asked, estimates.measure, estimates.Estimated),
        stage("weights", wiring_by_weights.layers, wiring_by_weights.measure, wiring_by_weights.Head),
    ],
    tables=[estimates.table, wiring_by_weights.table],
    headline=headline,
    plan=plan,
    look={"n_repeated": 2, "steps": 2, "estimators": ("RelP", "attribution", "ig-inputs")},
    limits_items=False,
)
