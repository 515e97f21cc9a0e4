"""exp8: function vectors of whole layers, the simple form. How far does a mean activation carry a task?

Question   Does the mean state of a layer over in-context prompts, or its difference from bare prompts, make a model do
           the task without examples; at which layer, and at which strength?
Data       as in exp11: tasks, split in halves; the mean from one, figures from the other. Also sentences that do not
           ask for the task ('The word "large" means'; on embedded models sentences of their world).
Measure    two vectors of every layer, the mean over prompts with examples and that minus the mean over bare prompts;
           added at their own layer, once, at the last token of a bare query, at several strengths.
Figure     share of queries whose first answer token comes first, of those that are right with examples; layer and
           strength are chosen on half of them and reported on the others.
Control    another task's vector and a random vector of the same length, at the same layer and strength.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import mlx.core as mx
import numpy as np

from experiments.harness.experiment import Experiment, Metric, Plan, Records, Stage
from experiments.shared.in_context import tasks as of_tasks
from experiments.shared.in_context.screening import BASE, base_items, measure_base, of, rate, solved
from experiments.shared.in_context.tasks import Query, TaskConfig, means, other_task, prompts
from experiments.shared.in_context.transfer import PER_TASK, said, sentences
from mlx_interp.behaviour.answers import answer_scores
from mlx_interp.in_context.function_vectors import head_means
from mlx_interp.interventions import Add, Intervention
from mlx_interp.model import Model
from mlx_interp.reporting import Cell, Column, Panel, Plot, Record, Table, heat_map
from mlx_interp.stats import Estimate, stable_draw

GRID, CONTEXT = "grid", "unrelated sentences"
FORMS = ("mean", "difference")
ARMS = ("own", "other task", "random")
NEW_TOKENS = 5
REPORTED = "0 to 100 % by task and model, in the project's first round"


@dataclass(frozen=True)
class Config(TaskConfig):
    strengths: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Multiples of the vector that are added."""


@lru_cache(maxsize=64)
def bare_mean(model: Model, config: Config, name: str) -> mx.array:
    """(n_layers, d_model): mean state at the last token of bare queries of the first half."""
    task, shape = of_tasks.halves(model, config, name)[0], of_tasks.template(model, config)
    return head_means(model, [model.prompt(shape.prompt([], x)) for x, _ in task.pairs]).resid_post


def vector(model: Model, config: Config, task: str, form: str, arm: str) -> mx.array:
    """(n_layers, d_model): a form of a task's vector at every layer, or a control of the same lengths."""
    names = list(of_tasks.tasks(model, config))
    of_task = other_task(names, task) if arm == "other task" else task
    own = means(model, config, of_task).resid_post
    own = own - bare_mean(model, config, of_task) if form == "difference" else own
    if arm != "random":
        return own
    rng = np.random.default_rng(stable_draw(config.seed, (task, form), 2**31))
    noise = mx.array(rng.normal(size=tuple(own.shape)).astype(np.float32))
    return noise * (mx.linalg.norm(own, axis=-1, keepdims=True) / mx.linalg.norm(noise, axis=-1, keepdims=True))


def grid_items(model: Model, config: Config, earlier: Records) -> list[Query]:
    known = {query.key: query for query in base_items(model, config, earlier)}
    return [known[r["item"]] for r in solved(earlier)]


def measure_grid(model: Model, query: Query, config: Config) -> Iterator[Record]:
    """Every form, arm, layer and strength on one bare query: one sweep."""
    asked = prompts(model, config, query, 1)["no examples"]
    cells = [
        (form, arm, layer, strength)
        for form in FORMS
        for arm in ARMS
        for layer in range(model.n_layers)
        for strength in config.strengths
    ]
    held = {(form, arm): vector(model, config, query.task, form, arm) for form in FORMS for arm in ARMS}
    variants: list[list[Intervention]] = [
        [Add(f"resid_post.{layer}", held[form, arm][layer], strength, -1)] for form, arm, layer, strength in cells
    ]
    scores = np.asarray(model.sweep(asked.prompt, variants, metric=answer_scores(asked.first_tokens)))
    for (form, arm, layer, strength), (rank, log_prob) in zip(cells, scores, strict=True):
        yield {
            "task": query.task,
            "form": form,
            "arm": arm,
            "layer": layer,
            "strength": strength,
            "half": "choose" if query.number % 2 else "report",
            "right": int(rank) == 0,
            "log_prob": float(log_prob),
        }


def best(records: Records, form: str) -> tuple[int, float] | None:
    """Layer and strength of the own vector with the most right answers on the choosing half."""
    hits: dict[tuple[int, float], list[bool]] = {}
    for r in of(records, GRID, form=form, arm="own", half="choose"):
        hits.setdefault((r["layer"], r["strength"]), []).append(bool(r["right"]))
    rates = {cell: sum(values) / len(values) for cell, values in hits.items()}
    return max(rates, key=lambda cell: (round(rates[cell], 9), -cell[1], -cell[0])) if rates else None


def context_items(model: Model, config: Config, earlier: Records) -> list[Query]:
    """Held-out queries of tasks that there are sentences for, some of each."""
    kept: dict[str, list[Query]] = {}
    for query in grid_items(model, config, earlier):
        kept.setdefault(query.task, []).append(query)
    return [query for task, own in kept.items() for query in own[:PER_TASK] if sentences(model, config, task)]


