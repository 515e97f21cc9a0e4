"""Back-patching and cross-prompt patching: the grids of one query, each with its controls (Biran et al. 2024, 3e).

All grids of a failure are one sweep, scored by the answer's first token. What cells write as text, and what they do to
correct queries, is measured once it is known which cells are looked at: chosen_cells.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, NotRequired, TypeAlias

import numpy as np

from experiments.exp9_back_patching.patching_config import PatchingConfig
from experiments.harness.state import Run
from experiments.shared.two_hop.queries import Case, Labelled, Place, place
from mlx_interp.behaviour.answers import answer_scores, question
from mlx_interp.behaviour.two_hop import bridge_position, named_bridge_position
from mlx_interp.deferred import mx
from mlx_interp.interventions import Intervention
from mlx_interp.lenses.logit import lens_ranks, logit_lens
from mlx_interp.model import Model
from mlx_interp.patching.back_patching import (
    Pair,
    back_patching_pairs,
    patches,
    random_states,
    same_layer_pairs,
    states_at,
)

StatesAt: TypeAlias = "Callable[[Model, str, int], mx.array]"
"""(model, prompt, position) -> states of all layers there, as `states_at` gives them."""
STAGE = "patched"
LENGTHS: tuple[Literal["raw", "rescaled"], ...] = ("raw", "rescaled")


@dataclass(frozen=True)
class Grid:
    """The variants of one grid, and what it is."""

    study: str
    arm: str
    position: Place
    length: str
    variants: list[list[Intervention]]


class Patched(Labelled):
    """One query's clean answer, its logit lens, or one grid: a value for each pair of source and target layer."""

    arm: str
    """clean, lens, patched, or a control."""
    study: NotRequired[str]
    """back-patching, cross-patching or identity: of a grid."""
    position: NotRequired[str]
    length: NotRequired[str]
    """raw, or rescaled to the length of what is replaced."""
    rank: NotRequired[int | list[int]]
    """Of the answer's first token, 0 on top."""
    log_prob: NotRequired[float | list[float]]
    """Of the answer's first token, nats: of the clean prompt, and of each layer patched into itself."""
    bridge_ranks: NotRequired[list[int]]
    """In the logit lens, by layer."""
    answer_ranks: NotRequired[list[int]]
    other_bridge_ranks: NotRequired[list[int]]
    other_answer_ranks: NotRequired[list[int]]


def measure(run: Run[PatchingConfig], case: Case) -> Iterator[Patched]:
    """One query's clean answer and its logit lens; every grid of a failure with its controls, all as one sweep."""
    asked = question(run.model, case.query.two_hop, case.query.answers)
    grids = grids_of(run, case)
    variants = [variant for grid in grids for variant in grid.variants]
    scores = np.asarray(run.model.sweep(asked.prompt, [[], *variants], metric=answer_scores(asked.first_tokens)))
    yield {**_of(case, "clean"), "rank": int(scores[0, 0]), "log_prob": _short(scores[0, 1])}
    yield _lens(run.model, case)
    row = 1
    for grid in grids:
        cells = scores[row : row + len(grid.variants)]
        row += len(grid.variants)
        record: Patched = {
            **_of(case, grid.arm),
            "study": grid.study,
            "position": grid.position,
            "length": grid.length,
            "rank": cells[:, 0].astype(int).tolist(),
        }
        if grid.study == "identity":
            record["log_prob"] = [_short(x) for x in cells[:, 1]]
        yield record


def _of(case: Case, arm: str) -> Patched:
    return {"family": case.query.family, "bridge": case.query.bridge, "group": case.group, "arm": arm}


def grids_of(run: Run[PatchingConfig], case: Case, states_at: StatesAt = states_at) -> list[Grid]:
    """All grids of one query, for the parts asked for; of a correct one, each layer patched into itself.

    states_at: where states come from; for a plan, `any_states`.
    """
    grids: list[Grid] = []
    if "back_patching" in run.config.parts:
        for name in run.config.positions:
            if case.group == "failure":
                grids += back_patching_grids(run, case, name, states_at)
            grids.append(_identity(run.model, case, name, states_at))
    if "cross_patching" in run.config.parts and case.group == "failure":
        grids += _cross_prompt(run.model, case, states_at)
    return grids


def back_patching_grids(
    run: Run[PatchingConfig], case: Case, name: Place, states_at: StatesAt = states_at
) -> Iterator[Grid]:
    """The grids of one prompt and position: its own states, another query's, and random ones."""
    model = run.model
    pairs = back_patching_pairs(model.n_layers)
    position = place(model, case.query, name)
    own = states_at(model, case.query.two_hop, position)
    sources = {"patched": own, "random": random_states(own, run.config.seed)}
    if case.donor is not None:
        sources["other prompt"] = states_at(model, case.donor.two_hop, place(model, case.donor, name))
    for arm, states in sources.items():
        for length in LENGTHS:
            yield Grid("back-patching", arm, name, length, patches(states, own, pairs, position, length))


def _identity(model: Model, case: Case, name: Place, states_at: StatesAt) -> Grid:
    position = place(model, case.query, name)
    own = states_at(model, case.query.two_hop, position)
    same = patches(own, own, same_layer_pairs(model.n_layers), position, "raw")
    return Grid("identity", "itself", name, "raw", same)


def _cross_prompt(model: Model, case: Case, states_at: StatesAt) -> Iterator[Grid]:
    """The grids that write the bridge's name, as the second-hop prompt holds it."""
    position = bridge_position(model, case.query)
    own = states_at(model, case.query.two_hop, position)
    for arm, source in (("patched", case.query), ("other prompt", case.donor)):
        if source is not None:
            states = states_at(model, source.second_hop, named_bridge_position(model, source))
            for length in LENGTHS:
                variants = patches(states, own, cross_pairs(model.n_layers), position, length)
                yield Grid("cross-prompt", arm, "bridge", length, variants)


def any_states(model: Model, prompt: str, position: int) -> mx.array:
    """For a plan, in place of states: what a patch costs depends on its place alone."""
    return mx.ones((model.n_layers + 1, model.d_model))


def cross_pairs(n_layers: int) -> list[Pair]:
    """Across prompts a layer may also be written into itself."""
    return sorted(back_patching_pairs(n_layers) + same_layer_pairs(n_layers))


def _lens(model: Model, case: Case) -> Patched:
    """Ranks by layer: the bridge where it is resolved, the answer at the end, and another query's as the control."""
    bridge = question(model, case.query.first_hop, case.query.bridges).first_tokens
    answer = question(model, case.query.two_hop, case.query.answers).first_tokens
    at_bridge = logit_lens(model, case.query.two_hop, bridge_position(model, case.query))
    at_last = logit_lens(model, case.query.two_hop)
    ranks: Patched = {
        **_of(case, "lens"),
        "bridge_ranks": lens_ranks(at_bridge, bridge),
        "answer_ranks": lens_ranks(at_last, answer),
    }
    if case.donor is not None:
        other_bridge = question(model, case.donor.first_hop, case.donor.bridges).first_tokens
        other_answer = question(model, case.donor.two_hop, case.donor.answers).first_tokens
        ranks["other_bridge_ranks"] = lens_ranks(at_bridge, other_bridge)
        ranks["other_answer_ranks"] = lens_ranks(at_last, other_answer)
    return ranks


def _short(value: float) -> float:
    """Log-probabilities to four digits: records are read by people too."""
    return round(float(value), 4)
