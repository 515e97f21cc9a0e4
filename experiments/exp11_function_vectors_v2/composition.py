"""Arithmetic of vectors: v(A to D) + v(B to C) - v(A to C) for a task B to D (Todd et al. 2024, equations 7 and 8).

Two sorts. Of kinds of words: what makes Spanish out of nouns, with verbs exchanged for nouns, should make Spanish of
verbs. Of lists, as in the paper: first or last item, copied or transformed; only where the model answers such lists
with examples, which is measured first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from experiments.harness.experiment import Records, Stage
from experiments.harness.frame import of
from experiments.harness.state import Run, of_run
from experiments.shared.in_context import tasks as of_tasks
from experiments.shared.in_context.added_vectors import with_nothing
from experiments.shared.in_context.mediation import (
    NO_SETTING,
    Item,
    MediationConfig,
    Setting,
    common,
    ranked,
    settings,
    solved_items,
    task_vector,
)
from experiments.shared.in_context.tasks import prompts
from mlx_interp.behaviour.answers import answer_scores, question, verdicts
from mlx_interp.deferred import mx
from mlx_interp.in_context.demonstrations import FunctionTask, in_context
from mlx_interp.in_context.function_vectors import Head, head_means, summed
from mlx_interp.interventions import Add
from mlx_interp.stats import stable_draw

ARITHMETIC, LISTS, COMPOSED = "arithmetic", "lists", "composed lists"
OWN, SUM, FIRST, SECOND, WRONG = "own vector", "sum", "first summand", "second summand", "wrong sum"
ARMS = (OWN, SUM, FIRST, SECOND, WRONG)


@dataclass(frozen=True)
class Sum:
    """target = same image, another kind of word (plus) + the target's kind, another image (minus's image) - minus."""

    target: str
    image: str
    """The target's image, from another kind of word."""
    kind: str
    """The target's kind of word, with another image."""
    both: str
    """That other image from that other kind of word: taken away."""

    @property
    def tasks(self) -> tuple[str, str, str, str]:
        return self.target, self.image, self.kind, self.both

    def __str__(self) -> str:
        return f"{self.target} = {self.image} + {self.kind} - {self.both}"


SUMS = (
    Sum("verb_spanish", "noun_spanish", "past", "plural"),
    Sum("noun_spanish", "verb_spanish", "plural", "past"),
    Sum("adjective_french", "noun_french", "comparative", "plural"),
    Sum("noun_french", "adjective_french", "plural", "comparative"),
    Sum("series_spanish", "noun_spanish", "next_item", "plural"),
)
BASES = ("capital", "noun_french", "antonym", "country-capital", "english-french", "capitalize")
"""Tasks whose inputs are put into lists; those that a run has."""
PLACES = ("first", "last")
N_LISTS, LENGTH = 40, 3


def sums(run: Run[MediationConfig]) -> list[Sum]:
    there = of_tasks.tasks(run)
    return [one for one in SUMS if set(one.tasks) <= set(there)]


def arithmetic_items(run: Run[MediationConfig], earlier: Records) -> list[Item]:
    targets = {one.target for one in sums(run)}
    return [item for item in solved_items(run, earlier) if item.task in targets]


def combined(image: mx.array, kind: mx.array, both: mx.array, own: mx.array) -> dict[str, mx.array]:
    """The arms of a sum; the wrong one takes away the image that it should give."""
    return {OWN: own, SUM: image + kind - both, FIRST: image, SECOND: kind, WRONG: both + kind - image}


class Summed(TypedDict):
    """A bare query with a sum of vectors added, or with one of its parts."""

    task: str
    sum: str
    arm: str
    right: bool


def measure_arithmetic(run: Run[MediationConfig], item: Item) -> Iterator[Summed]:
    """The sum, its parts and the task's own vector, on the target's bare queries."""
    asked = prompts(run, item.query, 1)["no examples"]
    for one in sums(run):
        if one.target != item.task:
            continue
        target, image, kind, both = (
            task_vector(run, name, item.ranked[: item.chosen.k], item.chosen.centred) for name in one.tasks
        )
        found = combined(image, kind, both, target)
        site = f"resid_post.{item.chosen.layer}"
        variants = with_nothing(*(Add(site, vector, item.chosen.strength, -1) for vector in found.values()))
        scores = np.asarray(run.model.sweep(asked.prompt, variants, metric=answer_scores(asked.first_tokens)))
        for arm, score in zip(("nothing", *found), scores, strict=True):
            yield {"task": item.task, "sum": str(one), "arm": arm, "right": int(score[0]) == 0}


