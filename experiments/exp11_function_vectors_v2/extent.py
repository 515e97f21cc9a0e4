"""What a function vector takes: how many heads, whether they are needed, how many examples the model itself needs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypedDict

import numpy as np

from experiments.harness.experiment import Records
from experiments.harness.schema import InBatch
from experiments.harness.state import Run
from experiments.shared.in_context import tasks as of_tasks
from experiments.shared.in_context.mediation import RANDOM, VECTOR, Item, MediationConfig, solved_items, task_vector
from experiments.shared.in_context.tasks import Query, means, prompts
from mlx_interp.behaviour.answers import answer_scores, verdicts
from mlx_interp.deferred import mx
from mlx_interp.in_context.demonstrations import in_context
from mlx_interp.in_context.function_vectors import Head, random_heads
from mlx_interp.interventions import Add, Intervention, Patch
from mlx_interp.stats import stable_draw

COUNTS, NEEDED, SHOTS = "heads", "necessity", "shots"
COUNTED = (1, 2, 4, 6, 8, 12, 16, 24, 32, 40)
SHOT_COUNTS = (0, 1, 2, 3, 5, 10)


def late_items(run: Run[MediationConfig], earlier: Records) -> list[Item]:
    return solved_items(run, earlier)


class Counted(TypedDict):
    """A bare query with the vector of some heads added."""

    task: str
    arm: str
    k: int
    """Number of heads."""
    right: bool


def measure_counts(run: Run[MediationConfig], item: Item) -> Iterator[Counted]:
    """The function vector of 1 to 40 heads, at the chosen layer and strength, on the bare query."""
    asked = prompts(run, item.query, 1)["no examples"]
    rng = np.random.default_rng(stable_draw(run.config.seed, item.task, 2**31))
    shape = (run.model.n_layers, run.model.n_heads)
    cells: list[tuple[str, int, mx.array]] = []
    for k in COUNTED:
        if k <= len(item.ranked) // 2:
            heads, others = item.ranked[:k], tuple(random_heads(shape, k, item.ranked[:k], rng))
            for arm, some in ((VECTOR, heads), (RANDOM, others)):
                cells.append((arm, k, task_vector(run, item.task, some, item.chosen.centred)))
    site = f"resid_post.{item.chosen.layer}"
    variants: list[list[Intervention]] = [[Add(site, vector, item.chosen.strength, -1)] for _, _, vector in cells]
    scores = np.asarray(run.model.sweep(asked.prompt, variants, metric=answer_scores(asked.first_tokens)))
    for (arm, k, _), score in zip(cells, scores, strict=True):
        yield {"task": item.task, "arm": arm, "k": k, "right": int(score[0]) == 0}


class Needed(TypedDict):
    """A query with examples, some heads set to their mean over tasks."""

    task: str
    arm: str
    """nothing, chosen heads or random heads."""
    k: int
    """Number of heads."""
    right: bool
    log_prob: float
    """Of the answer's first token, nats."""


def measure_needed(run: Run[MediationConfig], item: Item) -> Iterator[Needed]:
    """The heads set to their mean over tasks, on the prompt with examples; and as many others."""
    asked = prompts(run, item.query, 1)["examples"]
    names = list(of_tasks.tasks(run))
    average = mx.mean(mx.stack([means(run, name).z for name in names]), axis=0)
    rng = np.random.default_rng(stable_draw(run.config.seed, item.key, 2**31))
    cells: list[tuple[str, int, Sequence[Head]]] = [("nothing", 0, ())]
    for k in sorted({item.paper.k, 2 * item.paper.k, item.chosen.k}):
        cells.append(("chosen heads", k, item.ranked[:k]))
        cells.append(("random heads", k, random_heads(average.shape, k, item.ranked[:k], rng)))
    variants: list[list[Intervention]] = [
        [Patch(f"z.{layer}", average[layer, head], positions=-1, heads=head) for layer, head in heads]
        for _, _, heads in cells
    ]
    scores = np.asarray(run.model.sweep(asked.prompt, variants, metric=answer_scores(asked.first_tokens)))
    for (arm, k, _), score in zip(cells, scores, strict=True):
        yield {"task": item.task, "arm": arm, "k": k, "right": int(score[0]) == 0, "log_prob": float(score[1])}


class Shot(InBatch):
    """A query behind some examples."""

    task: str
    shots: int
    """Number of examples."""
    right: bool


def measure_shots(run: Run[MediationConfig], batch: Sequence[Query]) -> Iterator[Shot]:
    """Accuracy by the number of examples, no intervention."""
    shape = of_tasks.template(run)
    cells = [(query, k) for query in batch for k in SHOT_COUNTS if k <= _most_shots(run, query)]
    asked = []
    for query, k in cells:
        one, two = of_tasks.halves(run, query.task)
        rng = np.random.default_rng(stable_draw(run.config.seed, (query.key, k), 2**31))
        made = in_context(one, two.pairs[query.number], one.pairs, k, shape, rng)
        asked.append(of_tasks.asked(run, made))
    for (query, k), found in zip(cells, verdicts(run.model, asked), strict=True):
        yield {"item": query.key, "task": query.task, "shots": k, "right": found.first_token}


def _most_shots(run: Run[MediationConfig], query: Query) -> int:
    return len(of_tasks.halves(run, query.task)[0].pairs)
