"""exp9: back-patching. Do two-hop queries fail because the bridge is resolved too late? (Biran et al. 2024)

Question   "The capital of the state containing Dallas is" names e1 (Dallas) and asks for e3 (Austin) over the bridge e2
           (Texas). A model that knows both hops may still fail. If e2 is resolved only after the layers that hold the
           second fact, its state patched into an earlier layer should repair the answer.
Data       --data auto: the embedded worlds' families for embedded models, families of real facts for all others.
           Failure (the paper's "incorrect"): both single hops answered, the two-hop prompt not. Correct: all three.
           Neither: queries that a shortcut answers. Real models are asked plainly, behind examples or in a chat,
           whichever has more hops answered among queries set aside. The counts are in the first tables.
Layers     block outputs (resid_post), counted from 0, as in the paper; the target "embedding" is an addition.
Positions  bridge: the paper's t1, last token of e1's mention. last: the paper's t2, last token of the prompt.
Parts      back_patching   source layer into an earlier target layer, same prompt and position; raw as in the paper, and
                           rescaled to the norm of what is replaced.
           cross_patching  cross-prompt patching: e2's own state in the second-hop prompt, patched in at t1.
           patchscopes     entity description: states at t1 and t2, every source into every target layer.
           knockout        attention knockout from t2 to t1, in windows of layers.
           projection      sublayer projection: attention and MLP outputs at t2, each through norm and unembedding.
           stages          first layer of four stages, from the three parts before; failures beside correct queries.
           truth           embedded models: lens and back-patching against a probe and against ablation.
Figure     fix rate of one cell (source layer, target layer), chosen on half of the failures and scored on the other.
           Fixed: the answer's first token becomes the top prediction; in the chosen cells and the diagonal band also
           ten greedy tokens, which contain the answer (everywhere with --decode all).
           The paper's figure, fixed by any cell, is an oracle: it stands beside the same oracle of the controls.
Control    the same grid with another failure's states, and with random vectors of the same norm; each layer patched
           into itself, which must change nothing; correct queries under the same cell, which may break.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from experiments.exp9_back_patching import (
    back_patching,
    back_patching_figures,
    back_patching_report,
    cell_pages,
    chosen_cells,
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
from experiments.shared.two_hop import asking
from experiments.shared.two_hop.queries import SCREENED, Case, Screened, queries, screening
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
    patched = min(len(items), run.config.all_failures, families * run.config.max_failures)
    longest = max(items, key=lambda query: len(query.two_hop))
    case = Case(longest, "failure", donor_of(longest, items))
    grids = back_patching.grids_of(run, case, back_patching.any_states)
    variants = [variant for grid in grids for variant in grid.variants]
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
        Stage(asking.STAGE, asking.ways, asking.compare, record=asking.Elicited),
        Stage(SCREENED, queries, screening, batch=16, record=Screened),
        Stage(back_patching.STAGE, patched_cases, back_patching.measure, record=back_patching.Patched),
        Stage(chosen_cells.STAGE, chosen_cells.chosen, chosen_cells.measure, record=chosen_cells.Close),
        Stage(describe.STAGE, described_cases("patchscopes"), describe.measure, record=describe.Described),
        Stage(knock_out.STAGE, described_cases("knockout"), knock_out.measure, record=knock_out.KnockedOut),
        Stage(project.STAGE, described_cases("projection"), project.measure, record=project.Projected),
        Stage(truth.STAGE, chains, truth.measure, record=truth.Chained),
    ],
    tables=[
        asking.table,
        *back_patching_report.TABLES,
        describe.table,
        knock_out.table,
        project.table,
        four_stages.table,
        *(truth.finding, truth.repairs),
    ],
    figures=[
        *back_patching_figures.FIGURES,
        *(describe.heat_maps, describe.curves, knock_out.curves, project.curves),
        four_stages.boxes,
        truth.curves,
    ],
    headline=back_patching_report.headline,
    screen=back_patching_report.fix_rates,
    plan=plan,
    look={"all_failures": 4, "all_correct": 2, "all_described": 1, "samples": 1},
    main=SCREENED,
    group=lambda query: (query.family, query.split),
    scaling=back_patching_report.metrics,
    pages=cell_pages.pages,
)
