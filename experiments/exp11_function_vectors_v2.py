"""exp11: function vectors from heads, by causal mediation (Todd et al. 2024).

Question   Do a few heads carry what a task is, so that the sum of what they write makes the model do it without any
           example?
Data       in-context tasks, pairs split in halves: heads and means from one, every figure from the other. Embedded
           models: the world's 16 tasks; others: JSON files of pairs (--data).
Measure    indirect effect of every head on prompts with corrupted labels, averaged over tasks; the function vector is
           the sum of the chosen heads' mean outputs; added at each layer, once, at the last token of a bare query and
           of a corrupted prompt. The layer is chosen on half of the held-out queries and reported on the others.
Figure     share of queries whose first answer token comes first, over those that the model answers with examples.
Control    as many other heads, a random vector of the same length, another task's vector, the mean state of the layer;
           for necessity: the chosen heads set to their mean over tasks on prompts with examples, and other heads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import mlx.core as mx
import numpy as np

from experiments.experiment import Experiment, Metric, Plan, Records, Stage
from experiments.function_vectors import tasks as of_tasks
from experiments.function_vectors.screening import BASE, base_items, measure_base, of, rate, solved
from experiments.function_vectors.tasks import Query, TaskConfig, means, other_task, prompts
from experiments.runner import run
from mlx_interp.interventions import Add, Intervention, Patch
from mlx_interp.methods.answers import answer_scores, question
from mlx_interp.methods.function_vectors import (
    Head,
    Template,
    in_context,
    indirect_effects,
    random_heads,
    summed,
    top_heads,
)
from mlx_interp.model import Model
from mlx_interp.reporting import Cell, Column, Panel, Plot, Record, Series, Table, heat_map, line_with_band
from mlx_interp.stats import Estimate, stable_draw

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
class Config(TaskConfig):
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


def effect_items(model: Model, config: Config, earlier: Records) -> list[Query]:
    return of_tasks.queries(model, config, 0, config.n_effects)


def measure_effects(model: Model, query: Query, config: Config) -> Iterator[Record]:
    """Indirect effect of every head on one corrupted prompt, one sweep."""
    found = indirect_effects(model, prompts(model, config, query, 0)["corrupted"], means(model, config, query.task))
    yield {"task": query.task, "effects": found.round(6).tolist()}


def average_effects(records: Records, task: str | None = None) -> np.ndarray:
    """(n_layers, n_heads): over the prompts of a task, or over tasks, which weigh equally."""
    own = [r for r in records if r["stage"] == EFFECTS and task in (None, r["task"])]
    names = list(dict.fromkeys(r["task"] for r in own))
    by_task = [np.mean([r["effects"] for r in own if r["task"] == name], axis=0) for name in names]
    return np.asarray(np.mean(by_task, axis=0))


def solved_items(model: Model, config: Config, earlier: Records, layer: bool = False) -> list[Item]:
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


def n_heads(model: Model, config: Config) -> int:
    return config.n_heads or max(6, round(10 / 448 * model.n_layers * model.n_heads))


def vectors(model: Model, config: Config, item: Item) -> dict[str, mx.array]:
    """The function vector and its controls, by arm; the layer mean depends on the layer and is not here."""
    return _vectors(model, config, item.task, item.heads, item.own)


@lru_cache(maxsize=64)
def _vectors(
    model: Model, config: Config, task: str, heads: tuple[Head, ...], own: tuple[Head, ...]
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


def added_items(model: Model, config: Config, earlier: Records) -> list[Item]:
    return solved_items(model, config, earlier)


def measure_added(model: Model, item: Item, config: Config) -> Iterator[Record]:
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


def late_items(model: Model, config: Config, earlier: Records) -> list[Item]:
    return [item for item in solved_items(model, config, earlier, layer=True) if _half(item) == "report"]


def measure_counts(model: Model, item: Item, config: Config) -> Iterator[Record]:
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


def measure_needed(model: Model, item: Item, config: Config) -> Iterator[Record]:
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


def measure_shots(model: Model, batch: Sequence[Query], config: Config) -> Iterator[Record]:
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


def _most_shots(model: Model, config: Config, query: Query) -> int:
    return len(of_tasks.halves(model, config, query.task)[0].pairs)


def measure_ported(model: Model, item: Item, config: Config) -> Iterator[Record]:
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
        variants: list[list[Intervention]] = [[], *([Add(site, found[arm], 1.0, -1)] for arm in arms)]
        scores = np.asarray(model.sweep(asked.prompt, variants, metric=answer_scores(asked.first_tokens)))
        for arm, score in zip(("nothing", *arms), scores, strict=True):
            yield {
                "task": item.task,
                "template": name,
                "arm": arm,
                "with_examples": with_examples,
                "right": int(score[0]) == 0,
            }


def decoded_items(model: Model, config: Config, earlier: Records) -> list[Item]:
    heads = tuple(top_heads(average_effects(earlier), n_heads(model, config)))
    return [Item(name, name, heads=heads, own=heads) for name in of_tasks.tasks(model, config)]


def measure_decoded(model: Model, item: Item, config: Config) -> Iterator[Record]:
    """The vector through the last norm and the unembedding: its top tokens, and how many of them are answers."""
    task = of_tasks.tasks(model, config)[item.task]
    shape = of_tasks.template(model, config)
    answers = {question_tokens(model, shape.prompt([], x), y) for x, y in task.pairs}
    for arm in ("function vector", "random heads"):
        logits = model.unembed(vectors(model, config, item)[arm])
        top = np.argsort(-np.asarray(logits.astype(mx.float32)))[:TOKENS]
        words = [model.tokenizer.decode([int(token)]).strip() for token in top]
        yield {"task": item.task, "arm": arm, "tokens": words, "answers": sum(int(t) in answers for t in top)}


def question_tokens(model: Model, text: str, answer: str) -> int:
    return question(model, text, [answer]).first_tokens[0]


def base_table(records: Records, config: Config) -> Table:
    """Which tasks the model does, and what is left for a vector to restore."""
    rows: list[list[Cell]] = []
    for name in [*_names(records), "all"]:
        own = [r for r in of(records, BASE) if name in (r["task"], "all")]
        kinds = [[r for r in own if r["prompt"] == kind] for kind in ("examples", "corrupted", "no examples")]
        whole = rate(kinds[0], config.seed, "whole")
        rows.append([name, len(kinds[0]), *(rate(kind, config.seed) for kind in kinds), whole])
    heads = [Column(f"right, {kind}", "%") for kind in ("examples", "corrupted labels", "no examples")]
    return Table(
        "Tasks on held-out queries, before any intervention",
        ["task", "n", *heads, Column("whole answer, examples", "%")],
        rows,
        ["Right: the answer's first token comes first. The queries right with examples are the test set below."],
    )


def added_table(records: Records, config: Config) -> Table:
    """Accuracy with each vector at the chosen layer, on the reporting half."""
    layer = chosen_layer(records)
    rows: list[list[Cell]] = []
    base = {(r["item"], r["prompt"]): r for r in of(records, BASE)}
    for kind in ("no examples", "corrupted"):
        for name in [*_names(records), "all"]:
            own = [r for r in of(records, ADDED, prompt=kind, layer=layer, half="report") if name in (r["task"], "all")]
            mine = [r for r in own if r["arm"] == ARMS[0]]
            plain = rate([{**base[r["item"], kind], "item": r["item"]} for r in mine], config.seed)
            arms = [rate([r for r in own if r["arm"] == arm], config.seed) for arm in ARMS]
            gap = None
            if plain is not None and arms[0] is not None and plain.value < 1:
                gap = (arms[0].value - plain.value) / (1 - plain.value)
            rows.append([kind, name, len(mine), plain, *arms, gap])
    return Table(
        "A vector instead of examples",
        ["prompt", "task", "n", Column("nothing", "%"), *(Column(arm, "%") for arm in ARMS), Column("gap closed", "%")],
        rows,
        [
            f"Added at the output of layer {layer}, chosen on the other half of the queries. Test set: queries right "
            "with examples, so that 100 % is the ceiling. Function vector: heads shared by all tasks; own heads: by "
            "the task's own effects. Gap closed: share of what is missing to 100 %.",
        ],
    )


def shots_table(records: Records, config: Config) -> Table:
    """Accuracy by the number of examples."""
    found = of(records, SHOTS)
    rows: list[list[Cell]] = []
    for k in sorted({r["shots"] for r in found}):
        own = [r for r in found if r["shots"] == k]
        rows.append([k, len(own), rate(own, config.seed)])
    return Table("Number of examples, no intervention", ["examples", "n", Column("right", "%")], rows)


def ported_table(records: Records, config: Config) -> Table:
    """The vector in templates that it was not made from."""
    found = of(records, PORTED)
    rows: list[list[Cell]] = []
    for name in TEMPLATES:
        own = [r for r in found if r["template"] == name]
        counted = [r for r in own if r["with_examples"]]
        arms = [[r for r in counted if r["arm"] == arm] for arm in ("nothing", ARMS[0], ARMS[2], ARMS[4])]
        rows.append([name, len(own) // 4, len(arms[0]), *(rate(arm, config.seed) for arm in arms)])
    return Table(
        "Other templates",
        [
            *("template", "queries", "right with examples there"),
            *(Column(name, "%") for name in ("nothing", ARMS[0], ARMS[2], ARMS[4])),
        ],
        rows,
        ["Bare queries in the template; only those count that the model answers with examples in the same template."],
    )


def counts_table(records: Records, config: Config) -> Table:
    """How many heads it takes."""
    found = of(records, COUNTS)
    rows: list[list[Cell]] = [
        [k, *(rate([r for r in found if r["k"] == k and r["arm"] == arm], config.seed) for arm in (ARMS[0], ARMS[2]))]
        for k in sorted({r["k"] for r in found})
    ]
    return Table("Number of heads", ["heads", Column("function vector", "%"), Column("random heads", "%")], rows)


def needed_table(records: Records, config: Config) -> Table:
    """What in-context accuracy is left without the heads."""
    found = of(records, NEEDED)
    rows: list[list[Cell]] = []
    for k in sorted({r["k"] for r in found}):
        arms = [[r for r in found if r["k"] == k and r["arm"] == arm] for arm in ("chosen heads", "random heads")]
        if k == 0:
            arms = [of(records, NEEDED, arm="nothing")] * 2
        rows.append([k, len(arms[0]), *(rate(arm, config.seed) for arm in arms)])
    return Table(
        "Necessity: heads set to their mean over tasks, on prompts with examples",
        ["heads", "n", Column("chosen heads", "%"), Column("random heads", "%")],
        rows,
        ["At the last token only."],
    )


def decoded_table(records: Records, config: Config) -> Table:
    """What the vectors say by themselves."""
    rows: list[list[Cell]] = []
    for name in _names(records):
        mine, control = (of(records, DECODED, task=name, arm=arm)[0] for arm in (ARMS[0], ARMS[2]))
        rows.append([name, " ".join(mine["tokens"]), mine["answers"], control["answers"]])
    heads: list[Column | str] = ["task", "top tokens", f"answers among the top {TOKENS}", "the same, random heads"]
    return Table("The vector through the unembedding", heads, rows)


def heat(records: Records, config: Config) -> Plot:
    effects = average_effects(records)
    return heat_map(
        [Panel("average indirect effect", effects.tolist())],
        name="indirect_effects",
        title="What each head's mean output restores",
        x_label="head",
        y_label="layer",
        value_label="gain of the right answer's probability",
        caption="Average indirect effect of every head on prompts with corrupted labels, over "
        f"{len(_names(records))} tasks that weigh equally.",
    )


def by_layer(records: Records, config: Config) -> Iterator[Plot]:
    for kind in ("no examples", "corrupted"):
        own = of(records, ADDED, prompt=kind)
        layers = sorted({r["layer"] for r in own})
        if not layers:
            continue
        cells = {arm: [[r for r in own if (r["arm"], r["layer"]) == (arm, at)] for at in layers] for arm in ARMS}
        yield line_with_band(
            layers,
            [
                Series(arm, [rate(cell, config.seed) for cell in row])
                for arm, row in cells.items()
                if arm != "own heads"
            ],
            name=f"by_layer_{kind.replace(' ', '_')}",
            title=f"Accuracy by layer of addition, {kind}",
            x_label="layer (output)",
            y_label="right (share of queries)",
            caption=f"Share of queries right when a vector is added at a layer's output, prompts with {kind}"
            + ("" if kind == "no examples" else " labels")
            + "; 95 % intervals over queries, of all tasks together.",
            limits=(0, 1),
        )


def headline(records: Records, config: Config) -> str:
    row = next(r for r in added_table(records, config).rows if r[:2] == ["no examples", "all"])
    nothing, vector, control = (cell for cell in (row[3], row[4], row[6]))
    if not (isinstance(nothing, Estimate) and isinstance(vector, Estimate) and isinstance(control, Estimate)):
        return "too few queries are right with examples"
    texts = [one.text(percent=True) for one in (vector, nothing, control)]
    return f"no examples: {texts[0]} % right with the function vector, {texts[1]} % without, {texts[2]} % random heads"


def metrics(records: Records, config: Config) -> list[Metric]:
    layer = chosen_layer(records)
    own = of(records, ADDED, prompt="no examples", layer=layer, half="report", arm=ARMS[0])
    return [Metric("right with the function vector", "%", rate(own, config.seed))]


def _names(records: Records) -> list[str]:
    return list(dict.fromkeys(r["task"] for r in of(records, BASE)))


def plan(model: Model, items: Sequence[Query], config: Config) -> Plan:
    n_tasks = len(of_tasks.tasks(model, config))
    heads = model.n_layers * model.n_heads
    grid = 2 * len(ARMS) * model.n_layers
    longest = max((prompts(model, config, query, 1)["examples"].prompt for query in items), key=len)
    passes = 3 * len(items) + n_tasks * (config.n_means + 3 * config.n_effects) + len(items) * 6
    memory = mx.get_active_memory() + model.memory(longest, capture=["z", "head_out", "resid_post"])
    return Plan(len(items), n_tasks * config.n_effects * heads + len(items) * grid, float(passes), memory)


EXPERIMENT = Experiment(
    name="exp11_function_vectors_v2",
    config=Config,
    stages=[
        Stage(BASE, base_items, measure_base, batch=16),
        Stage(EFFECTS, effect_items, measure_effects),
        Stage(ADDED, added_items, measure_added),
        Stage(COUNTS, late_items, measure_counts),
        Stage(NEEDED, late_items, measure_needed),
        Stage(DECODED, decoded_items, measure_decoded),
        Stage(SHOTS, base_items, measure_shots, batch=8),
        Stage(PORTED, late_items, measure_ported),
    ],
    tables=[base_table, added_table, counts_table, needed_table, shots_table, ported_table, decoded_table],
    figures=[heat, by_layer],
    headline=headline,
    plan=plan,
    group=lambda query: query.task,
    scaling=metrics,
)

if __name__ == "__main__":
    run(EXPERIMENT)
