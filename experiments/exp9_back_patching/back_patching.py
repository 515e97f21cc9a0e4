"""Back-patching and cross-prompt patching: the grids of one query, each with its controls (Biran et al. 2024, 3e).

Every grid is one sweep, scored by the answer's first token. Raw grids are also decoded: ten tokens in every cell, as
one batch, and the paper's criterion is that they contain the answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from experiments.exp9_back_patching.patching_config import PatchingConfig
from experiments.harness.state import Run
from experiments.shared.two_hop.queries import Case, Labelled, Place, place
from mlx_interp.behaviour.answers import answer_scores, contains, mentions, question
from mlx_interp.behaviour.two_hop import bridge_position, named_bridge_position
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
from mlx_interp.reporting import Record

STAGE = "patched"
LENGTHS: tuple[Literal["raw", "rescaled"], ...] = ("raw", "rescaled")
DECODED = ("patched", "other prompt")
"""Arms whose raw grids are decoded as well."""


@dataclass(frozen=True)
class Grid:
    """The variants of one grid, and what it is."""

    study: str
    arm: str
    position: Place
    length: str
    variants: list[list[Intervention]]

    @property
    def label(self) -> Record:
        return {"study": self.study, "arm": self.arm, "position": self.position, "length": self.length}

    @property
    def decoded(self) -> bool:
        return self.arm in DECODED and self.length == "raw"


class Patched(Labelled, total=False):
    """One query's clean answer, its logit lens, or one grid: a value for each pair of source and target layer."""

    arm: str
    """clean, lens, patched, or a control."""
    study: str
    """back_patching, cross_patching or identity."""
    position: str
    length: str
    """raw, or rescaled to the length of what is replaced."""
    rank: int | list[int]
    """Of the answer's first token, 0 on top."""
    log_prob: float | list[float]
    mentioned: list[bool]
    """Whether ten greedy tokens name the answer."""
    contained: list[bool]
    bridge_ranks: list[int]
    """In the logit lens, by layer."""
    answer_ranks: list[int]
    other_bridge_ranks: list[int]
    other_answer_ranks: list[int]


def measure(run: Run[PatchingConfig], case: Case) -> Iterator[Record]:
    """One query's clean answer, its logit lens, and every grid with its controls, all grids as one sweep."""
    asked = question(run.model, case.query.two_hop, case.query.answers)
    grids = grids_of(run, case)
    variants = [variant for grid in grids for variant in grid.variants]
    scores = np.asarray(run.model.sweep(asked.prompt, [[], *variants], metric=answer_scores(asked.first_tokens)))
    yield {**case.labels, "arm": "clean", "rank": int(scores[0, 0]), "log_prob": _short(scores[0, 1])}
    yield {**case.labels, "arm": "lens", **_lens(run.model, case)}
    texts = _texts(run, case, grids)
    row = 1
    for grid in grids:
        cells = scores[row : row + len(grid.variants)]
        row += len(grid.variants)
        record = {**case.labels, **grid.label, "rank": cells[:, 0].astype(int).tolist()}
        if grid.study == "identity":
            record["log_prob"] = [_short(x) for x in cells[:, 1]]
        if grid.decoded:
            written = [next(texts) for _ in grid.variants]
            record["mentioned"] = [mentions(text, case.query.answers) for text in written]
            record["contained"] = [contains(text, case.query.answers) for text in written]
        yield record


def grids_of(run: Run[PatchingConfig], case: Case) -> list[Grid]:
    """All grids of one query, for the parts asked for."""
    grids: list[Grid] = []
    if "back_patching" in run.config.parts:
        grids += _back_patching(run, case)
    if "cross_patching" in run.config.parts:
        grids += _cross_prompt(run.model, case)
    return grids


def _back_patching(run: Run[PatchingConfig], case: Case) -> Iterator[Grid]:
    """The grids of one prompt: itself, another query's states, random ones, and the identity."""
    model = run.model
    pairs = back_patching_pairs(model.n_layers)
    for name in run.config.positions:
        position = place(model, case.query, name)
        own = states_at(model, case.query.two_hop, position)
        sources = {"patched": own, "random": random_states(own, run.config.seed)}
        if case.donor is not None:
            sources["other prompt"] = states_at(model, case.donor.two_hop, place(model, case.donor, name))
        for arm, states in sources.items():
            for length in LENGTHS:
                yield Grid("back-patching", arm, name, length, patches(states, own, pairs, position, length))
        same = patches(own, own, same_layer_pairs(model.n_layers), position, "raw")
        yield Grid("identity", "itself", name, "raw", same)


def _cross_prompt(model: Model, case: Case) -> Iterator[Grid]:
    """The grids that write the bridge's name, as the second-hop prompt holds it."""
    position = bridge_position(model, case.query)
    own = states_at(model, case.query.two_hop, position)
    for arm, source in (("patched", case.query), ("other prompt", case.donor)):
        if source is not None:
            states = states_at(model, source.second_hop, named_bridge_position(model, source))
            for length in LENGTHS:
                variants = patches(states, own, cross_pairs(model.n_layers), position, length)
                yield Grid("cross-prompt", arm, "bridge", length, variants)


def cross_pairs(n_layers: int) -> list[Pair]:
    """Across prompts a layer may also be written into itself."""
    return sorted(back_patching_pairs(n_layers) + same_layer_pairs(n_layers))


def _texts(run: Run[PatchingConfig], case: Case, grids: list[Grid]) -> Iterator[str]:
    """What is written in every cell of the grids that are decoded, all of them as one batch."""
    variants = [variant for grid in grids if grid.decoded for variant in grid.variants]
    if not variants:
        return iter(())
    written = run.model.sweep_generate(case.query.two_hop, variants, max_tokens=run.config.new_tokens)
    return (completion.text for completion in written)


def _lens(model: Model, case: Case) -> Record:
    """Ranks by layer: the bridge where it is resolved, the answer at the end, and another query's as the control."""
    bridge = question(model, case.query.first_hop, case.query.bridges).first_tokens
    answer = question(model, case.query.two_hop, case.query.answers).first_tokens
    at_bridge = logit_lens(model, case.query.two_hop, bridge_position(model, case.query))
    at_last = logit_lens(model, case.query.two_hop)
    ranks: Record = {"bridge_ranks": lens_ranks(at_bridge, bridge), "answer_ranks": lens_ranks(at_last, answer)}
    if case.donor is not None:
        other_bridge = question(model, case.donor.first_hop, case.donor.bridges).first_tokens
        other_answer = question(model, case.donor.two_hop, case.donor.answers).first_tokens
        ranks["other_bridge_ranks"] = lens_ranks(at_bridge, other_bridge)
        ranks["other_answer_ranks"] = lens_ranks(at_last, other_answer)
    return ranks


def _short(value: float) -> float:
    """Log-probabilities to four digits: records are read by people too."""
    return round(float(value), 4)
