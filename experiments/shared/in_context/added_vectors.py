"""Function vectors added: the sum of the chosen heads' means, and its controls, at every layer and at the chosen
setting; and what the model then answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypedDict

import numpy as np

from experiments.harness.state import Run, of_run
from experiments.shared.in_context import tasks as of_tasks
from experiments.shared.in_context.mediation import (
    ARMS,
    LAYER,
    NOISE,
    OTHER,
    OTHERS,
    OWN,
    PAPER,
    PLAIN,
    RANDOM,
    SHAM,
    VARIANTS,
    VECTOR,
    Item,
    MediationConfig,
    Setting,
    task_vector,
)
from experiments.shared.in_context.tasks import means, other_task, prompts
from mlx_interp.behaviour.answers import answer_scores, name_scores
from mlx_interp.controls import random_like
from mlx_interp.deferred import mx
from mlx_interp.in_context.function_vectors import Head, random_heads
from mlx_interp.interventions import Add, Intervention
from mlx_interp.stats import stable_draw


def vectors(run: Run[MediationConfig], item: Item) -> dict[str, mx.array]:
    """The function vector and its controls, by arm; the layer mean depends on the layer and is not here."""
    return _vectors(run, item.task, item.ranked, item.own, item.others, *item.settings)


@of_run(64)
def _vectors(
    run: Run[MediationConfig],
    task: str,
    order: tuple[Head, ...],
    own: tuple[Head, ...],
    others: tuple[Head, ...],
    chosen: Setting,
    paper: Setting,
    plain: Setting,
) -> dict[str, mx.array]:
    names = list(of_tasks.tasks(run))
    rng = np.random.default_rng(stable_draw(run.config.seed, task, 2**31))
    heads, centred = order[: chosen.k], chosen.centred
    random = tuple(random_heads((run.model.n_layers, run.model.n_heads), chosen.k, heads, rng))
    vector = task_vector(run, task, heads, centred)
    return {
        VECTOR: vector,
        PAPER: task_vector(run, task, order[: paper.k], False),
        RANDOM: task_vector(run, task, random, centred),
        NOISE: random_like(vector, seed=rng),
        OTHER: task_vector(run, other_task(names, task), heads, centred),
        PLAIN: task_vector(run, task, order[: plain.k], False),
        OWN: task_vector(run, task, own[: chosen.k], centred),
        OTHERS: task_vector(run, task, others[: chosen.k], centred),
        SHAM: task_vector(run, task, heads, centred, "corrupted"),
    }


def addition(run: Run[MediationConfig], item: Item, arm: str, layer: int | None = None, at: int = -1) -> Add:
    """An arm's vector at its setting's layer and strength, or at another layer; a layer's mean is added once."""
    setting = {PAPER: item.paper, PLAIN: item.plain}.get(arm, item.chosen)
    where = setting.layer if layer is None else layer
    if arm == LAYER:
        return Add(f"resid_post.{where}", means(run, item.task).resid_post[where], 1.0, at)
    return Add(f"resid_post.{where}", vectors(run, item)[arm], setting.strength, at)


def with_nothing(*additions: Add) -> list[list[Intervention]]:
    """Variants of a sweep: the clean prompt, then each addition alone."""
    return [[], *([one] for one in additions)]  # type: ignore[list-item]


class Added(TypedDict):
    """One arm added at every layer to one prompt."""

    task: str
    prompt: str
    """no examples or corrupted."""
    arm: str
    right: list[bool]
    """By layer."""


def measure_added(run: Run[MediationConfig], item: Item) -> Iterator[Added]:
    """Every arm at every layer, on the bare query and on the corrupted prompt: two sweeps."""
    asked = prompts(run, item.query, 1)
    cells = [(arm, layer) for arm in ARMS for layer in range(run.model.n_layers)]
    for kind in ("no examples", "corrupted"):
        variants: list[list[Intervention]] = [[addition(run, item, arm, layer)] for arm, layer in cells]
        scores = np.asarray(
            run.model.sweep(asked[kind].prompt, variants, metric=answer_scores(asked[kind].first_tokens))
        )
        for arm in ARMS:
            right = [int(s[0]) == 0 for s, cell in zip(scores, cells, strict=True) if cell[0] == arm]
            yield {"task": item.task, "prompt": kind, "arm": arm, "right": right}


class Answered(TypedDict):
    """The answer to one prompt, with one arm added at its setting."""

    task: str
    prompt: str
    """no examples or corrupted."""
    arm: str
    right: bool
    rank: int
    """Of the answer's first token, 0 on top."""
    whole: bool
    """Whether the whole answer is written, greedily."""
    log_prob: float
    """Of the whole answer, nats."""


def measure_answers(run: Run[MediationConfig], item: Item) -> Iterator[Answered]:
    """Every arm at its setting: rank of the first token, and the whole answer."""
    asked = prompts(run, item.query, 1)
    for kind in ("no examples", "corrupted"):
        last = len(asked[kind].prompt) - 1
        variants = with_nothing(*(addition(run, item, arm, at=last) for arm in VARIANTS))
        scores = np.asarray(name_scores(run.model, asked[kind], variants))
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
