"""exp9: back-patching. Do two-hop queries fail because the bridge is resolved too late? (Biran et al. 2024)

Question   "The capital of the state containing Dallas is": a model that knows both hops may still fail. If the bridge
           (Texas) is resolved only after the layers that hold the second fact, an earlier layer should profit from it.
Data       --data auto: the embedded worlds' families for embedded models, families of real facts for all others.
           A query counts as a failure if both single hops are answered and the two-hop prompt is not; as correct if
           all three are. The counts are in the first table.
Measure    resid_post of a later layer replaces that of an earlier one (or the embedding), same prompt and position: at
           the bridge's position (last token of the first hop's phrase) or at the last one; raw as in the paper, and
           rescaled to the length of what it replaces. Fixed: the answer's first token becomes the top prediction.
           Cross-prompt: the state of the bridge's name in the second-hop prompt, written at the bridge's position.
Figure     fix rate of one cell (source layer, target layer), chosen on half of the failures and scored on the other.
           The paper's figure, fixed by any cell, is an oracle: it stands beside the same oracle of the controls.
Control    the same grid with another failure's states, and with random vectors of the same length; each layer
           written into itself, which must change nothing; correct queries under the same cell, which may break.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import mlx.core as mx
import numpy as np

from experiments.exp9_report import FIGURES, TABLES, headline
from experiments.experiment import Experiment, ExperimentConfig, Plan, Records, Stage
from experiments.runner import run
from mlx_interp.datasets import TwoHopQuery, read_two_hop
from mlx_interp.embedded import load_world
from mlx_interp.engine.memory import default_budget
from mlx_interp.errors import DataError, nearest
from mlx_interp.interventions import Intervention
from mlx_interp.loading.names import EMBEDDED
from mlx_interp.methods.answers import answer_scores, question
from mlx_interp.methods.lens import lens_logits, lens_ranks
from mlx_interp.methods.patching import (
    Pair,
    back_patching_pairs,
    patches,
    random_states,
    same_layer_pairs,
    states_at,
)
from mlx_interp.methods.two_hop import bridge_position, donor_of, named_bridge_position, screen
from mlx_interp.model import Model
from mlx_interp.reporting import Record

REAL_DATA = Path(__file__).parent / "data"
STATES_PER_CASE = 8
"""Forward passes of one case beside its sweep: states of both prompts at each position, and the lens."""
LENGTHS: tuple[Literal["raw", "rescaled"], ...] = ("raw", "rescaled")


@dataclass(frozen=True)
class Config(ExperimentConfig):
    data: str = "auto"
    """auto, embedded (the synthetic world), real (facts of the world), or a JSON Lines file of two-hop queries."""
    families: tuple[str, ...] = ()
    """Only these families of queries; all if left out."""
    positions: tuple[Literal["bridge", "last"], ...] = ("bridge", "last")
    """Where to patch: end of the first hop's phrase, end of the prompt."""
    max_failures: int = 40
    """Failures of each family that are patched, the first in the data's order."""
    max_correct: int = 10
    """Correct queries of each family that are patched, to see what patching breaks."""
    lens_k: int = 10
    """The logit lens counts a name as visible when it is among the top k."""


@dataclass(frozen=True)
class Case:
    """A query that is patched, and another of its family whose states are the control."""

    query: TwoHopQuery
    group: str
    donor: TwoHopQuery | None

    @property
    def key(self) -> str:
        return f"{self.group}: {self.query.key}"


def queries(model: Model, config: Config, earlier: Records) -> list[TwoHopQuery]:
    """The data: every query of the families asked for."""
    kind = config.data
    if kind == "auto":
        kind = "embedded" if model.name in EMBEDDED else "real"
    if kind == "embedded":
        found = load_world().two_hop_queries()
    else:
        files = sorted(REAL_DATA.glob("*.jsonl")) if kind == "real" else [Path(kind)]
        found = [query for file in files for query in read_two_hop(file)]
    there = list(dict.fromkeys(query.family for query in found))
    for family in config.families:
        if family not in there:
            raise DataError(f"no family {family!r}: {nearest(family, there)}there are {', '.join(there)}")
    return [query for query in found if not config.families or query.family in config.families]


def screening(model: Model, batch: Sequence[TwoHopQuery], config: Config) -> Iterator[Record]:
    """Which queries count: what the model answers to both hops and to the two-hop prompt."""
    for found in screen(model, batch):
        query = found.query
        yield {
            "item": query.key,
            "family": query.family,
            "split": query.split,
            "bridge": query.bridge,
            "group": found.group,
            "first_hop": found.first_hop.whole_name,
            "second_hop": found.second_hop.whole_name,
            "two_hop": found.two_hop.whole_name,
            "predicted": found.two_hop.predicted,
            "n_layers": model.n_layers,
        }


def cases(model: Model, config: Config, earlier: Records) -> list[Case]:
    """The queries that count, as many of each family and group as the config says."""
    known = {query.key: query for query in queries(model, config, ())}
    by_group = {
        group: [known[record["item"]] for record in earlier if record["group"] == group]
        for group in ("failure", "correct")
    }
    chosen = []
    for group, most in (("failure", config.max_failures), ("correct", config.max_correct)):
        for family in dict.fromkeys(query.family for query in by_group[group]):
            members = [query for query in by_group[group] if query.family == family]
            chosen += [Case(query, group, donor_of(query, members)) for query in members[:most]]
    return chosen


