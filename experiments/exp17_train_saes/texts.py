"""The texts of exp17: what autoencoders are trained on, what they are measured on, and tokens whose meaning is known.

Embedded models have their world's texts, all others this project's. Nothing that is measured was trained on: subjects
of two-hop facts are split in halves, requests as they are written in splits, and in-context prompts are drawn anew.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from experiments.exp17_train_saes import world_texts, written_texts
from experiments.exp17_train_saes.text_kinds import GROUPS, Labelled, Request, Source, Text, Token
from experiments.harness.experiment import ExperimentConfig
from experiments.harness.frame import spread
from experiments.harness.state import Run, of_run
from mlx_interp.loading.names import EMBEDDED
from mlx_interp.model import Model
from mlx_interp.prompts import Prompt
from mlx_interp.sae import activations

__all__ = ["GROUPS", "Labelled", "Text"]


def source(model: Model) -> Source:
    """Where a model's texts come from."""
    return world_texts if model.name in EMBEDDED else written_texts


@of_run(4)
def training_prompts(
    run: Run[ExperimentConfig], seed: int, n_tasks: int, only: str = "", most: int = 0
) -> tuple[Prompt, ...]:
    """Texts to train on; only: those of one group; most: of each group at most so many, 0 for all."""
    groups = source(run.model).training(run.model, seed, n_tasks)
    chosen = [spread(prompts, most or len(prompts)) for name, prompts in groups.items() if only in ("", name)]
    return tuple(prompt for prompts in chosen for prompt in prompts)


@of_run(4)
def measured_texts(run: Run[ExperimentConfig], seed: int, n: int) -> tuple[Text, ...]:
    """Texts to measure on, evenly from all groups, none of them trained on."""
    groups = source(run.model).measured(run.model, seed, n)
    rng = np.random.default_rng(seed)
    each = -(-n // len(groups))
    return tuple(group[i] for group in groups for i in sorted(rng.permutation(len(group))[:each]))


def labelled(run: Run[ExperimentConfig], group: str, most: int) -> Labelled:
    """Tokens of a group with their labels; at most `most` of each label."""
    seen: dict[tuple[str, str, bool], int] = {}
    kept = []
    for token in _tokens(run, group):
        cell = token[2:]
        seen[cell] = seen.get(cell, 0) + 1
        if seen[cell] <= most:
            kept.append(token)
    prompts, positions, labels, within, out = (list(column) for column in zip(*kept, strict=True))
    return Labelled(group, prompts, positions, labels, within, np.array(out))


def _tokens(run: Run[ExperimentConfig], group: str) -> list[Token]:
    """All tokens of a group; harm and language at the last token before the reply."""
    model, seed = run.model, run.config.seed
    if group == "entity":
        return source(model).entities(model, seed)
    if group == "task":
        return source(model).tasks(model, seed)
    return [
        (one.prompt, len(one.prompt) - 1, *_meant(one, group), one.held_out) for one in source(model).requests(model)
    ]


def _meant(one: Request, group: str) -> tuple[str, str]:
    """What a request's token stands for, and within what that is told apart."""
    return (one.language, "") if group == "language" else ("harmful" if one.harmful else "harmless", one.language)


def rows_of(model: Model, chosen: Labelled, site: str) -> npt.NDArray[np.float32]:
    """The activation of every labelled token, (n, width)."""
    order = sorted(range(len(chosen.prompts)), key=lambda i: len(chosen.prompts[i]))
    found: dict[int, npt.NDArray[np.float32]] = {}
    for start in range(0, len(order), 64):
        some = order[start : start + 64]
        out = np.asarray(model.run([chosen.prompts[i] for i in some], capture=[site], logits="none")[site])
        for row, i in enumerate(some):
            found[i] = out[row, chosen.positions[i]].reshape(-1).astype(np.float32)
    return np.stack([found[i] for i in range(len(order))])


@of_run(4)
def training_rows(
    run: Run[ExperimentConfig], site: str, seed: int, n_tasks: int, only: str = "", most: int = 0
) -> npt.NDArray[np.float32]:
    """Activations to train on, (n_tokens, width)."""
    return activations(run.model, training_prompts(run, seed, n_tasks, only, most), site)


@of_run(4)
def measured_rows(run: Run[ExperimentConfig], site: str, seed: int, n: int) -> npt.NDArray[np.float32]:
    """Activations to measure on, (n_tokens, width)."""
    return activations(run.model, [text.prompt for text in measured_texts(run, seed, n)], site)
