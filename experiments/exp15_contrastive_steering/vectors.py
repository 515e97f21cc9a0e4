"""Vectors of the study: differences of two sets' means, and the controls that they are held against."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Literal

import numpy as np

from experiments.exp15_contrastive_steering.chats import Chat
from experiments.exp15_contrastive_steering.request_sources import Subset
from experiments.exp15_contrastive_steering.settings import ContrastiveConfig, setting
from experiments.harness.state import Run, of_run
from mlx_interp.controls import orthogonal_to, random_like
from mlx_interp.deferred import jinja2
from mlx_interp.directions.direction_test import DifferenceTest, difference_test
from mlx_interp.directions.state_sets import Row, Rule, mean, set_states
from mlx_interp.directions.states import rounding
from mlx_interp.errors import DataError, PromptError
from mlx_interp.loading.cache_folder import cache_folder
from mlx_interp.model import Model
from mlx_interp.prompts import Prompt
from mlx_interp.stats.distance import LEVEL

STATES = "states"
"""Folder of the cache."""
DRAWS = 20
"""Random halves of a set."""
PARALLEL, EQUAL = 0.99, 0.02
"""Cosine of two means, and relative difference of their lengths, at which a warning is given."""


@of_run(128)
def states(run: Run[ContrastiveConfig], key: str, rule: Rule, part: Literal["fit", "held"]) -> np.ndarray:
    """(n, n_layers, d_model): a subset's rows, from the cache where they were read before."""
    own = setting(run).subset(key)
    rows = usable(run, own, part)
    if len(rows) < 4:
        raise DataError(
            f"subset {key!r} ({own.name}): {len(rows)} rows of at most {run.config.longest} tokens; "
            "give a larger --longest"
        )
    return set_states(run.model, rows, rule, folder=cache_folder() / STATES, name=f"{own.name}, {part}")


def usable(run: Run[ContrastiveConfig], own: Subset, part: str) -> list[Row]:
    """Rows whose prompts are not too long, through the template."""
    rows = [Row(chat.id, rendered(run.model, chat), chat.reply) for chat in getattr(own, part)]
    return [row for row in rows if len(row.prompt) <= run.config.longest]


def rendered(model: Model, chat: Chat) -> Prompt:
    """The prompt through the chat template, with the generation prompt; plain for a model without template."""
    if not getattr(model.tokenizer, "chat_template", None):
        return model.prompt("\n\n".join(text for text in (chat.system, chat.prompt) if text))
    if not chat.system:
        return model.prompt(chat.prompt, chat=True)
    try:
        return model.prompt(chat.prompt, chat=True, system=chat.system)
    except (jinja2.TemplateError, PromptError):  # some templates know no system turn
        return model.prompt(f"{chat.system}\n\n{chat.prompt}", chat=True)


def difference(run: Run[ContrastiveConfig], target: str, baselines: Sequence[str], rule: Rule) -> np.ndarray:
    """(n_layers, d_model), float32: mean of the target minus mean of the baseline, or of several baselines' means."""
    below = np.mean([mean(states(run, key, rule, "fit")).astype(np.float64) for key in baselines], axis=0)
    return np.asarray(mean(states(run, target, rule, "fit")) - below, np.float32)


def halves(rows: np.ndarray, seed: int, draws: int = DRAWS) -> np.ndarray:
    """(draws, n_layers, d_model): differences of the means of random halves of one set: what no contrast is."""
    found = []
    for draw in range(draws):
        order = np.random.default_rng([seed, draw]).permutation(len(rows))
        first, second = rows[order[: len(rows) // 2]], rows[order[len(rows) // 2 :]]
        found.append(mean(first) - mean(second))
    return np.stack(found)


def length_removed(run: Run[ContrastiveConfig], vector: np.ndarray, layer: int) -> np.ndarray:
    """A vector (d_model,) without what its layer's states have to do with the log-length of the prompt, within sets."""
    of = setting(run)
    pairs = []
    for own in (of.target, of.baseline):
        rows = states(run, own.key, run.config.rule, "fit")[:, layer].astype(np.float64)
        lengths = np.log([len(row.prompt) for row in usable(run, own, "fit")])
        pairs.append((rows - rows.mean(axis=0), lengths - lengths.mean()))
    x, y = (np.concatenate(part) for part in zip(*pairs, strict=True))
    direction = y @ x
    return np.asarray(orthogonal_to(vector, direction) if direction.any() else vector, np.float32)


def random_vector(config: ContrastiveConfig, layer: int, like: np.ndarray) -> np.ndarray:
    """(d_model,): a random direction of the same length."""
    return np.asarray(random_like(like, seed=config.seed, key=("contrastive", layer)), np.float32)


def at_length(vector: np.ndarray, like: np.ndarray) -> np.ndarray:
    """A vector at the length of another."""
    return np.asarray(vector * (np.linalg.norm(like) / max(float(np.linalg.norm(vector)), 1e-12)), np.float32)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    length = float(np.linalg.norm(a)) * float(np.linalg.norm(b))
    return float(np.dot(a.astype(np.float64), b)) / length if length else 0.0


def too_alike(target: np.ndarray, baseline: np.ndarray) -> bool:
    """Whether two means (d_model,) are nearly parallel and of nearly equal length; equal lengths alone say nothing."""
    ratio = float(np.linalg.norm(target)) / max(float(np.linalg.norm(baseline)), 1e-12)
    return cosine(target, baseline) >= PARALLEL and abs(ratio - 1) <= EQUAL


@of_run(8)
def warned(run: Run[ContrastiveConfig]) -> tuple[str, ...]:
    """Warnings about the pair, said once on the screen and in the table: means that are alike, a difference that is
    not told from chance.
    """
    of = setting(run)
    above, below = (states(run, one.key, run.config.rule, "fit") for one in (of.target, of.baseline))
    found = []
    p_values = tested(run, of.target.key, of.baseline.key).p_values
    for layer in of.layers:
        means = mean(above)[layer], mean(below)[layer]
        if too_alike(*means):
            found.append(
                f"layer {layer}: the means of {of.target.name} and {of.baseline.name} are nearly parallel (cosine "
                f"{cosine(*means):.4f}) and of equal length: their difference may say little about either"
            )
        if p_values[layer] > LEVEL:
            found.append(
                f"layer {layer}: the difference is not told from chance (p = {p_values[layer]:.3f}; n = {len(above)} + "
                f"{len(below)})"
            )
    for text in found:
        print(f"warning: {text}", file=sys.stderr)
    return tuple(found)


@of_run(64)
def tested(run: Run[ContrastiveConfig], target: str, baseline: str) -> DifferenceTest:
    """Whether two subsets differ by more than chance, over all layers."""
    above, below = (states(run, key, run.config.rule, "fit") for key in (target, baseline))
    stream = np.linalg.norm(np.concatenate([above, below]).astype(np.float64), axis=-1).mean(axis=0)
    return difference_test(above, below, rounding(run.model) * stream, seed=run.config.seed)


def floors(run: Run[ContrastiveConfig], key: str) -> np.ndarray:
    """(n_layers,): 95th percentile of the length of differences of random halves of one subset."""
    apart = halves(states(run, key, run.config.rule, "fit"), run.config.seed)
    return np.asarray(np.percentile(np.linalg.norm(apart, axis=-1), 95, axis=0))
