"""Early exit on in-context prompts with wrong labels: does the middle know better than the end? (after Halawi et al.)

Every query of the in-context tasks (the world's, for trained models this project's) stands behind examples with their
own labels, with these labels shuffled, and with labels of other tasks. A layer is right when the answer's first token
is on top of its lens. The layer to exit at is chosen on one half of the queries and scored on the other, against the
last one. Controls: the same with right labels, where exiting early should not pay, and translators one layer too low.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from experiments.data.function_answers import TASKS, read_pairs
from experiments.exp19_lenses.lens_texts import TextConfig, last_states, lenses_of, of_world
from experiments.harness.experiment import Records
from experiments.harness.frame import Frame, of
from experiments.harness.state import Run
from experiments.shared.project_texts import IN_CONTEXT
from experiments.shared.two_hop.tuned import EXCHANGED, LOGIT, TUNED
from mlx_interp.behaviour.answers import question
from mlx_interp.embedded import load_world
from mlx_interp.in_context.demonstrations import (
    ARROW,
    QUESTIONS,
    Corruption,
    Examples,
    FunctionTask,
    Template,
    corrupted,
    in_context,
)
from mlx_interp.lenses.logit import lens_ranks
from mlx_interp.model import Model
from mlx_interp.reporting import Cell, Column, Plot, Record, Series, Table, line_with_band
from mlx_interp.stats import Estimate, difference_interval, mean_or_none, split_halves

STAGE = "early exit"
ARMS: dict[str, Corruption | None] = {"own labels": None, "shuffled labels": "shuffled", "foreign labels": "foreign"}
LENSES = (TUNED, LOGIT, EXCHANGED)


@dataclass(frozen=True)
class ExitConfig(TextConfig):
    """Fields of early exit."""

    n_queries: int = 10
    """Queries of each in-context task."""
    n_shots: int = 4
    """Examples in front of each."""


@dataclass(frozen=True)
class Shots:
    """A query behind examples with each kind of labels."""

    key: str
    task: str
    arms: tuple[tuple[str, Examples], ...]


def tasks_of(model: Model) -> tuple[list[FunctionTask], Template]:
    """The tasks of a model, and how their prompts are written."""
    if of_world(model):
        return [FunctionTask(task.name, task.pairs) for task in load_world().tasks], ARROW
    return [FunctionTask.consistent(name, read_pairs(TASKS / f"{name}.json")) for name in IN_CONTEXT], QUESTIONS


def queries(run: Run[ExitConfig]) -> list[Shots]:
    """Queries of every task, with their examples."""
    config = run.config
    tasks, template = tasks_of(run.model)
    most = min(config.n_queries, config.limit or config.n_queries)
    found = []
    for task in tasks:
        foreign = [label for other in tasks if other.name != task.name for _, label in other.pairs]
        rng = np.random.default_rng(config.seed)
        for number in rng.permutation(len(task.pairs))[:most]:
            query = task.pairs[number]
            made = []
            for arm, how in ARMS.items():
                # The same examples in all arms: drawn by the query's own number.
                draw = np.random.default_rng([config.seed, int(number)])
                given = (task, query, task.pairs, config.n_shots, template, draw)
                made.append((arm, in_context(*given) if how is None else corrupted(*given, how, foreign)))
            found.append(Shots(f"{task.name}: {query[0]}", task.name, tuple(made)))
    return found


class Exited(TypedDict):
    """Whether a lens has the answer on top, by layer, behind examples with one kind of labels."""

    task: str
    lens: str
    labels: str
    right: list[bool]


def measure(run: Run[ExitConfig], shots: Shots) -> Iterator[Exited]:
    """Whether each layer's lens has the answer's first token on top, for every kind of labels."""
    asked = [question(run.model, examples.text, [examples.answer]) for _, examples in shots.arms]
    states = last_states(run.model, [one.prompt.tokens for one in asked])
    for name, lens in lenses_of(run).items():
        logits = lens.logits(run.model, states)
        for row, ((arm, _), one) in enumerate(zip(shots.arms, asked, strict=True)):
            ranks = lens_ranks(logits[:, row], one.first_tokens)
            yield {"task": shots.task, "lens": name, "labels": arm, "right": [rank == 0 for rank in ranks]}


def _share(own: Sequence[Record], row: int, config: TextConfig) -> Estimate | None:
    """Interval over tasks, whose queries are not independent."""
    return Frame(own).mean([float(r["right"][row]) for r in own], unit="task", seed=config.seed)


def best_row(own: Sequence[Record]) -> int:
    """The row with the most right answers; the lowest of several."""
    return int(np.array([r["right"] for r in own]).mean(axis=0).argmax())


def table(records: Records, config: ExitConfig) -> Table | None:
    """Accuracy at the layer chosen on other queries, and at the last."""
    if not of(records, STAGE):
        return None
    rows: list[list[Cell]] = []
    for arm in ARMS:
        for lens in LENSES:
            own = of(records, STAGE, labels=arm, lens=lens)
            chosen = set(split_halves([r["item"] for r in own], config.seed)[0])
            row = best_row([r for r in own if r["item"] in chosen])
            rest = [r for r in own if r["item"] not in chosen]
            early, late = ([float(r["right"][at]) for r in rest] for at in (row, -1))
            units = [r["task"] for r in rest]
            several, last = len(set(units)) > 1, row + 1 == len(own[0]["right"])
            rows.append(
                [
                    arm,
                    lens,
                    len(rest),
                    "embedding" if row == 0 else str(row - 1),
                    mean_or_none(early, unit=units, seed=config.seed),
                    mean_or_none(late, unit=units, seed=config.seed),
                    difference_interval(early, late, unit=units, seed=config.seed) if several and not last else None,
                ]
            )
    return Table(
        "Early exit on in-context prompts",
        [
            *("labels", "lens", "n queries", "layer chosen"),
            *(Column(name, "%") for name in ("right there", "right in the last layer", "gain by exiting early")),
        ],
        rows,
        [
            "The layer is chosen on the other half of the queries; right: the answer's first token is on top. "
            "Intervals over tasks. Foreign: labels of other tasks, drawn at random."
        ],
    )


def figure(records: Records, config: ExitConfig) -> Iterator[Plot]:
    """Share of right answers by layer."""
    if not of(records, STAGE):
        return
    series = []
    for arm in ARMS:
        for lens in (TUNED, LOGIT):
            own = of(records, STAGE, labels=arm, lens=lens)
            places = range(len(own[0]["right"]))
            series.append(Series(f"{arm.split()[0]}, {lens.split()[0]}", [_share(own, row, config) for row in places]))
    yield line_with_band(
        [row - 1 for row in places],
        series,
        name="early_exit",
        title="In-context answers by layer",
        x_label="layer (-1: the embedding)",
        y_label="answer on top, share of queries",
        limits=(0, 1.02),
        caption=f"Share of {len(own)} in-context queries whose answer is on top of a layer's lens, behind "
        f"{config.n_shots} examples with their own labels, with these shuffled, and with labels of other tasks "
        "(foreign); 95 % intervals over tasks.",
    )
