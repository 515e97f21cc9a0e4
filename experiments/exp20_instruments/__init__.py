"""exp20: newer instruments, each judged by exact counterfactuals. Does what it says hold when the model is changed?

Question   Do estimates from weights, gradients and learned maps agree with what heads and layers really do?
Data       single-hop questions that the model answers, each beside another subject's; random tokens that come twice.
Measure    estimates     RelP, attribution and integrated gradients against every node really replaced.
           weights       copying and composition of heads by weights, against what heads do.
           lenses        the Jacobian lens beside logit lens, tuned lens and least squares, against real patching.
           subspaces     subspaces learnt by distributed alignment search, on exchanges that are held out.
           capping       requests answered under a cap along refusal's direction (models with a planted one).
           ablation      refusal ablated by a search over layers' fractions, beside plain ablation (chat models).
Figure     correlation and recall by instrument; intervals over pairs (over heads for weights).
Control    the next pair's estimates; the token of another prompt; all other earlier heads; chance; the lens of another
           layer; random subspaces of equal size; random directions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from experiments.exp20_instruments import capping, estimates, lens_changes, searched, subspaces, wiring_by_weights
from experiments.exp20_instruments.capping import CapConfig
from experiments.exp20_instruments.estimates import EstimateConfig
from experiments.exp20_instruments.hop_pairs import likely_pairs
from experiments.exp20_instruments.lens_changes import LensConfig
from experiments.exp20_instruments.searched import AblationConfig
from experiments.exp20_instruments.subspaces import SubspaceConfig
from experiments.exp20_instruments.wiring_by_weights import WeightConfig
from experiments.harness.experiment import Experiment, Plan, Records, RecordT, Stage
from experiments.harness.frame import of
from experiments.harness.state import Run
from mlx_interp.circuits import wiring

Part = Literal["estimates", "weights", "lenses", "subspaces", "capping", "ablation"]
PARTS: tuple[Part, ...] = get_args(Part)
BACKWARD = 2
"""Forward passes that a backward pass counts as."""


@dataclass(frozen=True)
class Config(EstimateConfig, WeightConfig, LensConfig, SubspaceConfig, CapConfig, AblationConfig):
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
    """Nodes and layers patched, at most a pass each; gradients; products of the Jacobian lens; steps of the search."""
    model, config, pairs = run.model, run.config, likely_pairs(run)
    nodes = wiring(model.network).n_nodes
    variants = len(pairs) * nodes if "estimates" in config.parts else 0
    variants += len(pairs) * model.n_layers if "lenses" in config.parts else 0
    products = config.n_jacobian * (config.jacobian_dimensions or model.d_model) if "lenses" in config.parts else 0
    searched = config.search_steps * config.search_batch * (1 + BACKWARD) if "subspaces" in config.parts else 0
    each = {"ig-inputs": config.steps, "ig-activations": config.steps * (2 * model.n_layers + 1)}
    slopes = sum(each.get(estimator, 1) for estimator in config.estimators) * (1 + BACKWARD) * 2 * len(pairs)
    repeated = config.n_repeated if "weights" in config.parts else 0
    tried = 2 * config.ablation_trials if "ablation" in config.parts else 0
    replies = tried * config.at_most(config.n_asked) * (2 + config.reply_tokens / 16)
    memory = model.weight_bytes + model.n_layers * model.memory([pairs[0].clean] * config.steps)
    passes = float(variants + repeated + products + searched + replies + (slopes if "estimates" in config.parts else 0))
    return Plan(2 * len(pairs) + repeated, variants, passes, memory)


EXPERIMENT = Experiment(
    name="exp20_instruments",
    config=Config,
    stages=[
        stage("estimates", estimates.pairs_asked, estimates.measure, estimates.Estimated),
        stage("weights", wiring_by_weights.layers, wiring_by_weights.measure, wiring_by_weights.Head),
        stage("lenses", lens_changes.pairs_asked, lens_changes.measure, lens_changes.Changed),
        stage("subspaces", subspaces.variables, subspaces.measure, subspaces.Exchanged),
        stage("capping", capping.requests, capping.measure, capping.Capped),
        stage("ablation", searched.arms, searched.measure, searched.Ablated),
    ],
    tables=[
        *(estimates.table, wiring_by_weights.table, lens_changes.table, subspaces.table, capping.table, searched.table)
    ],
    headline=headline,
    plan=plan,
    look={
        "n_repeated": 2,
        "steps": 2,
        "estimators": ("RelP", "attribution", "ig-inputs"),
        "n_statements": 32,
        "n_jacobian": 2,
        "lens_steps": 20,
        "n_exchanges": 16,
        "search_steps": 10,
        "ablation_trials": 8,
    },
    main="weights",  # its items are layers: known without asking the model anything
    limits_items=False,
    whole_model="multiplies whole matrices",
)
