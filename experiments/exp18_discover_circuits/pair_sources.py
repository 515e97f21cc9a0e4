"""Where exp18's pairs are from: the embedded world, a file of pairs, or two classes of prompts that are matched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from experiments.exp18_discover_circuits.circuit_tasks import candidates
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

REQUESTS = ("refusal", "toxic", "safe")
"""Tasks that toxic and safe prompts are matched for."""
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


def task_names(source: Source, tasks: Sequence[str]) -> tuple[str, ...]:
    """What circuits are for: the tasks asked for, or a file's categories. Raises ConfigError, DataError."""
    if source.data and (source.toxic or source.safe):
        raise ConfigError("data=... is a file of pairs, toxic= and safe= are two of prompts: give one or the other")
    if source.data:
        return tuple(dict.fromkeys(row.category for row in read_pair_rows(source.data)))
    if not (source.toxic or source.safe):
        return tuple(tasks)
    if not (source.toxic and source.safe):
        raise ConfigError("toxic= and safe= belong together: prompts of the one are matched with those of the other")
    return tuple(task for task in tasks if task in REQUESTS)


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
    of = "toxic" if task == "safe" and source.toxic else task  # as many matches, and no model asked what it says
    return min(n, len(_made(model, source, of, LOOKED_AT * n, seed)[0]))


def _made(model: Model, source: Source, task: str, most: int, seed: int) -> tuple[list[Pair], int]:
    if source.data:
        rows = [row for row in read_pair_rows(source.data) if row.category == task]
        return made_pairs(model, rows, chat=source.chat, unequal=source.unequal)
    if source.toxic:
        return list(request_pairs(model, source, task, most, seed)), 0
    if model.name not in EMBEDDED:
        raise DataError(
            f"exp18 knows pairs of prompts for embedded models ({', '.join(EMBEDDED)}); for {model.name} give a file "
            "of pairs (data=FILE) or two of prompts (toxic=, safe=)"
        )
    return list(candidates(model, task)), 0  # type: ignore[arg-type]


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
    """Prompts of a file, of a data set of the Hub (owner/name:subset), or of the world (world:category)."""
    name, _, part = text.partition(":")
    if name != "world":
        return prompt_rows(name, subset=part)
    found = [PromptRow(row.key, row.text, "", row.chat) for row in world_rows() if row.category == part]
    if not found:
        raise DataError(f"the embedded world has no category {part!r}: there are harmful and harmless")
    return found
