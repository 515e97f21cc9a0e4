"""Cells that are looked at closely: what they write as text, and what the failures' best ones do to correct queries.

Failures: ten tokens are decoded in the cells that the other half chose (over all families, and in the query's own), and
in the diagonal band, whose target lies one layer below the source; in every cell with --decode all. Correct queries:
the best cell of all failures, for each position and length.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NotRequired

import numpy as np

from experiments.exp9_back_patching.back_patching import Grid, back_patching_grids
from experiments.exp9_back_patching.grids import grids, settings
from experiments.exp9_back_patching.looked_at import patched_cases
from experiments.exp9_back_patching.patching_config import PatchingConfig
from experiments.harness.experiment import Records
from experiments.harness.state import Run
from experiments.shared.two_hop.queries import Case, Labelled
from experiments.shared.two_hop.summaries import ALL
from mlx_interp.behaviour.answers import answer_scores, contains, mentions, question
from mlx_interp.patching.back_patching import back_patching_pairs
from mlx_interp.stats.held_out import held_out_choice

STAGE = "chosen_cells"
DECODED = ("patched", "other prompt")
"""Arms of failures whose cells are decoded."""
Setting = tuple[str, str]
"""(position, length)."""


@dataclass(frozen=True)
class Chosen:
    """A query, and the cells of each grid that are looked at, as numbers of `back_patching_pairs`."""

    case: Case
    cells: tuple[tuple[Setting, tuple[int, ...]], ...]

    @property
    def key(self) -> str:
        return self.case.key


class Close(Labelled):
    """Some cells of one grid of one query."""

    arm: str
    position: str
    length: str
    cells: list[int]
    """Numbers of the pairs of source and target layer, target by target from the embedding up."""
    rank: NotRequired[list[int]]
    """Correct queries: of the answer's first token in each cell, 0 on top."""
    mentioned: NotRequired[list[bool]]
    """Failures, whose ranks the grids have: whether the greedy text names the answer, as whole words."""
    contained: NotRequired[list[bool]]
    """The same, inside words too."""


def chosen(run: Run[PatchingConfig], earlier: Records) -> list[Chosen]:
    """Failures with the cells that are decoded, correct queries with the failures' best ones."""
    if "back_patching" not in run.config.parts:
        return []
    places = settings(earlier, "back-patching")
    best = {setting: _best(earlier, setting) for setting in places}
    text = {setting: _text_cells(run, earlier, setting) for setting in places if setting[1] == "raw"}
    found = []
    for case in patched_cases(run, earlier):
        if case.group == "failure":
            cells = {setting: of_case.get(case.key, ()) for setting, of_case in text.items()}
        else:
            cells = {setting: (cell,) for setting, cell in best.items() if cell is not None}
        if any(cells.values()):
            found.append(Chosen(case, tuple((setting, some) for setting, some in cells.items() if some)))
    return found


def measure(run: Run[PatchingConfig], item: Chosen) -> Iterator[Close]:
    """Texts of a failure's cells, ranks of a correct query's."""
    case, cells = item.case, dict(item.cells)
    picked: list[tuple[Grid, tuple[int, ...]]] = []
    for name in run.config.positions:
        for grid in back_patching_grids(run, case, name):
            some = cells.get((name, grid.length), ())
            if some and (case.group == "correct" or grid.arm in DECODED):
                picked.append((grid, some))
    if case.group == "failure":
        texts = iter(_written(run, case, picked))
        for grid, some in picked:
            written = [next(texts) for _ in some]
            yield {
                **_of(case, grid, some),
                "mentioned": [mentions(text, case.query.answers) for text in written],
                "contained": [contains(text, case.query.answers) for text in written],
            }
        return
    asked = question(run.model, case.query.two_hop, case.query.answers)
    variants = [grid.variants[cell] for grid, some in picked for cell in some]
    scores = np.asarray(run.model.sweep(asked.prompt, variants, metric=answer_scores(asked.first_tokens)))
    ranks = iter(scores[:, 0].astype(int).tolist())
    for grid, some in picked:
        yield {**_of(case, grid, some), "rank": [next(ranks) for _ in some]}


def _of(case: Case, grid: Grid, cells: Sequence[int]) -> Close:
    return {
        "family": case.query.family,
        "bridge": case.query.bridge,
        "group": case.group,
        "arm": grid.arm,
        "position": grid.position,
        "length": grid.length,
        "cells": list(cells),
    }


def _written(run: Run[PatchingConfig], case: Case, picked: list[tuple[Grid, tuple[int, ...]]]) -> list[str]:
    """What is written in every cell, all as one batch."""
    variants = [grid.variants[cell] for grid, some in picked for cell in some]
    written = run.model.sweep_generate(case.query.two_hop, variants, max_tokens=run.config.new_tokens)
    return [completion.text for completion in written]


def _best(records: Records, setting: Setting) -> int | None:
    """The cell that fixes most failures; None where there are too few to choose one."""
    position, length = setting
    failures = grids(records, study="back-patching", arm="patched", position=position, length=length)
    if len(failures.cells) < 2:
        return None
    return int(np.argmax(np.mean(list(failures.cells.values()), axis=0)))


def _text_cells(run: Run[PatchingConfig], records: Records, setting: Setting) -> dict[str, tuple[int, ...]]:
    """Cells to decode, by failure."""
    position, length = setting
    pairs = back_patching_pairs(run.model.n_layers)
    everywhere = range(len(pairs)) if run.config.decode == "all" else []
    band = [number for number, (source, target) in enumerate(pairs) if source - target == 1]
    found: dict[str, set[int]] = {}
    families = list(dict.fromkeys(r["family"] for r in records if r.get("study") == "back-patching"))
    for family in [ALL, *families]:
        mine = grids(records, family, study="back-patching", arm="patched", position=position, length=length)
        for key in mine.cells:
            found.setdefault(key, {*band, *everywhere})
        if len(mine.cells) >= 2:
            for key, cell in held_out_choice(mine.cells, run.config.seed).choice.items():
                found[key].add(cell)
    return {key: tuple(sorted(cells)) for key, cells in found.items()}
