"""Layer vectors in sentences that do not ask for the task."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypedDict

from experiments.exp8_function_vectors.layer_vectors import ARMS, VectorConfig, vector
from experiments.exp8_function_vectors.strength_grid import grid_items
from experiments.harness.experiment import Records
from experiments.harness.frame import of
from experiments.harness.state import Run
from experiments.shared.in_context import tasks as of_tasks
from experiments.shared.in_context.screening import rate
from experiments.shared.in_context.tasks import Query
from experiments.shared.in_context.transfer import PER_TASK, said, sentences
from mlx_interp.interventions import Add, Intervention
from mlx_interp.reporting import Cell, Column, Table

CONTEXT = "unrelated sentences"
NEW_TOKENS = 5


def context_items(run: Run[VectorConfig], earlier: Records) -> list[Query]:
    """Held-out queries of tasks that there are sentences for, some of each."""
    kept: dict[str, list[Query]] = {}
    for query in grid_items(run, earlier):
        kept.setdefault(query.task, []).append(query)
    return [query for task, own in kept.items() for query in own[:PER_TASK] if sentences(run, task)]


class Continued(TypedDict):
    """What follows a sentence that does not ask for the task, with a layer's vector added."""

    task: str
    sentence: str
    arm: str
    right: bool
    """Whether it contains the task's answer."""


def measure_context(run: Run[VectorConfig], query: Query) -> Iterator[Continued]:
    """Five tokens after each sentence, the difference vector added a third of the way up at every step."""
    x, y = of_tasks.halves(run, query.task)[1].pairs[query.number]
    layer = round(run.model.n_layers / 3)
    for sentence in sentences(run, query.task):
        variants: list[list[Intervention]] = [[]]
        for arm in ARMS:
            held = vector(run, query.task, "difference", arm)[layer]
            site = f"resid_post.{layer}"
            variants.append([Add(site, held, 1.0, -1), Add(site, held, 1.0, "generated")])
        written = run.model.sweep_generate(sentence.format(x), variants, max_tokens=NEW_TOKENS)
        for arm, text in zip(("nothing", *ARMS), written, strict=True):
            yield {"task": query.task, "sentence": sentence, "arm": arm, "right": said(text.text, y)}


def context_table(records: Records, config: VectorConfig) -> Table | None:
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
