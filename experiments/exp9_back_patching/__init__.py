"""exp9: back-patching. Do two-hop queries fail because the bridge is resolved too late? (Biran et al. 2024)

Question   "The capital of the state containing Dallas is": a model that knows both hops may still fail. If the bridge
           (Texas) is resolved only after the layers that hold the second fact, an earlier layer should profit from it.
Data       --data auto: the embedded worlds' families for embedded models, families of real facts for all others.
           A query counts as a failure if both single hops are answered and the two-hop prompt is not; as correct if
           all three are; not at all if a shortcut gives its answer. The counts are in the first table.
Parts      back_patching   resid_post of a later layer replaces that of an earlier one (or the embedding), same prompt
                           and position: where the bridge is resolved (last token of the first hop's phrase) or at the
                           last one; raw as in the paper, and rescaled to the length of what it replaces.
           cross_patching  the state of the bridge's name in the second-hop prompt, written where it is resolved.
           patchscopes     what states of every layer say of themselves in a prompt that asks for descriptions.
           knockout        attention from the last position to the bridge's, forbidden in windows of layers.
           projection      what attention and MLP add at the last position, each read as a prediction.
           stages          first layer of four stages, from the three parts before; failures beside correct queries.
           truth           embedded models: what lens and back-patching find, against a probe and against ablation.
Figure     fix rate of one cell (source layer, target layer), chosen on half of the failures and scored on the other.
           Fixed: the answer's first token becomes the top prediction; beside it, ten greedy tokens contain the answer.
           The paper's figure, fixed by any cell, is an oracle: it stands beside the same oracle of the controls.
Control    the same grid with another failure's states, and with random vectors of the same length; each layer
           written into itself, which must change nothing; correct queries under the same cell, which may break.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from experiments.exp9_back_patching import (
    back_patching,
    back_patching_report,
    describe,
    four_stages,
    knock_out,
    project,
    truth,
)
from experiments.exp9_back_patching.looked_at import chains, described_cases, patched_cases
from experiments.exp9_back_patching.patching_config import PatchingConfig
from experiments.harness.experiment import Experiment, Plan, Stage
from experiments.harness.state import Run
from experiments.shared.two_hop.queries import (
    SCREENED,
    Case,
    queries,
    screening,
)
from mlx_interp.behaviour.two_hop import donor_of
from mlx_interp.datasets import TwoHopQuery
from mlx_interp.engine.memory import default_budget

STATES_PER_CASE = 8
"""Forward passes of one case beside its sweep: states of both prompts at each position, and the lens."""


@dataclass(frozen=True)
class Config(PatchingConfig):
    """Nothing of its own."""


def plan(run: Run[Config], items: Sequence[TwoHopQuery]) -> Plan:
    """What the grids of back-patching and cross-prompt patching cost at most: as if every family had as many failures
    and correct queries as are patched."""
    families = len({query.family for query in items})
    patched = min(len(items), families * (run.config.max_failures + run.config.max_correct))
    longest = max(items, key=lambda query: len(query.two_hop))
    case = Case(longest, "failure", donor_of(longest, items))
    variants = [variant for grid in back_patching.grids_of(run, case) for variant in grid.variants]
    cost = run.model.cost(longest.two_hop, variants or [[]])
    return Plan(
        prompts=len(items),
        counterfactuals=patched * len(variants),
        forward_passes=5 * len(items) + patched * (STATES_PER_CASE + cost.forward_passes),
        memory_bytes=run.model.weight_bytes + min(cost.memory_bytes, default_budget()),
    )


EXPERIMENT = Experiment(
    name="exp9_back_patching",
    config=Config,
    stages=[
        Stage(SCREENED, queries, screening, batch=16),
        Stage(back_patching.STAGE, patched_cases, back_patching.measure),
        Stage(describe.STAGE, described_cases("patchscopes"), describe.measure),
        Stage(knock_out.STAGE, described_cases("knockout"), knock_out.measure),
        Stage(project.STAGE, described_cases("projection"), project.measure),
        Stage(truth.STAGE, chains, truth.measure),
    ],
    tables=[
        *back_patching_report.TABLES,
        describe.table,
        knock_out.table,
        project.table,
        four_stages.table,
        truth.finding,
        truth.repairs,
    ],
    figures=[
        *back_patching_report.FIGURES,
        describe.heat_maps,
        describe.curves,
        knock_out.curves,
        project.curves,
        four_stages.boxes,
        truth.curves,
    ],
    headline=back_patching_report.headline,
    plan=plan,
    group=lambda query: (query.family, query.split),
    scaling=back_patching_report.metrics,
)
