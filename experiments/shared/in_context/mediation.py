"""Effects of heads, how many of them to take and where to add their sum: chosen on one half of the pairs, then measured
on the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from experiments.harness.experiment import Records
from experiments.harness.frame import of
from experiments.harness.schema import InBatch
from experiments.harness.state import Run, of_run
from experiments.shared.in_context import tasks as of_tasks
from experiments.shared.in_context.screening import base_items, solved
from experiments.shared.in_context.tasks import Query, TaskConfig, means, prompts
from mlx_interp.behaviour.answers import answer_scores, verdicts
from mlx_interp.deferred import mx
from mlx_interp.in_context.demonstrations import (
    first_tokens_shared,
    most_frequent_answer,
    separators,
)
from mlx_interp.in_context.function_vectors import Head, indirect_effects_of, summed, top_heads
from mlx_interp.interventions import Add, Intervention

DATA, EFFECTS, CHOICE, ADDED, ANSWERS = "data", "effects", "choice", "added", "answers"
VECTOR, PAPER, RANDOM, NOISE, OTHER, LAYER = (
    "function vector",
    "paper's setting",
    "random heads",
    "random vector",
    "other task",
    "layer mean",
)
ARMS = (VECTOR, PAPER, RANDOM, NOISE, OTHER, LAYER)
PLAIN, OWN, OTHERS, SHAM = "plain sum", "own heads", "heads of other tasks", "from corrupted prompts"
VARIANTS = (*ARMS, PLAIN, OWN, OTHERS, SHAM)


@dataclass(frozen=True)
class MediationConfig(TaskConfig):
    """Fields of the head-level study."""

    n_heads: int = 0
    """Heads of the paper's setting; 0: 10 of 448 as for GPT-J, and at least 6."""
    strengths: tuple[float, ...] = (1.0, 1.5, 2.0, 3.0)
    """Multiples of the vector among which the first half of the pairs chooses; 1 is the paper's."""


@dataclass(frozen=True)
class Setting:
    """What a function vector is added with: how many heads, at the output of which layer, how many times."""

    k: int
    layer: int
    strength: float
    centred: bool = False
    """Without what the vectors of all tasks have in common: their mean is taken away. The paper's are not."""

    def __str__(self) -> str:
        form = "sum of heads minus its mean over tasks" if self.centred else "plain sum of heads"
        return f"{form}, {self.k} heads, layer {self.layer}, strength {self.strength:g}"


NO_SETTING = Setting(1, 0, 1.0)


@dataclass(frozen=True)
class Item:
    """A query, or a task, with what earlier stages decided about it."""

    key: str
    task: str
    number: int = 0
    ranked: tuple[Head, ...] = ()
    """All heads, the largest effect over tasks first."""
    own: tuple[Head, ...] = ()
    """The same by the effects of this task alone."""
    others: tuple[Head, ...] = ()
    """The same by the effects of all tasks but this one."""
    chosen: Setting = NO_SETTING
    paper: Setting = NO_SETTING
    plain: Setting = NO_SETTING
    """The best one without centring."""

    @property
    def settings(self) -> tuple[Setting, Setting, Setting]:
        return self.chosen, self.paper, self.plain

    @property
    def query(self) -> Query:
        return Query(self.key, self.task, self.number)


def n_heads(run: Run[MediationConfig]) -> int:
    return run.config.n_heads or max(6, round(10 / 448 * run.model.n_layers * run.model.n_heads))


