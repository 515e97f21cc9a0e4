"""Effects of heads, how many of them to take and where to add their sum: chosen on one half of the pairs, then measured
on the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import mlx.core as mx
import numpy as np

from experiments.experiment import Records
from experiments.function_vectors import tasks as of_tasks
from experiments.function_vectors.screening import base_items, of, solved
from experiments.function_vectors.tasks import Query, TaskConfig, means, other_task, prompts
from mlx_interp.interventions import Add, Intervention
from mlx_interp.methods.answers import answer_scores, name_scores, verdicts
from mlx_interp.methods.function_vectors import Head, indirect_effects, random_heads, summed, top_heads
from mlx_interp.methods.in_context import (
    first_tokens_shared,
    most_frequent_answer,
    separators,
)
from mlx_interp.model import Model
from mlx_interp.reporting import Record
from mlx_interp.stats import stable_draw

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
OWN, OTHERS, CENTRED, SHAM = "own heads", "heads of other tasks", "minus the mean of tasks", "from corrupted prompts"
VARIANTS = (*ARMS, OWN, OTHERS, CENTRED, SHAM)


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

    def __str__(self) -> str:
        return f"{self.k} heads, layer {self.layer}, strength {self.strength:g}"


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

    @property
    def query(self) -> Query:
        return Query(self.key, self.task, self.number)


def n_heads(model: Model, config: MediationConfig) -> int:
    return config.n_heads or max(6, round(10 / 448 * model.n_layers * model.n_heads))


def grid(model: Model, config: MediationConfig) -> tuple[list[int], list[int], list[float]]:
    """Numbers of heads, layers and strengths to choose from: at most half of the heads, so that as many others are left
    for the control, and the lower two thirds of the layers. The paper's number and strength come first."""
    k, every = n_heads(model, config), model.n_layers * model.n_heads
    counts = [k, *sorted({n for n in (2 * k, every // 4, every // 2) if k < n <= every // 2})]
    return counts, list(range(-(-2 * model.n_layers // 3))), sorted({1.0, *config.strengths}, key=lambda s: (s != 1, s))


def data_items(model: Model, config: MediationConfig, earlier: Records) -> list[Item]:
    return [Item(name, name) for name in of_tasks.tasks(model, config)]


def measure_data(model: Model, item: Item, config: MediationConfig) -> Iterator[Record]:
    """What a reader of a task's figures should know: sizes, contradictions, answers alike, the separator's tokens."""
    task = of_tasks.tasks(model, config)[item.task]
    shape = of_tasks.template(model, config)
    one, two = of_tasks.halves(model, config, item.task)
    seen = {y for _, y in one.pairs}
    cut = separators(model, task, shape)
    yield {
        "task": item.task,
        "pairs": len(task.pairs),
        "conflicts": task.conflicts,
        "repeats": task.repeats,
        "commonest": most_frequent_answer(task),
        "leak": sum(y in seen for _, y in two.pairs) / len(two.pairs),
        "shared": first_tokens_shared(model, task, shape),
        "separator": list(cut.tokens),
        "warning": cut.warning,
    }


def effect_items(model: Model, config: MediationConfig, earlier: Records) -> list[Query]:
    return of_tasks.queries(model, config, 0, config.n_effects)


def measure_effects(model: Model, query: Query, config: MediationConfig) -> Iterator[Record]:
    """Indirect effect of every head on one corrupted prompt, one sweep."""
    found = indirect_effects(model, prompts(model, config, query, 0)["corrupted"], means(model, config, query.task))
    yield {"task": query.task, "effects": found.round(6).tolist()}


def average_effects(records: Records, only: str | None = None, without: str | None = None) -> np.ndarray:
    """(n_layers, n_heads): over the prompts of a task, or over tasks, which weigh equally."""
    own = [r for r in of(records, EFFECTS) if only in (None, r["task"]) and r["task"] != without]
    names = list(dict.fromkeys(r["task"] for r in own))
    by_task = [np.mean([r["effects"] for r in own if r["task"] == name], axis=0) for name in names]
    return np.asarray(np.mean(by_task, axis=0))


def ranked(records: Records, only: str | None = None, without: str | None = None) -> tuple[Head, ...]:
    effects = average_effects(records, only, without)
    return tuple(top_heads(effects, effects.size))


def choice_items(model: Model, config: MediationConfig, earlier: Records) -> list[Item]:
    order = ranked(earlier)
    queries = of_tasks.queries(model, config, 0, config.n_test)
    return [Item(query.key, query.task, query.number, order) for query in queries]


def measure_choice(model: Model, item: Item, config: MediationConfig) -> Iterator[Record]:
    """Right or wrong in every cell of the grid, for a query of the first half that is right with examples."""
    asked = prompts(model, config, item.query, 0)
    if not verdicts(model, [asked["examples"]])[0].first_token:
        return
    counts, layers, strengths = grid(model, config)
    found = means(model, config, item.task)
    held = [summed(found, item.ranked[:k]) for k in counts]
    variants: list[list[Intervention]] = [
        [Add(f"resid_post.{layer}", vector, s, -1)] for vector in held for layer in layers for s in strengths
    ]
    bare = asked["no examples"]
    scores = np.asarray(model.sweep(bare.prompt, variants, metric=answer_scores(bare.first_tokens)))
    right = (scores[:, 0] == 0).astype(int).reshape(len(counts), len(layers), len(strengths))
    yield {"task": item.task, "heads": counts, "layers": layers, "strengths": strengths, "right": right.tolist()}


def settings(records: Records) -> tuple[Setting, Setting]:
    """The setting most often right on the first half's queries, ties to fewer heads and lower layers; and the best
    layer for the paper's number of heads and strength."""
    own = of(records, CHOICE)
    if not own:
        return NO_SETTING, NO_SETTING
    rates = np.mean([r["right"] for r in own], axis=0).round(9)
    k, layer, strength = np.unravel_index(int(np.argmax(rates)), rates.shape)
    head = own[0]
    chosen = Setting(head["heads"][k], head["layers"][layer], head["strengths"][strength])
    return chosen, Setting(head["heads"][0], head["layers"][int(np.argmax(rates[0, :, 0]))], 1.0)


def solved_items(model: Model, config: MediationConfig, earlier: Records) -> list[Item]:
    """Held-out queries that are right with examples, with heads and settings."""
    numbers = {query.key: query.number for query in base_items(model, config, earlier)}
    known = {item.task: item for item in task_items(model, config, earlier)}
    return [
        Item(r["item"], r["task"], numbers[r["item"]], one.ranked, one.own, one.others, one.chosen, one.paper)
        for r in solved(earlier)
        for one in [known[r["task"]]]
    ]


def task_items(model: Model, config: MediationConfig, earlier: Records) -> list[Item]:
    """One item a task, with heads and settings."""
    chosen, paper = settings(earlier)
    names = list(of_tasks.tasks(model, config))
    order = ranked(earlier)
    return [
        Item(
            name,
            name,
            0,
            order,
            ranked(earlier, only=name),
            ranked(earlier, without=name) if len(names) > 1 else order,
            chosen,
            paper,
        )
        for name in names
    ]


def vectors(model: Model, config: MediationConfig, item: Item) -> dict[str, mx.array]:
    """The function vector and its controls, by arm; the layer mean depends on the layer and is not here."""
    return _vectors(model, config, item.task, item.ranked, item.own, item.others, item.chosen.k, item.paper.k)


@lru_cache(maxsize=64)
def _vectors(
    model: Model,
    config: MediationConfig,
    task: str,
    order: tuple[Head, ...],
    own: tuple[Head, ...],
    others: tuple[Head, ...],
    k: int,
    paper: int,
) -> dict[str, mx.array]:
    names = list(of_tasks.tasks(model, config))
    rng = np.random.default_rng(stable_draw(config.seed, task, 2**31))
    shape = (model.n_layers, model.n_heads)
    found = means(model, config, task)
    vector = summed(found, order[:k])
    noise = mx.array(rng.normal(size=model.d_model).astype(np.float32))
    every = mx.stack([summed(means(model, config, name), order[:k]) for name in names])
    return {
        VECTOR: vector,
        PAPER: summed(found, order[:paper]),
        RANDOM: summed(found, random_heads(shape, k, order[:k], rng)),
        NOISE: noise * (mx.linalg.norm(vector) / mx.linalg.norm(noise)),
        OTHER: summed(means(model, config, other_task(names, task)), order[:k]),
        OWN: summed(found, own[:k]),
        OTHERS: summed(found, others[:k]),
        CENTRED: vector - mx.mean(every, axis=0),
        SHAM: summed(means(model, config, task, "corrupted"), order[:k]),
    }


def addition(
    model: Model, config: MediationConfig, item: Item, arm: str, layer: int | None = None, at: int = -1
) -> Add:
    """An arm's vector at its setting's layer and strength, or at another layer; a layer's mean is added once."""
    setting = item.paper if arm == PAPER else item.chosen
    where = setting.layer if layer is None else layer
    if arm == LAYER:
        return Add(f"resid_post.{where}", means(model, config, item.task).resid_post[where], 1.0, at)
    return Add(f"resid_post.{where}", vectors(model, config, item)[arm], setting.strength, at)


def with_nothing(*additions: Add) -> list[list[Intervention]]:
    """Variants of a sweep: the clean prompt, then each addition alone."""
    return [[], *([one] for one in additions)]  # type: ignore[list-item]


def measure_added(model: Model, item: Item, config: MediationConfig) -> Iterator[Record]:
    """Every arm at every layer, on the bare query and on the corrupted prompt: two sweeps."""
    asked = prompts(model, config, item.query, 1)
    cells = [(arm, layer) for arm in ARMS for layer in range(model.n_layers)]
    for kind in ("no examples", "corrupted"):
        variants: list[list[Intervention]] = [[addition(model, config, item, arm, layer)] for arm, layer in cells]
        scores = np.asarray(model.sweep(asked[kind].prompt, variants, metric=answer_scores(asked[kind].first_tokens)))
        for arm in ARMS:
            right = [int(s[0]) == 0 for s, cell in zip(scores, cells, strict=True) if cell[0] == arm]
            yield {"task": item.task, "prompt": kind, "arm": arm, "right": right}


def measure_answers(model: Model, item: Item, config: MediationConfig) -> Iterator[Record]:
    """Every arm at its setting: rank of the first token, and the whole answer."""
    asked = prompts(model, config, item.query, 1)
    for kind in ("no examples", "corrupted"):
        last = len(asked[kind].prompt) - 1
        variants = with_nothing(*(addition(model, config, item, arm, at=last) for arm in VARIANTS))
        scores = np.asarray(name_scores(model, asked[kind], variants))
        for arm, (rank, log_prob, whole) in zip(("nothing", *VARIANTS), scores, strict=True):
            yield {
                "task": item.task,
                "prompt": kind,
                "arm": arm,
                "right": int(rank) == 0,
                "rank": int(rank),
                "whole": bool(whole),
                "log_prob": float(log_prob),
            }


def sampled(items: Sequence[Item], most: int) -> list[Item]:
    """The first `most` items of each task."""
    seen: dict[str, int] = {}
    kept = []
    for item in items:
        seen[item.task] = seen.get(item.task, 0) + 1
        if seen[item.task] <= most:
            kept.append(item)
    return kept