def measure_context(model: Model, query: Query, config: Config) -> Iterator[Record]:
    """Five tokens after each sentence, the difference vector added a third of the way up at every step."""
    x, y = of_tasks.halves(model, config, query.task)[1].pairs[query.number]
    layer = round(model.n_layers / 3)
    for sentence in sentences(model, config, query.task):
        variants: list[list[Intervention]] = [[]]
        for arm in ARMS:
            held = vector(model, config, query.task, "difference", arm)[layer]
            site = f"resid_post.{layer}"
            variants.append([Add(site, held, 1.0, -1), Add(site, held, 1.0, "generated")])
        written = model.sweep_generate(sentence.format(x), variants, max_tokens=NEW_TOKENS)
        for arm, text in zip(("nothing", *ARMS), written, strict=True):
            yield {"task": query.task, "sentence": sentence, "arm": arm, "right": said(text.text, y)}


def grid_table(records: Records, config: Config) -> Table:
    """Both forms at their best layer and strength."""
    base = {r["item"]: r for r in of(records, BASE, prompt="no examples")}
    rows: list[list[Cell]] = []
    for form in FORMS:
        cell = best(records, form)
        if cell is None:
            continue
        for name in [*dict.fromkeys(r["task"] for r in of(records, GRID)), "all"]:
            own = [
                r
                for r in of(records, GRID, form=form, layer=cell[0], strength=cell[1], half="report")
                if name in (r["task"], "all")
            ]
            arms = [[r for r in own if r["arm"] == arm] for arm in ARMS]
            plain = [{**base[r["item"]]} for r in arms[0]]
            rows.append(
                [form, name, *cell, len(plain), rate(plain, config.seed), *(rate(arm, config.seed) for arm in arms)]
            )
    return Table(
        "A layer's vector instead of examples",
        [
            *("form", "task", "layer", Column("strength", digits=1), "n"),
            *(Column(name, "%") for name in ("nothing", *ARMS)),
        ],
        rows,
        [
            "Layer and strength are chosen over all tasks on the other half of the queries. Test set: queries right "
            f"with examples. Reported for this form: {REPORTED}; not measured here.",
        ],
    )


def context_table(records: Records, config: Config) -> Table | None:
    """Answers in unrelated sentences."""
    found = of(records, CONTEXT)
    if not found:
        return None
    rows: list[list[Cell]] = []
    for sentence in [*dict.fromkeys(r["sentence"] for r in found), "all"]:
        own = [r for r in found if sentence in (r["sentence"], "all")]
        arms = [[r for r in own if r["arm"] == arm] for arm in ("nothing", *ARMS)]
        rows.append([sentence, len(arms[0]), *(rate(arm, config.seed) for arm in arms)])
    return Table(
        "Answers in unrelated sentences",
        ["sentence", "n", *(Column(arm, "%") for arm in ("nothing", *ARMS))],
        rows,
        [
            "Share of continuations of five tokens that contain the task's answer as whole words, in its own case; the "
            "difference is added a third of the way up, at the sentence's last token and at every new one."
        ],
    )


def heat(records: Records, config: Config) -> Iterator[Plot]:
    """Accuracy by layer and strength, own vector beside its controls."""
    for form in FORMS:
        own = of(records, GRID, form=form)
        layers = sorted({r["layer"] for r in own})
        if not layers:
            continue
        panels = []
        for arm in ARMS:
            cells: dict[tuple[float, int], list[bool]] = {}
            for r in own:
                if r["arm"] == arm:
                    cells.setdefault((r["strength"], r["layer"]), []).append(r["right"])
            shares = {cell: sum(values) / len(values) for cell, values in cells.items()}
            panels.append(Panel(arm, [[shares.get((s, at)) for at in layers] for s in config.strengths]))
        yield heat_map(
            panels,
            name=f"{form}_by_layer_and_strength",
            title=f"The {form} of a layer, added",
            x_label="layer (output)",
            y_label="strength",
            value_label="right (share of queries)",
            caption=f"Share of bare queries right when the {form} of a layer is added there, over all tasks, by layer "
            "and strength; beside it another task's vector and a random one of the same length.",
            y_ticks=[f"{s:g}" for s in config.strengths],
            limits=(0, 1),
        )


def headline(records: Records, config: Config) -> str:
    parts = []
    for row in grid_table(records, config).rows:
        if row[1] == "all" and isinstance(row[6], Estimate) and isinstance(row[5], Estimate):
            parts.append(f"{row[0]}: {row[6].text(percent=True)} % right against {row[5].text(percent=True)} % without")
    return "; ".join(parts) or "too few queries are right with examples"


def metrics(records: Records, config: Config) -> list[Metric]:
    rows = [row for row in grid_table(records, config).rows if row[1] == "all"]
    return [Metric(f"right with the {row[0]}", "%", row[6] if isinstance(row[6], Estimate) else None) for row in rows]


def plan(model: Model, items: Sequence[Query], config: Config) -> Plan:
    cells = len(FORMS) * len(ARMS) * model.n_layers * len(config.strengths)
    n_tasks = len(of_tasks.tasks(model, config))
    longest = max((prompts(model, config, query, 1)["examples"].prompt for query in items), key=len)
    memory = model.weight_bytes + model.memory(longest, capture=["z", "head_out", "resid_post"])
    return Plan(len(items), cells * len(items), float(n_tasks * config.n_means + 6 * len(items)), memory)


EXPERIMENT = Experiment(
    name="exp8_function_vectors",
    config=Config,
    stages=[
        Stage(BASE, base_items, measure_base, batch=16),
        Stage(GRID, grid_items, measure_grid),
        Stage(CONTEXT, context_items, measure_context),
    ],
    tables=[grid_table, context_table],
    figures=[heat],
    headline=headline,
    plan=plan,
    group=lambda query: query.task,
    scaling=metrics,
)
