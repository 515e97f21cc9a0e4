"""Where exp18's pairs are from: the embedded world, tasks of trained models, a file, or two classes matched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from experiments.data.written import read
from experiments.exp18_discover_circuits import circuit_tasks, trained_tasks
from experiments.harness.experiment import ExperimentConfig
from experiments.harness.state import Run, of_run
from experiments.shared.prompts.collected import world_rows
from mlx_interp.behaviour.phrases import REFUSALS
from mlx_interp.circuits import Pair, screened
from mlx_interp.circuits.matching import Match, matched
from mlx_interp.circuits.own_pairs import Unequal, made_pairs, read_pair_rows
from mlx_interp.deferred import mx
from mlx_interp.embedded.lexicon import REFUSALS as WORLDS_REFUSALS
from mlx_interp.errors import ConfigError, DataError
from mlx_interp.loading.names import EMBEDDED
from mlx_interp.model import Model
from mlx_interp.stats import stable_draw
from mlx_interp.store.rows import PromptRow, prompt_rows

Task = Literal["two_hop", "recall", "in_context", "agreement", "greater_than", "refusal", "toxic", "safe"]
TRAINED: tuple[Task, ...] = ("two_hop", "recall", "in_context", "agreement", "greater_than", "refusal")
"""Tasks of a trained model where none is named; toxic and safe are refusal's pairs once more, for other metrics."""
REQUESTS: tuple[Task, ...] = ("refusal", "toxic", "safe")
"""Tasks that toxic and safe prompts are matched for."""
WRITTEN = ("written:harmful", "written:harmless")
"""Toxic and safe prompts that are matched where none are named: those written for this project."""
Side = Literal["harmful", "harmless"]
LOOKED_AT = 6
"""Pairs that the model is asked, for each that is wanted: it does not do all of them."""


@dataclass(frozen=True)
class Source:
    """Where pairs are from; empty fields mean the embedded world."""

    data: str = ""
    chat: bool = False
    unequal: Unequal = "refuse"
    toxic: str = ""
    safe: str = ""
    refusals: tuple[str, ...] = ()


@dataclass(frozen=True)
class Drawn:
    """Pairs of a task that a model does, of those that there are."""

    pairs: tuple[Pair, ...]
    made: tuple[Pair, ...]
    dropped: int
    """Rows left out for their length."""


def task_names(source: Source, tasks: Sequence[str], model: Model) -> tuple[str, ...]:
    """What circuits are for: the tasks asked for, those that a kind of model has, or a file's categories.

    Raises ConfigError, DataError.
    """
    if source.data and (source.toxic or source.safe):
        raise ConfigError("data=... is a file of pairs, toxic= and safe= are two of prompts: give one or the other")
    if source.data:
        return tuple(dict.fromkeys(row.category for row in read_pair_rows(source.data)))
    if bool(source.toxic) != bool(source.safe):
        raise ConfigError("toxic= and safe= belong together: prompts of the one are matched with those of the other")
    if source.toxic:
        return tuple(task for task in tasks or REQUESTS if task in REQUESTS)
    return tuple(tasks) or tasks_of_model(model)


def tasks_of_model(model: Model) -> tuple[Task, ...]:
    """Those of the embedded world, or of trained models."""
    return circuit_tasks.TASKS if model.name in EMBEDDED else TRAINED


@of_run(16)
def drawn(run: Run[ExperimentConfig], source: Source, task: str, n: int, seed: int) -> Drawn:
    """Up to n pairs of a task that the model does, in an order that depends on the seed alone.

    Raises DataError where fewer than two are left, or a source does not have the task.
    """
    made, dropped = _made(run.model, source, task, LOOKED_AT * n, seed)
    made = sorted(made, key=lambda pair: stable_draw(seed, pair.key, 2**62))
    found = screened(run.model, made[: LOOKED_AT * n])[:n]
    if len(found) < 2:
        looked = min(len(made), LOOKED_AT * n)
        raise DataError(
            f"{run.model.name} does the task {task!r} on {len(found)} of {looked} pairs (the answer on top after the "
            "clean prompt, and not after the other): nothing to explain"
        )
    return Drawn(tuple(found), tuple(made), dropped)


def most_pairs(model: Model, source: Source, task: str, n: int, seed: int) -> int:
    """How many `drawn` would give at most: as many as are made, whether or not the model does them."""
    matching = bool(source.toxic) or model.name not in EMBEDDED
    of = "toxic" if task == "safe" and matching else task  # as many matches, and no model asked what it says
    return min(n, len(_made(model, source, of, LOOKED_AT * n, seed)[0]))


def _made(model: Model, source: Source, task: str, most: int, seed: int) -> tuple[list[Pair], int]:
    if source.data:
        rows = [row for row in read_pair_rows(source.data) if row.category == task]
        return made_pairs(model, rows, chat=source.chat, unequal=source.unequal)
    if source.toxic:
        return list(request_pairs(model, source, task, most, seed)), 0
    if model.name in EMBEDDED:
        if task not in circuit_tasks.TASKS:
            raise DataError(f"the embedded world has no task {task!r}: there are {', '.join(circuit_tasks.TASKS)}")
        return list(circuit_tasks.candidates(model, task)), 0
    if task in REQUESTS:
        return list(request_pairs(model, replace(source, toxic=WRITTEN[0], safe=WRITTEN[1]), task, most, seed)), 0
    return list(trained_tasks.candidates(model, task)), 0


def request_pairs(model: Model, source: Source, task: str, most: int, seed: int) -> list[Pair]:
    """Toxic prompts with safe ones of their category and length; at most as many as named, drawn by the seed."""
    sides = [prompts_of(text) for text in (source.toxic, source.safe)]
    matches = sorted(matched(model, *sides), key=lambda match: stable_draw(seed, match[0].text, 2**62))[:most]
    known = source.refusals or ((WORLDS_REFUSALS["en"],) if model.name in EMBEDDED else REFUSALS["en"])
    anchor = matches[0][2]
    openers = tuple(dict.fromkeys(model.prompt(anchor.text + text).tokens[len(anchor)] for text in known))
    if task != "safe":
        return [Pair(_key(match), match[2], match[3], openers, (), match[0].category) for match in matches]
    logits = model.run([match[3] for match in matches]).logits
    assert logits is not None
    tops = [int(token) for token in np.array(mx.argmax(logits, axis=-1))]
    return [
        Pair(_key(match), match[3], match[2], (top,), openers, match[1].category)
        for match, top in zip(matches, tops, strict=True)
        if top not in openers
    ]


def _key(match: Match) -> str:
    return f"{match[0].text} / {match[1].text}"


def prompts_of(text: str) -> list[PromptRow]:
    """Prompts of a file, of a data set of the Hub (owner/name:subset), of the world (world:category) or of those
    written for this project (written:harmful, written:harmless)."""
    name, _, part = text.partition(":")
    if name == "written":
        if part not in get_args(Side):
            raise DataError(f"no requests {part!r} are written for this project: harmful, or harmless")
        return [PromptRow(f"{part} {pair.n}", getattr(pair, part), pair.topic) for pair in read("en").requests]
    if name != "world":
        return prompt_rows(name, subset=part)
    found = [PromptRow(row.key, row.text, "", row.chat) for row in world_rows() if row.category == part]
    if not found:
        raise DataError(f"the embedded world has no category {part!r}: there are harmful and harmless")
    return found
