"""exp20: newer instruments, each judged by exact counterfactuals. Does what it says hold when the model is changed?

Question   Do estimates from weights, gradients and learned maps agree with what heads and layers really do?
Data       single-hop questions that the model answers, each beside another subject's; random tokens that come twice.
Measure    estimates     RelP, attribution and integrated gradients against every node really replaced.
           weights       copying and composition of heads by weights, against what heads do.
           lenses        the Jacobian lens beside logit lens, tuned lens and least squares, against real patching.
           subspaces     subspaces learnt by distributed alignment search, on exchanges that are held out.
           capping       requests answered under a cap along refusal's direction (models with a planted one).
           ablation      refusal ablated by a search over layers' fractions, beside plain ablation (chat models).
           injection     concepts put into the stream, and whether the model reports them (trained models).
           features      neurons explained by a model, and explanations scored (trained models).
           diffing       crosscoder and activation difference lens, on a fine-tune with a planted reply.
           oracle        an activation oracle trained on questions about requests, asked about others.
           transcoders   attribution graphs with transcoders, their edges and influences against ablations.
Figure     correlation and recall by instrument; intervals over pairs (over heads for weights).
Control    the next pair's estimates; the token of another prompt; all other earlier heads; chance; the lens of another
           layer; random subspaces of equal size; random directions; a fine-tune that plants nothing; the words alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

from experiments.exp20_instruments import (
    capping,
    concept_injection,
    diffing,
    estimates,
    interpreted,
    lens_changes,
    oracles,
    searched,
    subspaces,
    transcoder_graphs,
    transcoder_report,
)
from experiments.exp20_instruments import wiring_by_weights as by_weights
from experiments.exp20_instruments.instrument_parts import LOOK, Config, Part, plan
from experiments.harness.experiment import Experiment, Records, RecordT, Stage
from experiments.harness.frame import of
from experiments.harness.state import Run

Items: TypeAlias = "Callable[[Run[Config]], Sequence[Any]]"
Measure: TypeAlias = "Callable[[Run[Config], Any], Iterable[RecordT]]"


def stage(part: Part, items: Items, measure: Measure[RecordT], record: type[RecordT]) -> Stage[Config, Any, RecordT]:
    """A stage for runs that ask for its part."""

    def asked(run: Run[Config], earlier: Records) -> Sequence[Any]:
        return items(run) if part in run.config.parts else []

    return Stage(part, asked, measure, record=record)


def headline(records: Records, config: Config) -> str:
    """How near RelP and attribution come to exhaustive patching of MLPs, and what later parts found."""
    told = []
    for estimator in ("RelP", "attribution"):
        mine = of(records, estimates.STAGE, kind="MLPs", estimator=estimator)
        if mine and (mean := mine.measured("pearson").rate("pearson", seed=config.seed)):
            told.append(f"{estimator} {mean}")
    first = f"MLPs' effects, Pearson with patching: {', '.join(told)}" if told else None
    later = (concept_injection, interpreted, oracles, transcoder_report)
    found = [first, *(part.headline(records, config) for part in later)]
    return "; ".join(filter(None, found)) or f"parts: {', '.join(config.parts)}"


EXPERIMENT = Experiment(
    name="exp20_instruments",
    config=Config,
    stages=[
        stage("estimates", estimates.pairs_asked, estimates.measure, estimates.Estimated),
        stage("weights", by_weights.layers, by_weights.measure, by_weights.Head),
        stage("lenses", lens_changes.pairs_asked, lens_changes.measure, lens_changes.Changed),
        stage("subspaces", subspaces.variables, subspaces.measure, subspaces.Exchanged),
        stage("capping", capping.requests, capping.measure, capping.Capped),
        stage("ablation", searched.arms, searched.measure, searched.Ablated),
        stage("diffing", diffing.fine_tunes, diffing.measure, diffing.Diffed),
        stage("oracle", oracles.questions, oracles.measure, oracles.Told),
        stage("injection", concept_injection.concepts, concept_injection.measure, concept_injection.Reported),
        stage("features", interpreted.neurons, interpreted.measure, interpreted.Interpreted),
        stage("transcoders", transcoder_graphs.traced, transcoder_graphs.measure, transcoder_graphs.Graphed),
    ],
    tables=[
        *(estimates.table, by_weights.table, lens_changes.table, subspaces.table, capping.table, searched.table),
        *diffing.TABLES,
        concept_injection.table,
        *interpreted.TABLES,
        *oracles.TABLES,
        *transcoder_report.TABLES,
    ],
    figures=[transcoder_report.figures],
    pages=transcoder_report.pages,
    headline=headline,
    plan=plan,
    look=LOOK,
    main="weights",  # its items are layers: known without asking the model anything
    limits_items=False,
    whole_model="multiplies whole matrices",
)
