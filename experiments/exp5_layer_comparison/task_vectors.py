"""Function vectors of in-context tasks, added at every layer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypedDict

from experiments.exp5_layer_comparison.phenomena import VECTOR, PhenomenaConfig
from experiments.harness.experiment import Records
from experiments.harness.frame import spread
from experiments.harness.state import Run
from experiments.shared.in_context import tasks as of_tasks
from experiments.shared.in_context.tasks import TaskConfig
from experiments.shared.traits.stages import Item
from mlx_interp.behaviour.answers import answer_scores, question
from mlx_interp.errors import DataError
from mlx_interp.in_context.function_vectors import function_vector
from mlx_interp.interventions import Add, Intervention


def tasks_of(run: Run[PhenomenaConfig], earlier: Records) -> list[Item]:
    """Tasks, evenly over those that there are."""
    names = list(of_tasks.tasks(run.under(TaskConfig(seed=run.config.seed))))
    return [Item(name, VECTOR, name) for name in spread(names, run.config.max_tasks)]


class Carried(TypedDict):
    """Whether a task's function vector, added at one layer, does the task on one bare query."""

    unit: str
    arm: str
    """none, direction (the vector), or shuffled labels (as many heads drawn at random)."""
    layer: int | None
    hit: bool


def measure_vector(run: Run[PhenomenaConfig], item: Item) -> Iterator[Carried]:
    """A task's function vector, from one half of its pairs, added to bare queries of the other at every layer."""
    model, config = run.model, run.config
    setting = TaskConfig(seed=config.seed)
    extract, held_out = of_tasks.halves(run.under(setting), item.kind)
    shape = of_tasks.template(run.under(setting))
    others = [task for name, task in of_tasks.tasks(run.under(setting)).items() if name != item.kind]
    try:
        found = function_vector(
            model,
            extract,
            n_heads=config.n_heads,
            n_shots=of_tasks.n_shots(run.under(setting)),
            n_prompts=setting.n_effects,
            template=shape,
            corruption=of_tasks.how(run.under(setting)),
            foreign=[answer for task in others for _, answer in task.pairs],
            seed=config.seed,
        )
    except DataError:
        return  # a task that the model does not do has no vector
    layers = range(1, model.n_layers)
    arms = {"direction": found.vector, "shuffled labels": found.nulls["random heads"]}
    cells: list[tuple[str, int | None]] = [("none", None), *((arm, layer) for arm in arms for layer in layers)]
    variants: list[list[Intervention]] = [[]]
    variants += [[Add(f"resid_pre.{layer}", vector, 1.0, -1)] for vector in arms.values() for layer in layers]
    for word, answer in held_out.pairs[: config.queries_per_task]:
        asked = question(model, shape.prompt([], word), [answer])
        scores = model.sweep(asked.prompt, variants, metric=answer_scores(asked.first_tokens))
        for (arm, layer), score in zip(cells, scores, strict=True):
            yield {"unit": f"{item.kind}: {word}", "arm": arm, "layer": layer, "hit": int(score[0]) == 0}
