"""Tasks of a run: those of the synthetic world on embedded models, JSON files of pairs on others.

A file is a list of {"input": ..., "output": ...}, as published with Todd et al. (2024): theirs load as they are. Pairs
are split in halves: heads and means come from one, every figure from the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np

from experiments.data.aliases import read_aliases
from experiments.data.function_answers import TASKS as FILES
from experiments.data.function_answers import accepted_outputs, read_pairs
from experiments.harness.experiment import ExperimentConfig
from experiments.harness.state import Run, of_run
from mlx_interp.behaviour.answers import Question, question
from mlx_interp.embedded import load_world
from mlx_interp.errors import DataError, nearest
from mlx_interp.in_context.demonstrations import (
    ARROW,
    Corruption,
    Examples,
    FunctionTask,
    Pair,
    Template,
    corrupted,
    in_context,
)
from mlx_interp.in_context.function_vectors import HeadMeans, head_means
from mlx_interp.loading.names import EMBEDDED
from mlx_interp.stats import stable_draw

ONE_TOKEN = 0.7
"""What a variant costs that changes the last token at some layer, as a share of that token's part of a pass: half of
the layers on average, and the unembedding."""
Kind = Literal["examples", "corrupted"]


@dataclass(frozen=True)
class TaskConfig(ExperimentConfig):
    """Fields of every study of function vectors."""

    tasks: tuple[str, ...] = ()
    """Only these tasks; all that there are if left out."""
    data: str = "auto"
    """auto, embedded (the synthetic world), or a folder of JSON files with pairs."""
    shots: int = 0
    """Examples of a prompt; 0: 10, and 4 on embedded models, which were trained with so many."""
    corruption: Literal["auto", "shuffled", "foreign"] = "auto"
    """Labels of corrupted prompts: shuffled among the examples (the paper's way), or foreign: of other tasks. auto:
    foreign on embedded models, which know a task by its labels alone, so that shuffling them changes nothing."""
    n_means: int = 40
    """Prompts of each task over which head outputs are averaged."""
    n_effects: int = 12
    """Corrupted prompts of each task for the indirect effects."""
    n_test: int = 12
    """Held-out queries of each task."""


@dataclass(frozen=True)
class Query:
    """One query of one task, by its number in the task's half."""

    key: str
    task: str
    number: int


def is_embedded(run: Run[TaskConfig]) -> bool:
    return run.config.data == "embedded" or (run.config.data == "auto" and run.model.name in EMBEDDED)


def template(run: Run[TaskConfig]) -> Template:
    return ARROW if is_embedded(run) else Template()


def n_shots(run: Run[TaskConfig]) -> int:
    return run.config.shots or (4 if is_embedded(run) else 10)


def how(run: Run[TaskConfig]) -> Corruption:
    if run.config.corruption == "auto":
        return "foreign" if is_embedded(run) else "shuffled"
    return run.config.corruption


@lru_cache(maxsize=8)
def _all(embedded: bool, data: str) -> dict[str, FunctionTask]:
    if embedded:
        return {task.name: FunctionTask(task.name, task.pairs) for task in load_world().tasks}
    folder = FILES if data == "auto" else Path(data)
    files = sorted(folder.glob("*.json"))
    if not files:
        raise DataError(f"{folder}: holds no task; give a folder of JSON files with --data, or an embedded model")
    return {path.stem: read_task(path) for path in files}


def read_task(path: Path) -> FunctionTask:
    """A task from a JSON list of {"input", "output"}. Raises DataError, naming file and pair, for what is not one."""
    return FunctionTask.consistent(path.stem, read_pairs(path))


def tasks(run: Run[TaskConfig]) -> dict[str, FunctionTask]:
    """The tasks of a run. Raises DataError for one that is not there, and for fewer pairs than examples."""
    config = run.config
    found = _all(is_embedded(run), config.data)
    for name in config.tasks:
        if name not in found:
            raise DataError(f"no task {name!r}: {nearest(name, found)}there are {', '.join(found)}")
    chosen = {name: task for name, task in found.items() if not config.tasks or name in config.tasks}
    needed = 2 * (n_shots(run) + 1)
    for name, task in chosen.items():
        if len(task.pairs) < needed:
            raise DataError(
                f"task {name!r} has {len(task.pairs)} pairs; halves with {n_shots(run)} examples and a query "
                f"need {needed}: give more pairs, or fewer --shots"
            )
    return chosen


def halves(run: Run[TaskConfig], name: str) -> tuple[FunctionTask, FunctionTask]:
    """Pairs for heads and means, and pairs for figures."""
    return tasks(run)[name].split(run.config.seed)


def queries(run: Run[TaskConfig], half: int, most: int) -> list[Query]:
    """Queries of every task in one half, at most so many each."""
    return [
        Query(f"{name}: {halves(run, name)[half].pairs[number][0]}", name, number)
        for name in tasks(run)
        for number in range(min(most, len(halves(run, name)[half].pairs)))
    ]


def written(run: Run[TaskConfig], query: Query, half: int) -> dict[str, Examples]:
    """A query with examples, with corrupted examples, and alone; the examples are of the first half always."""
    of = halves(run, query.task)
    pair = of[half].pairs[query.number]
    rng = np.random.default_rng(stable_draw(run.config.seed, (query.key, half), 2**31))
    shape, shots = template(run), n_shots(run)
    return {
        "examples": in_context(of[0], pair, of[0].pairs, shots, shape, rng),
        "corrupted": _corrupted(run, of[0], pair, rng),
        "no examples": Examples(query.task, shape.prompt([], pair[0]), *pair),
    }


def _corrupted(run: Run[TaskConfig], task: FunctionTask, pair: Pair, rng: np.random.Generator) -> Examples:
    every = _all(is_embedded(run), run.config.data)  # labels of tasks that are left out serve as well
    foreign = [y for name, other in every.items() if name != task.name for _, y in other.pairs]
    shape, shots = template(run), n_shots(run)
    return corrupted(task, pair, task.pairs, shots, shape, rng, how(run), foreign)


def prompts(run: Run[TaskConfig], query: Query, half: int) -> dict[str, Question]:
    """The same, tokenised, with the answer's tokens."""
    made = written(run, query, half)
    return {name: asked(run, one) for name, one in made.items()}


def asked(run: Run[TaskConfig], made: Examples) -> Question:
    """A prompt, tokenised, with its answer and what people say for it; words of the synthetic world have one name."""
    names = [] if is_embedded(run) else accepted_outputs(read_aliases(), made.task, (made.query, made.answer))
    return question(run.model, made.text, [made.answer, *names])


def mean_prompts(run: Run[TaskConfig], name: str, kind: Kind = "examples") -> list[Examples]:
    """Prompts over which a task's means are taken: of the first half's pairs."""
    task = halves(run, name)[0]
    rng = np.random.default_rng(stable_draw(run.config.seed, name, 2**31))
    shape, shots = template(run), n_shots(run)
    chosen = [task.pairs[i % len(task.pairs)] for i in range(run.config.n_means)]
    if kind == "corrupted":
        return [_corrupted(run, task, pair, rng) for pair in chosen]
    return [in_context(task, pair, task.pairs, shots, shape, rng) for pair in chosen]


@of_run(128)
def means(run: Run[TaskConfig], name: str, kind: Kind = "examples") -> HeadMeans:
    """Mean head outputs of a task, over in-context prompts of the first half's pairs; or over corrupted ones."""
    return head_means(run.model, [run.model.prompt(one.text) for one in mean_prompts(run, name, kind)])


def other_task(names: Sequence[str], name: str) -> str:
    """The next task in the list: whose vector is the control."""
    return names[(names.index(name) + 1) % len(names)]