def list_task(task: FunctionTask, place: str, transform: bool, seed: int) -> FunctionTask:
    """Lists of a task's inputs -> the first or last of them, copied or transformed."""
    rng = np.random.default_rng(stable_draw(seed, (task.name, task.pairs), 2**31))
    chosen = [[task.pairs[i] for i in rng.permutation(len(task.pairs))[:LENGTH]] for _ in range(N_LISTS)]
    at = 0 if place == "first" else -1
    name = f"{place} {task.name if transform else 'copied'}"
    return FunctionTask(name, tuple((", ".join(x for x, _ in pairs), pairs[at][transform]) for pairs in chosen))


@dataclass(frozen=True)
class ListItem:
    """A list to be answered."""

    key: str
    base: str
    place: str
    transform: bool
    number: int
    heads: tuple[Head, ...] = ()
    chosen: Setting = NO_SETTING


def list_items(run: Run[MediationConfig], earlier: Records) -> list[ListItem]:
    there = of_tasks.tasks(run)
    return [
        ListItem(f"{base}, {place}, {'transformed' if transform else 'copied'} {n}", base, place, transform, n)
        for base in BASES
        if base in there
        for place in PLACES
        for transform in (False, True)
        for n in range(run.config.n_test)
    ]


def _list_halves(
    run: Run[MediationConfig], base: str, place: str, transform: bool
) -> tuple[FunctionTask, FunctionTask]:
    one, two = of_tasks.halves(run, base)
    return list_task(one, place, transform, run.config.seed), list_task(two, place, transform, run.config.seed)


class Listed(TypedDict):
    """Whether the model answers a list with examples."""

    base: str
    """The task whose inputs are in it."""
    place: str
    transform: bool
    right: bool


def measure_lists(run: Run[MediationConfig], item: ListItem) -> Iterator[Listed]:
    """Whether the model answers a list with examples."""
    one, two = _list_halves(run, item.base, item.place, item.transform)
    rng = np.random.default_rng(stable_draw(run.config.seed, item.key, 2**31))
    pair = two.pairs[item.number % len(two.pairs)]
    made = in_context(one, pair, one.pairs, of_tasks.n_shots(run), of_tasks.template(run), rng)
    found = verdicts(run.model, [question(run.model, made.text, [made.answer])])[0]
    yield {"base": item.base, "place": item.place, "transform": item.transform, "right": found.first_token}


def composed_items(run: Run[MediationConfig], earlier: Records) -> list[ListItem]:
    """Lists whose last item is to be transformed, and which the model answers with examples."""
    right = {r["item"] for r in of(earlier, LISTS) if r["right"] and r["transform"] and r["place"] == "last"}
    if not right:
        return []
    setting = settings(earlier)[0]
    heads = ranked(earlier)[: setting.k]
    return [
        ListItem(i.key, i.base, i.place, i.transform, i.number, heads, setting)
        for i in list_items(run, earlier)
        if i.key in right
    ]


@of_run(64)
def _list_vector(
    run: Run[MediationConfig],
    base: str,
    place: str,
    transform: bool,
    heads: tuple[Head, ...],
    centred: bool,
) -> mx.array:
    task = _list_halves(run, base, place, transform)[0]
    rng = np.random.default_rng(stable_draw(run.config.seed, (base, place, transform), 2**31))
    shape, shots = of_tasks.template(run), of_tasks.n_shots(run)
    made = [in_context(task, pair, task.pairs, shots, shape, rng) for pair in task.pairs[: run.config.n_means]]
    vector = summed(head_means(run.model, [run.model.prompt(one.text) for one in made]), heads)
    return vector - common(run, heads) if centred else vector


class Composed(TypedDict):
    """A bare list with a sum of vectors added, or with one of its parts."""

    base: str
    arm: str
    right: bool


def measure_composed(run: Run[MediationConfig], item: ListItem) -> Iterator[Composed]:
    """v(first, transformed) + v(last, copied) - v(first, copied), on bare lists that ask for the last, transformed."""
    two = _list_halves(run, item.base, item.place, item.transform)[1]
    x, y = two.pairs[item.number % len(two.pairs)]
    asked = question(run.model, of_tasks.template(run).prompt([], x), [y])
    cells = (("first", True), ("last", False), ("first", False), ("last", True))
    image, kind, both, own = (
        _list_vector(run, item.base, place, transform, item.heads, item.chosen.centred) for place, transform in cells
    )
    found = combined(image, kind, both, own)
    site, strength = f"resid_post.{item.chosen.layer}", item.chosen.strength
    variants = with_nothing(*(Add(site, vector, strength, -1) for vector in found.values()))
    scores = np.asarray(run.model.sweep(asked.prompt, variants, metric=answer_scores(asked.first_tokens)))
    for arm, score in zip(("nothing", *found), scores, strict=True):
        yield {"base": item.base, "arm": arm, "right": int(score[0]) == 0}


STAGES = (
    Stage(ARITHMETIC, arithmetic_items, measure_arithmetic, record=Summed),
    Stage(LISTS, list_items, measure_lists, record=Listed),
    Stage(COMPOSED, composed_items, measure_composed, record=Composed),
)