def grid(run: Run[MediationConfig]) -> tuple[list[int], list[int], list[float]]:
    """Numbers of heads, layers and strengths to choose from: at most half of the heads, so that as many others are left
    for the control, and the lower two thirds of the layers. The paper's number and strength come first."""
    k, every = n_heads(run), run.model.n_layers * run.model.n_heads
    counts = [k, *sorted({n for n in (2 * k, every // 4, every // 2) if k < n <= every // 2})]
    return (
        counts,
        list(range(-(-2 * run.model.n_layers // 3))),
        sorted({1.0, *run.config.strengths}, key=lambda s: (s != 1, s)),
    )


def data_items(run: Run[MediationConfig], earlier: Records) -> list[Item]:
    return [Item(name, name) for name in of_tasks.tasks(run)]


class Sized(TypedDict):
    """What a reader of a task's figures should know."""

    task: str
    pairs: int
    conflicts: int
    """Inputs that had another answer as well, which is left out."""
    repeats: int
    """Pairs that were there twice."""
    commonest: float
    """Share of the pairs that have the most frequent answer."""
    leak: float
    """Share of the second half's pairs whose answer is one of the first half's too."""
    shared: float
    """Share of the answers whose first token is another answer's as well."""
    separator: list[str]
    """The tokens between examples."""
    warning: str


def measure_data(run: Run[MediationConfig], item: Item) -> Iterator[Sized]:
    """What a reader of a task's figures should know: sizes, contradictions, answers alike, the separator's tokens."""
    task = of_tasks.tasks(run)[item.task]
    shape = of_tasks.template(run)
    one, two = of_tasks.halves(run, item.task)
    seen = {y for _, y in one.pairs}
    cut = separators(run.model, task, shape)
    yield {
        "task": item.task,
        "pairs": len(task.pairs),
        "conflicts": task.conflicts,
        "repeats": task.repeats,
        "commonest": most_frequent_answer(task),
        "leak": sum(y in seen for _, y in two.pairs) / len(two.pairs),
        "shared": first_tokens_shared(run.model, task, shape),
        "separator": list(cut.tokens),
        "warning": cut.warning,
    }


def effect_items(run: Run[MediationConfig], earlier: Records) -> list[Query]:
    return of_tasks.queries(run, 0, run.config.n_effects)


class Mediated(InBatch):
    """Indirect effects of all heads on one corrupted prompt."""

    task: str
    effects: list[list[float]]
    """By layer and head: how much the answer's probability gains from the head's mean."""


def measure_effects(run: Run[MediationConfig], batch: Sequence[Query]) -> Iterator[Mediated]:
    """Indirect effect of every head on corrupted prompts, those of a task in one sweep."""
    for task in dict.fromkeys(query.task for query in batch):
        queries = [query for query in batch if query.task == task]
        asked = [prompts(run, query, 0)["corrupted"] for query in queries]
        for query, found in zip(queries, indirect_effects_of(run.model, asked, means(run, task)), strict=True):
            yield {"item": query.key, "task": task, "effects": found.round(6).tolist()}


def average_effects(records: Records, only: str | None = None, without: str | None = None) -> np.ndarray:
    """(n_layers, n_heads): over the prompts of a task, or over tasks, which weigh equally."""
    own = [r for r in of(records, EFFECTS) if only in (None, r["task"]) and r["task"] != without]
    names = list(dict.fromkeys(r["task"] for r in own))
    by_task = [np.mean([r["effects"] for r in own if r["task"] == name], axis=0) for name in names]
    return np.asarray(np.mean(by_task, axis=0))


def ranked(records: Records, only: str | None = None, without: str | None = None) -> tuple[Head, ...]:
    effects = average_effects(records, only, without)
    return tuple(top_heads(effects, effects.size))


def choice_items(run: Run[MediationConfig], earlier: Records) -> list[Item]:
    order = ranked(earlier)
    queries = of_tasks.queries(run, 0, run.config.n_test)
    return [Item(query.key, query.task, query.number, order) for query in queries]


class Chosen(TypedDict):
    """Right or wrong in every cell of the grid, for one query of the first half."""

    task: str
    heads: list[int]
    """Numbers of heads."""
    layers: list[int]
    strengths: list[float]
    right: list[list[list[list[int]]]]
    """1 or 0 by form (plain sum, centred), number of heads, layer and strength."""


def measure_choice(run: Run[MediationConfig], item: Item) -> Iterator[Chosen]:
    """Right or wrong in every cell of the grid, for a query of the first half that is right with examples."""
    asked = prompts(run, item.query, 0)
    if not verdicts(run.model, [asked["examples"]])[0].first_token:
        return
    counts, layers, strengths = grid(run)
    held = [task_vector(run, item.task, item.ranked[:k], centred) for centred in (False, True) for k in counts]
    variants: list[list[Intervention]] = [
        [Add(f"resid_post.{layer}", vector, s, -1)] for vector in held for layer in layers for s in strengths
    ]
    bare = asked["no examples"]
    scores = np.asarray(run.model.sweep(bare.prompt, variants, metric=answer_scores(bare.first_tokens)))
    right = (scores[:, 0] == 0).astype(int).reshape(2, len(counts), len(layers), len(strengths))
    yield {"task": item.task, "heads": counts, "layers": layers, "strengths": strengths, "right": right.tolist()}


def settings(records: Records) -> tuple[Setting, Setting, Setting]:
    """What is most often right on the first half's queries, ties to the plain sum, fewer heads and lower layers; the
    best layer for the paper's form, number of heads and strength; and the best setting of the plain sum."""
    own = of(records, CHOICE)
    if not own:
        return NO_SETTING, NO_SETTING, NO_SETTING
    rates = np.mean([r["right"] for r in own], axis=0).round(9)  # (form, heads, layer, strength)
    head = own[0]

    def best(allowed: np.ndarray) -> Setting:
        form, k, layer, strength = np.unravel_index(int(np.argmax(allowed)), allowed.shape)
        return Setting(head["heads"][k], head["layers"][layer], head["strengths"][strength], bool(form))

    return best(rates), best(rates[:1, :1, :, :1]), best(rates[:1])


def solved_items(run: Run[MediationConfig], earlier: Records) -> list[Item]:
    """Held-out queries that are right with examples, with heads and settings."""
    numbers = {query.key: query.number for query in base_items(run, earlier)}
    known = {item.task: item for item in task_items(run, earlier)}
    return [
        Item(r["item"], r["task"], numbers[r["item"]], one.ranked, one.own, one.others, *one.settings)
        for r in solved(earlier)
        for one in [known[r["task"]]]
    ]


def task_items(run: Run[MediationConfig], earlier: Records) -> list[Item]:
    """One item a task, with heads and settings."""
    found = settings(earlier)
    names = list(of_tasks.tasks(run))
    order = ranked(earlier)
    return [
        Item(
            name,
            name,
            0,
            order,
            ranked(earlier, only=name),
            ranked(earlier, without=name) if len(names) > 1 else order,
            *found,
        )
        for name in names
    ]


@of_run(64)
def common(run: Run[MediationConfig], heads: tuple[Head, ...]) -> mx.array:
    """(d_model,): what those heads write on average over tasks."""
    names = of_tasks.tasks(run)
    return mx.mean(mx.stack([summed(means(run, name), heads) for name in names]), axis=0)


def task_vector(
    run: Run[MediationConfig],
    task: str,
    heads: tuple[Head, ...],
    centred: bool,
    kind: of_tasks.Kind = "examples",
) -> mx.array:
    """(d_model,): the sum of some heads' mean outputs for a task; centred: minus its mean over tasks."""
    vector = summed(means(run, task, kind), heads)
    return vector - common(run, heads) if centred else vector


def sampled(items: Sequence[Item], most: int) -> list[Item]:
    """The first `most` items of each task."""
    seen: dict[str, int] = {}
    kept = []
    for item in items:
        seen[item.task] = seen.get(item.task, 0) + 1
        if seen[item.task] <= most:
            kept.append(item)
    return kept
