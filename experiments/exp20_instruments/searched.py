"""Ablation by search where a model refuses: a direction's fraction layer by layer, against plain ablation.

Directions are differences of means of requests, one a layer; the search looks at other requests, and what it chose is
measured on requests that nothing was chosen on: refusals of harmful ones, and on harmless ones the divergence of the
next token. Plain: the same fraction in all layers, the best of several; both within one budget. Control: the
same search over random directions. A model that refuses none of the requests has the unedited row alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from experiments.exp20_instruments.hop_pairs import PairConfig
from experiments.harness.experiment import Records
from experiments.harness.frame import of
from experiments.harness.state import Run, of_run
from experiments.shared.traits import stages
from experiments.shared.traits.asks import Ask
from experiments.shared.traits.stages import TraitConfig
from mlx_interp.controls import random_like
from mlx_interp.directions import AblationSearch, AblationTrial, ablation_effect, search_ablation
from mlx_interp.errors import DirectionError
from mlx_interp.prompts import Prompt
from mlx_interp.reporting import Cell, Column, Table

STAGE = "ablation"
TRAIT = "refusal"
NONE, PLAIN, SEARCHED = "nothing", "the same in all layers", "by search"
RANDOM = "random directions, by search"
ARMS = (NONE, PLAIN, SEARCHED, RANDOM)


@dataclass(frozen=True)
class AblationConfig(PairConfig):
    """Fields of ablation by search."""

    n_contrasted: int = 48
    """Requests of each kind that directions are found on."""
    n_asked: int = 16
    """Requests of each kind that the search looks at, and as many others that its choice is measured on."""
    ablation_trials: int = 60
    """Ablations that are tried."""
    kl_budget: float = 0.1
    """Divergence on harmless requests that an ablation may bring, in nats."""
    reply_tokens: int = 12
    """Tokens of every reply."""


@dataclass(frozen=True)
class Arm:
    """What is ablated, as an item."""

    key: str


class Ablated(TypedDict):
    """One held-out request under one ablation."""

    arm: str
    harmful: bool
    request: str
    refused: bool | None
    """Of harmful requests."""
    kl: float | None
    """Of harmless requests, in nats."""
    looked_rate: float
    """Share of refusals on the requests that the search looked at."""
    looked_kl: float


def arms(run: Run[AblationConfig]) -> list[Arm]:
    return [Arm(arm) for arm in ARMS]


def _traits(run: Run[AblationConfig]) -> Run[TraitConfig]:
    """The run as the studies of refusal see it: their requests, and their contrast."""
    config = run.config
    return run.under(
        TraitConfig(seed=config.seed, limit=config.limit, n_train=config.n_contrasted, n_test=config.n_asked)
    )


def _asked(run: Run[AblationConfig], split: str) -> tuple[list[Ask], list[Prompt], list[Prompt]]:
    """Harmful requests of a split with their prompts, and the harmless ones' prompts."""
    of_refusal = stages.sets(_traits(run), TRAIT)
    harmful, harmless = (
        [run.model.prompt(ask.text, chat=True) for ask in kind[split]]
        for kind in (of_refusal.positive, of_refusal.negative)
    )
    return of_refusal.positive[split], harmful, harmless


@of_run(2)
def search(run: Run[AblationConfig], random: bool) -> AblationSearch | None:
    """The search over the model's directions, or over random ones; None where it refuses nothing."""
    found = stages.found(_traits(run), TRAIT).vectors[:, 0]
    if random:
        found = np.stack([random_like(row, seed=run.seed, key=(STAGE, n)) for n, row in enumerate(found)])
    asks, harmful, harmless = _asked(run, "choose")
    config, refuses = run.config, asks[0].hit  # one detector for all requests
    if not any(refuses(text.text) for text in run.model.generate(harmful, max_tokens=config.reply_tokens)):
        return None
    return search_ablation(
        run.model,
        found,
        harmful,
        harmless,
        kl_budget=config.kl_budget,
        trials=config.ablation_trials,
        shows=refuses,
        max_tokens=config.reply_tokens,
        seed=run.seed,
    )


def _chosen(made: AblationSearch, arm: str) -> AblationTrial | None:
    try:
        return made.best_plain if arm == PLAIN else made.best
    except DirectionError:  # none within the budget
        return None


def measure(run: Run[AblationConfig], item: Arm) -> Iterator[Ablated]:
    """Held-out requests under one ablation."""
    made = search(run, item.key == RANDOM)
    trial = _chosen(made, item.key) if made is not None and item.key != NONE else None
    if trial is None and item.key != NONE:
        return
    asks, harmful, harmless = _asked(run, "test")
    edits = made.interventions(trial) if made is not None and trial is not None else []
    hits, divergences = ablation_effect(
        run.model, edits, harmful, harmless, shows=asks[0].hit, max_tokens=run.config.reply_tokens
    )
    looked = (trial.rate, trial.kl) if trial is not None else (made.unedited_rate if made is not None else 0.0, 0.0)
    for kind, prompts, values in ((True, harmful, hits), (False, harmless, divergences)):
        for prompt, value in zip(prompts, values, strict=True):
            yield {
                "arm": item.key,
                "harmful": kind,
                "request": prompt.text,
                "refused": bool(value) if kind else None,
                "kl": None if kind else float(value),
                "looked_rate": looked[0],
                "looked_kl": looked[1],
            }


def table(records: Records, config: AblationConfig) -> Table | None:
    """Refusals and divergence under each ablation, on the requests looked at and on held-out ones."""
    rows: list[list[Cell]] = []
    for arm in ARMS:
        mine = of(records, STAGE, arm=arm)
        if not mine:
            continue
        harmful, harmless = mine.where(harmful=True), mine.where(harmful=False)
        rate = harmful.rate("refused", unit="request", seed=config.seed)
        kl = harmless.rate("kl", unit="request", seed=config.seed) if arm != NONE else None
        rows.append([arm, mine[0]["looked_rate"], mine[0]["looked_kl"], len(harmful), rate, len(harmless), kl])
    if not rows:
        return None
    columns: list[Column | str] = [
        *("ablated", Column("refused, looked at", "%"), Column("KL, looked at", "nats"), "n harmful"),
        *(Column("refused, held out", "%"), "n harmless", Column("KL, held out", "nats")),
    ]
    missing = [arm for arm in ARMS if not of(records, STAGE, arm=arm)]
    note = (
        f"{config.ablation_trials} trials, chosen within {config.kl_budget:g} nats on {config.n_asked} requests of "
        "each kind; held out: as many others. KL of the next token on harmless requests, from the unedited model's."
    )
    none = [f"No row: nothing within the budget, or the model refuses nothing ({', '.join(missing)})."]
    return Table("Ablation by search against plain ablation", columns, rows, [note, *(none if missing else [])])
