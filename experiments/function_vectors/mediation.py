"""Stages of the head-level study: effects of heads, the vector added, what it takes, where it still works."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import mlx.core as mx
import numpy as np

from experiments.experiment import Records
from experiments.function_vectors import tasks as of_tasks
from experiments.function_vectors.screening import base_items, solved
from experiments.function_vectors.tasks import Query, TaskConfig, means, other_task, prompts
from mlx_interp.interventions import Add, Intervention, Patch
from mlx_interp.methods.answers import answer_scores, question, verdicts
from mlx_interp.methods.function_vectors import Head, indirect_effects, random_heads, summed, top_heads
from mlx_interp.methods.in_context import Template, first_tokens_shared, in_context
from mlx_interp.model import Model
from mlx_interp.reporting import Record
from mlx_interp.stats import stable_draw

SHOTS, PORTED = "shots", "templates"
EFFECTS, ADDED, COUNTS, NEEDED, DECODED = "effects", "added", "heads", "necessity", "vocabulary"
ARMS = ("function vector", "own heads", "random heads", "random vector", "other task", "layer mean")
COUNTED = (1, 2, 4, 8, 16, 24)
TOKENS = 8
SHOT_COUNTS = (0, 1, 2, 3, 5, 10)
TEMPLATES = {
    "colon": Template("{input}: {output}, ", "{input}:"),
    "equals": Template("{input} = {output}, ", "{input} ="),
    "word first": Template("the {input} -> {output}, ", "the {input} ->"),
    "lines": Template("{input}\n{output}\n\n", "{input}\n"),
    "questions": Template("Question: {input} Answer: {output}, ", "Question: {input} Answer:"),
}
"""Other ways to write the same examples, to which a vector is carried over."""


@dataclass(frozen=True)
class MediationConfig(TaskConfig):
    """Fields of the head-level study."""

    n_heads: int = 0
    """Heads of a function vector; 0: 10 of 448 as for GPT-J, and at least 6."""


@dataclass(frozen=True)
class Item:
    """A query, or a task, with what earlier stages decided about it."""

    key: str
    task: str
    number: int = 0
    heads: tuple[Head, ...] = ()
    own: tuple[Head, ...] = ()
    ranked: tuple[Head, ...] = ()
    layer: int = 0

    @property
    def query(self) -> Query:
        return Query(self.key, self.task, self.number)


def effect_items(model: Model, config: MediationConfig, earlier: Records) -> list[Query]:
    return of_tasks.queries(model, config, 0, config.n_effects)


def measure_effects(model: Model, query: Query, config: MediationConfig) -> Iterator[Record]:
    """Indirect effect of every head on one corrupted prompt, one sweep."""
    found = indirect_effects(model, prompts(model, config, query, 0)["corrupted"], means(model, config, query.task))
    yield {"task": query.task, "effects": found.round(6).tolist()}


def average_effects(records: Records, task: str | None = None) -> np.ndarray:
    """(n_layers, n_heads): over the prompts of a task, or over tasks, which weigh equally."""
    own = [r for r in records if r["stage"] == EFFECTS and task in (None, r["task"])]
    names = list(dict.fromkeys(r["task"] for r in own))
    by_task = [np.mean([r["effects"] for r in own if r["task"] == name], axis=0) for name in names]
    return np.asarray(np.mean(by_task, axis=0))


def solved_items(model: Model, config: MediationConfig, earlier: Records, layer: bool = False) -> list[Item]:
    """Those queries, with the chosen heads; and the layer, once it is known."""
    effects = average_effects(earlier)
    k = n_heads(model, config)
    at = chosen_layer(earlier) if layer else 0
    numbers = {query.key: query.number for query in base_items(model, config, earlier)}
    own = {name: tuple(top_heads(average_effects(earlier, name), k)) for name in of_tasks.tasks(model, config)}
    ranked = tuple(top_heads(effects, max(COUNTED)))
    return [
        Item(r["item"], r["task"], numbers[r["item"]], ranked[:k], own[r["task"]], ranked, at) for r in solved(earlier)
    ]


def n_heads(model: Model, config: MediationConfig) -> int:
    return config.n_heads or max(6, round(10 / 448 * model.n_layers * model.n_heads))


def vectors(model: Model, config: MediationConfig, item: Item) -> dict[str, mx.array]:
    """The function vector and its controls, by arm; the layer mean depends on the layer and is not here."""
    return _vectors(model, config, item.task, item.heads, item.own)


@lru_cache(maxsize=64)
def _vectors(
    model: Model, config: MediationConfig, task: str, heads: tuple[Head, ...], own: tuple[Head, ...]
) -> dict[str, mx.array]:
    names = list(of_tasks.tasks(model, config))
    rng = np.random.default_rng(stable_draw(config.seed, task, 2**31))
    shape = (model.n_layers, model.n_heads)
    found = means(model, config, task)
    vector = summed(found, heads)
    noise = mx.array(rng.normal(size=model.d_model).astype(np.float32))
    return {
        "function vector": vector,
        "own heads": summed(found, own),
        "random heads": summed(found, random_heads(shape, len(heads), heads, rng)),
        "random vector": noise * (mx.linalg.norm(vector) / mx.linalg.norm(noise)),
        "other task": summed(means(model, config, other_task(names, task)), heads),
    }


def added_items(model: Model, config: MediationConfig, earlier: Records) -> list[Item]:
    return solved_items(model, config, earlier)


def measure_added(model: Model, item: Item, config: MediationConfig) -> Iterator[Record]:
    """Every arm at every layer, on the bare query and on the corrupted prompt: two sweeps."""
    asked = prompts(model, config, item.query, 1)
    found = vectors(model, config, item)
    stream = means(model, config, item.task).resid_post
    cells = [(arm, layer) for arm in ARMS for layer in range(model.n_layers)]
    for kind in ("no examples", "corrupted"):
        variants: list[list[Intervention]] = [
            [Add(f"resid_post.{layer}", found.get(arm, stream[layer]), 1.0, -1)] for arm, layer in cells
        ]
        scores = np.asarray(model.sweep(asked[kind].prompt, variants, metric=answer_scores(asked[kind].first_tokens)))
        for (arm, layer), (rank, log_prob) in zip(cells, scores, strict=True):
            yield {
                "task": item.task,
                "prompt": kind,
                "arm": arm,
                "layer": layer,
                "right": int(rank) == 0,
                "rank": int(rank),
                "log_prob": float(log_prob),
                "half": _half(item),
            }


def chosen_layer(records: Records) -> int:
    """The layer at which the function vector does most, over tasks, on half of the queries; ties to the lower one."""
    own = [r for r in records if r["stage"] == ADDED and r["prompt"] == "no examples" and r["arm"] == ARMS[0]]
    rates: dict[int, list[bool]] = {}
    for r in own:
        if r["half"] == "choose":
            rates.setdefault(r["layer"], []).append(bool(r["right"]))
    return max(rates, key=lambda at: (round(sum(rates[at]) / len(rates[at]), 9), -at)) if rates else 0


def _half(item: Item) -> str:
    """Every second query of a task is for choosing."""
    return "choose" if item.number % 2 else "report"


def late_items(model: Model, config: MediationConfig, earlier: Records) -> list[Item]:
    return [item for item in solved_items(model, config, earlier, layer=True) if _half(item) == "report"]


def measure_counts(model: Model, item: Item, config: MediationConfig) -> Iterator[Record]:
    """The function vector of 1 to 24 heads, at the chosen layer, on the bare query."""
    asked = prompts(model, config, item.query, 1)["no examples"]
    found = means(model, config, item.task)
    rng = np.random.default_rng(stable_draw(config.seed, item.task, 2**31))
    shape = (model.n_layers, model.n_heads)
    cells: list[tuple[str, int, mx.array]] = []
    for k in COUNTED:
        if k <= model.n_layers * model.n_heads // 2:
            cells.append(("function vector", k, summed(found, item.ranked[:k])))
            cells.append(("random heads", k, summed(found, random_heads(shape, k, item.ranked[:k], rng))))
    site = f"resid_post.{item.layer}"
    variants: list[list[Intervention]] = [[Add(site, vector, 1.0, -1)] for _, _, vector in cells]
    scores = np.asarray(model.sweep(asked.prompt, variants, metric=answer_scores(asked.first_tokens)))
    for (arm, k, _), score in zip(cells, scores, strict=True):
        yield {"task": item.task, "arm": arm, "k": k, "right": int(score[0]) == 0}


def measure_needed(model: Model, item: Item, config: MediationConfig) -> Iterator[Record]:
    """The heads set to their mean over tasks, on the prompt with examples; and as many others."""
    asked = prompts(model, config, item.query, 1)["examples"]
    names = list(of_tasks.tasks(model, config))
    average = mx.mean(mx.stack([means(model, config, name).z for name in names]), axis=0)
    rng = np.random.default_rng(stable_draw(config.seed, item.key, 2**31))
    cells: list[tuple[str, int, Sequence[Head]]] = [("nothing", 0, ())]
    for k in (len(item.heads), 2 * len(item.heads)):
        cells.append(("chosen heads", k, item.ranked[:k]))
        cells.append(("random heads", k, random_heads(average.shape, k, item.ranked[:k], rng)))
    variants: list[list[Intervention]] = [
        [Patch(f"z.{layer}", average[layer, head], positions=-1, heads=head) for layer, head in heads]
        for _, _, heads in cells
    ]
    scores = np.asarray(model.sweep(asked.prompt, variants, metric=answer_scores(asked.first_tokens)))
    for (arm, k, _), score in zip(cells, scores, strict=True):
        yield {"task": item.task, "arm": arm, "k": k, "right": int(score[0]) == 0, "log_prob": float(score[1])}


def measure_shots(model: Model, batch: Sequence[Query], config: MediationConfig) -> Iterator[Record]:
    """Accuracy by the number of examples, no intervention."""
    shape = of_tasks.template(model, config)
    cells = [(query, k) for query in batch for k in SHOT_COUNTS if k <= _most_shots(model, config, query)]
    asked = []
    for query, k in cells:
        one, two = of_tasks.halves(model, config, query.task)
        rng = np.random.default_rng(stable_draw(config.seed, (query.key, k), 2**31))
        made = in_context(one, two.pairs[query.number], one.pairs, k, shape, rng)
        asked.append(question(model, made.text, [made.answer]))
    for (query, k), found in zip(cells, verdicts(model, asked), strict=True):
        yield {"item": query.key, "task": query.task, "shots": k, "right": found.first_token}


def _most_shots(model: Model, config: MediationConfig, query: Query) -> int:
    return len(of_tasks.halves(model, config, query.task)[0].pairs)


def measure_ported(model: Model, item: Item, config: MediationConfig) -> Iterator[Record]:
    """The vector in other templates: only queries that the model answers with examples in that template count."""
    one, two = of_tasks.halves(model, config, item.task)
    pair = two.pairs[item.number]
    found = vectors(model, config, item)
    site = f"resid_post.{item.layer}"
    for name, shape in TEMPLATES.items():
        rng = np.random.default_rng(stable_draw(config.seed, (item.key, name), 2**31))
        made = in_context(one, pair, one.pairs, of_tasks.n_shots(model, config), shape, rng)
        with_examples = verdicts(model, [question(model, made.text, [made.answer])])[0].first_token
        asked = question(model, shape.prompt([], pair[0]), [pair[1]])
        arms = ("function vector", "random heads", "other task")
        variants: list[list[Intervention]] = [[]]
        variants += [[Add(site, found[arm], 1.0, -1)] for arm in arms]
        scores = np.asarray(model.sweep(asked.prompt, variants, metric=answer_scores(asked.first_tokens)))
        for arm, score in zip(("nothing", *arms), scores, strict=True):
            yield {
                "task": item.task,
                "template": name,
                "arm": arm,
                "with_examples": with_examples,
                "right": int(score[0]) == 0,
            }


def decoded_items(model: Model, config: MediationConfig, earlier: Records) -> list[Item]:
    heads = tuple(top_heads(average_effects(earlier), n_heads(model, config)))
    return [Item(name, name, heads=heads, own=heads) for name in of_tasks.tasks(model, config)]


def measure_decoded(model: Model, item: Item, config: MediationConfig) -> Iterator[Record]:
    """The vector through the last norm and the unembedding: its top tokens, and how many of them are answers."""
    task = of_tasks.tasks(model, config)[item.task]
    shape = of_tasks.template(model, config)
    answers = {question_tokens(model, shape.prompt([], x), y) for x, y in task.pairs}
    for arm in ("function vector", "random heads"):
        logits = model.unembed(vectors(model, config, item)[arm])
        top = np.argsort(-np.asarray(logits.astype(mx.float32)))[:TOKENS]
        words = [model.tokenizer.decode([int(token)]).strip() for token in top]
        yield {
            "task": item.task,
            "arm": arm,
            "tokens": words,
            "answers": sum(int(t) in answers for t in top),
            "shared": first_tokens_shared(model, task, shape),
        }


def question_tokens(model: Model, text: str, answer: str) -> int:
    return question(model, text, [answer]).first_tokens[0]
