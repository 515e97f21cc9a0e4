"""What a function vector says through the unembedding, and whether a vector that says the same does the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypedDict

import numpy as np

from experiments.harness.experiment import Records, Stage
from experiments.harness.state import Run
from experiments.shared.in_context import tasks as of_tasks
from experiments.shared.in_context.added_vectors import vectors
from experiments.shared.in_context.mediation import RANDOM, VECTOR, Item, MediationConfig, task_items
from experiments.shared.in_context.tasks import prompts
from mlx_interp.behaviour.answers import answer_scores, question
from mlx_interp.deferred import mx, optim
from mlx_interp.interventions import Add, Intervention
from mlx_interp.model import Model
from mlx_interp.stats import stable_draw

DECODED, REBUILT = "vocabulary", "rebuilt"
TOKENS, TOP = 8, 100
STEPS, RATE = 300, 0.5
HOW = {f"top {TOP} tokens": TOP, "whole vocabulary": 0}


def decoded_items(run: Run[MediationConfig], earlier: Records) -> list[Item]:
    return task_items(run, earlier)


class Decoded(TypedDict):
    """A vector through the last norm and the unembedding."""

    task: str
    arm: str
    tokens: list[str]
    """The likeliest, in order."""
    answers: int
    """How many of them begin an answer of the task."""


def measure_decoded(run: Run[MediationConfig], item: Item) -> Iterator[Decoded]:
    """The vector through the last norm and the unembedding: its top tokens, and how many of them are answers."""
    task = of_tasks.tasks(run)[item.task]
    shape = of_tasks.template(run)
    answers = {question(run.model, shape.prompt([], x), [y]).first_tokens[0] for x, y in task.pairs}
    for arm in (VECTOR, RANDOM):
        logits = run.model.unembed(vectors(run, item)[arm])
        top = np.argsort(-np.asarray(logits.astype(mx.float32)))[:TOKENS]
        words = [run.model.tokenizer.decode([int(token)]).strip() for token in top]
        yield {"task": item.task, "arm": arm, "tokens": words, "answers": sum(int(t) in answers for t in top)}


def rebuilt(model: Model, vector: mx.array, top: int, seed: int, steps: int = STEPS) -> tuple[mx.array, float]:
    """A vector from noise whose decoded distribution is that of `vector`, of the same length, and the KL left in nats.

    top: only this many tokens count, the rest of the target is zero; 0 for all. Adam on the cross-entropy, as in the
    paper's code, with fewer steps.
    """
    logits = model.unembed(vector).astype(mx.float32)
    if top and top < logits.size:
        logits = mx.where(logits >= mx.sort(logits)[-top], logits, -mx.inf)
    log_target = logits - mx.logsumexp(logits)
    target = mx.exp(log_target)
    rng = np.random.default_rng(seed)
    parameters = {"x": mx.array(rng.normal(size=vector.shape).astype(np.float32))}

    def loss(at: dict[str, mx.array]) -> mx.array:
        found = model.unembed(at["x"]).astype(mx.float32)
        return -mx.sum(target * (found - mx.logsumexp(found)))

    slope = mx.value_and_grad(loss)
    optimizer = optim.Adam(learning_rate=RATE)
    for _ in range(steps):
        _, slopes = slope(parameters)
        parameters = optimizer.apply_gradients(slopes, parameters)
        mx.eval(parameters, optimizer.state)
    entropy = -mx.sum(mx.where(target > 0, target * log_target, 0.0))
    made = parameters["x"]
    left = float(loss(parameters) - entropy)
    return made * (mx.linalg.norm(vector) / mx.linalg.norm(made)), left


class Rebuilt(TypedDict):
    """A bare query with a vector added that decodes as the function vector does."""

    task: str
    query: str
    arm: str
    right: bool
    kl: float
    """What is left of the divergence from the function vector's distribution, nats."""
    cosine: float
    """With the function vector."""


def measure_rebuilt(run: Run[MediationConfig], item: Item) -> Iterator[Rebuilt]:
    """A task's queries with vectors rebuilt from what its function vector decodes to."""
    vector = vectors(run, item)[VECTOR]
    site, strength = f"resid_post.{item.chosen.layer}", item.chosen.strength
    made = {
        how: rebuilt(run.model, vector, top, stable_draw(run.config.seed, (item.task, how), 2**31))
        for how, top in HOW.items()
    }
    cells = {VECTOR: vector, **{how: one for how, (one, _) in made.items()}}
    own = [query for query in of_tasks.queries(run, 1, run.config.n_test) if query.task == item.task]
    cosines = {
        how: float(mx.sum(one * vector) / mx.sum(vector * vector)) for how, one in cells.items()
    }  # equal lengths
    for query in own:
        asked = prompts(run, query, 1)["no examples"]
        variants: list[list[Intervention]] = [[Add(site, one, strength, -1)] for one in cells.values()]
        scores = np.asarray(run.model.sweep(asked.prompt, variants, metric=answer_scores(asked.first_tokens)))
        for arm, score in zip(cells, scores, strict=True):
            kl = made[arm][1] if arm in made else 0.0
            right = int(score[0]) == 0
            yield {
                "task": item.task,
                "query": query.key,
                "arm": arm,
                "right": right,
                "kl": kl,
                "cosine": cosines[arm],
            }


def solved_keys(records: Records) -> set[str]:
    return {r["item"] for r in records if r["stage"] == "base" and r["prompt"] == "examples" and r["right"]}


STAGES = (
    Stage(DECODED, decoded_items, measure_decoded, record=Decoded),
    Stage(REBUILT, decoded_items, measure_rebuilt, record=Rebuilt),
)
