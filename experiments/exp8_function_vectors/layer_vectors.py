"""Function vectors of whole layers: the mean state over in-context prompts, or its difference from bare prompts."""

from __future__ import annotations

from dataclasses import dataclass

from experiments.harness.state import Run, of_run
from experiments.shared.in_context import tasks as of_tasks
from experiments.shared.in_context.tasks import TaskConfig, means, other_task
from mlx_interp.controls import random_like
from mlx_interp.deferred import mx
from mlx_interp.in_context.function_vectors import head_means

FORMS = ("mean", "difference")
ARMS = ("own", "other task", "random")


@dataclass(frozen=True)
class VectorConfig(TaskConfig):
    """Fields of the study."""

    strengths: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Multiples of the vector that are added."""


@of_run(64)
def bare_mean(run: Run[VectorConfig], name: str) -> mx.array:
    """(n_layers, d_model): mean state at the last token of bare queries of the first half."""
    task, shape = of_tasks.halves(run, name)[0], of_tasks.template(run)
    return head_means(run.model, [run.model.prompt(shape.prompt([], x)) for x, _ in task.pairs]).resid_post


def vector(run: Run[VectorConfig], task: str, form: str, arm: str) -> mx.array:
    """(n_layers, d_model): a form of a task's vector at every layer, or a control of the same lengths."""
    names = list(of_tasks.tasks(run))
    of_task = other_task(names, task) if arm == "other task" else task
    own = means(run, of_task).resid_post
    own = own - bare_mean(run, of_task) if form == "difference" else own
    return random_like(own, seed=run.seed, key=(task, form)) if arm == "random" else own