def measure(model: Model, case: Case, config: Config) -> Iterator[Record]:
    """One query's clean answer, its logit lens, and every grid with its controls, all grids as one sweep."""
    asked = question(model, case.query.two_hop, case.query.answers)
    common = {"family": case.query.family, "bridge": case.query.bridge, "group": case.group}
    grids = _grids(model, case, config)
    variants = [variant for _, grid in grids for variant in grid]
    scores = np.asarray(model.sweep(asked.prompt, [[], *variants], metric=answer_scores(asked.first_tokens)))
    yield {**common, "arm": "clean", "rank": int(scores[0, 0]), "log_prob": _short(scores[0, 1])}
    yield {**common, "arm": "lens", **_lens(model, case)}
    row = 1
    for label, grid in grids:
        cells = scores[row : row + len(grid)]
        row += len(grid)
        ranks = cells[:, 0].astype(int).tolist()
        yield {**common, **label, "rank": ranks, "log_prob": [_short(x) for x in cells[:, 1]]}


Grid = tuple[Record, list[list[Intervention]]]
"""What a grid is, and its variants."""


def _grids(model: Model, case: Case, config: Config) -> list[Grid]:
    return [*_back_patching(model, case, config), *_cross_prompt(model, case)]


def _back_patching(model: Model, case: Case, config: Config) -> Iterator[Grid]:
    """Labels and variants of the grids of one prompt: itself, another query's states, random ones, and the identity."""
    pairs = back_patching_pairs(model.n_layers)
    for name in config.positions:
        position = _position(model, case.query, name)
        own = states_at(model, case.query.two_hop, position)
        sources = {"patched": own, "random": random_states(own, config.seed)}
        if case.donor is not None:
            sources["other prompt"] = states_at(model, case.donor.two_hop, _position(model, case.donor, name))
        for arm, states in sources.items():
            for length in LENGTHS:
                label = {"study": "back-patching", "arm": arm, "position": name, "length": length}
                yield label, patches(states, own, pairs, position, length)
        label = {"study": "identity", "arm": "itself", "position": name, "length": "raw"}
        yield label, patches(own, own, same_layer_pairs(model.n_layers), position, "raw")


def _cross_prompt(model: Model, case: Case) -> Iterator[Grid]:
    """Labels and variants of the grids that write the bridge's name, as the second-hop prompt holds it."""
    position = bridge_position(model, case.query)
    own = states_at(model, case.query.two_hop, position)
    for arm, source in (("patched", case.query), ("other prompt", case.donor)):
        if source is not None:
            states = states_at(model, source.second_hop, named_bridge_position(model, source))
            for length in LENGTHS:
                label = {"study": "cross-prompt", "arm": arm, "position": "bridge", "length": length}
                yield label, patches(states, own, _cross_pairs(model.n_layers), position, length)


def _cross_pairs(n_layers: int) -> list[Pair]:
    """Across prompts a layer may also be written into itself."""
    return sorted(back_patching_pairs(n_layers) + same_layer_pairs(n_layers))


def _lens(model: Model, case: Case) -> Record:
    """Ranks by layer: the bridge where it is resolved, the answer at the end, and another query's as the control."""
    bridge = question(model, case.query.first_hop, case.query.bridges).first_tokens
    answer = question(model, case.query.two_hop, case.query.answers).first_tokens
    at_bridge = lens_logits(model, case.query.two_hop, bridge_position(model, case.query))
    at_last = lens_logits(model, case.query.two_hop)
    ranks: Record = {"bridge_ranks": lens_ranks(at_bridge, bridge), "answer_ranks": lens_ranks(at_last, answer)}
    if case.donor is not None:
        other_bridge = question(model, case.donor.first_hop, case.donor.bridges).first_tokens
        other_answer = question(model, case.donor.two_hop, case.donor.answers).first_tokens
        ranks["other_bridge_ranks"] = lens_ranks(at_bridge, other_bridge)
        ranks["other_answer_ranks"] = lens_ranks(at_last, other_answer)
    return ranks


def _position(model: Model, query: TwoHopQuery, name: str) -> int:
    """Where to patch, counted from the start."""
    return bridge_position(model, query) if name == "bridge" else len(model.prompt(query.two_hop)) - 1


def _short(value: float) -> float:
    """Log-probabilities to four digits: records are read by people too."""
    return round(float(value), 4)


def plan(model: Model, items: Sequence[TwoHopQuery], config: Config) -> Plan:
    """What a run costs at most: as if every family had as many failures and correct queries as are patched."""
    families = len({query.family for query in items})
    patched = min(len(items), families * (config.max_failures + config.max_correct))
    longest = max(items, key=lambda query: len(query.two_hop))
    case = Case(longest, "failure", donor_of(longest, items))
    variants = [variant for _, grid in _grids(model, case, config) for variant in grid]
    cost = model.cost(longest.two_hop, variants)
    return Plan(
        prompts=len(items),
        counterfactuals=patched * len(variants),
        forward_passes=3 * len(items) + patched * (STATES_PER_CASE + cost.forward_passes),
        memory_bytes=mx.get_active_memory() + min(cost.memory_bytes, default_budget()),
    )


EXPERIMENT = Experiment(
    name="exp9_back_patching",
    config=Config,
    stages=[Stage("screened", queries, screening, batch=16), Stage("patched", cases, measure)],
    tables=TABLES,
    figures=FIGURES,
    headline=headline,
    plan=plan,
    group=lambda query: (query.family, query.split),
)

if __name__ == "__main__":
    run(EXPERIMENT)
